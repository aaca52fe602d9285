"""Working directories that no run can use, or of which it is not known whose they are."""

import pytest

from vlseg.checkpoints import runs
from vlseg.errors import ConfigError, StorageError
from vlseg.training import workdir


@pytest.mark.parametrize("name", [runs.MODEL, runs.LAST, runs.FROZEN, runs.STEPS])
def test_a_file_in_the_place_of_a_folder_is_told_at_once(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(StorageError, match=f"{name} is no folder"):
        workdir.check_place(tmp_path)


@pytest.mark.parametrize("name", [workdir.CONFIG_FILE, workdir.INPUTS_FILE, workdir.METRICS_FILE, runs.SUMMARY])
def test_a_folder_in_the_place_of_a_file_is_told_at_once(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=f"{name} is a folder, not a file"):
        workdir.check_place(tmp_path)


def test_checkpoints_without_settings_are_not_gone_on_with(tmp_path):
    (tmp_path / runs.STEPS / "7").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds checkpoints \(of step 7\) but no config.json"):
        workdir.open_workdir(tmp_path, {"steps": 9})
    assert not (tmp_path / workdir.CONFIG_FILE).exists()
