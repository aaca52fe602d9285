"""Training runs whose working directory is in a bucket."""

import json
import tempfile
import time
from pathlib import Path

import fsspec
import jax.numpy as jnp
import pytest

from tests.buckets import stand_in
from tests.vlseg.training.test_training import CONFIG, after, assert_identical, fresh, lines, step, stopped_at
from vlseg.errors import ConfigError, StorageError
from vlseg.training import telemetry
from vlseg.training.loop import NonFiniteLossError, Schedule, train
from vlseg.training.workdir import open_workdir

URL = "gs://bucket/runs/a"


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch) -> Path:
    """Where the objects of `URL` lie."""
    stand_in(tmp_path / "store", monkeypatch)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "store/bucket/runs/a"


def finished(workdir):
    """The steps of the checkpoints that are complete."""
    return sorted(int(path.parent.name) for path in (workdir / "checkpoints").glob("*/commit_success.txt"))


def recording(asked):
    def run(state, number):
        asked.append(number)
        return step(state, number)

    return run


def test_a_run_resumes(workdir, tmp_path):
    schedule = Schedule(8, 1, 3)
    with pytest.raises(InterruptedError):
        train(fresh(), stopped_at(5), URL, schedule, config={"learning_rate": 0.1})
    assert finished(workdir) == [3]
    (said,) = workdir.glob("checkpoints/3/_CHECKPOINT_METADATA")
    assert json.loads(said.read_text())["custom_metadata"]["config"] == {"learning_rate": 0.1}
    (events,) = workdir.glob("events.out.tfevents*")
    before = events.read_bytes()
    time.sleep(1 - time.time() % 1)  # TensorBoard's files are called by the second
    asked = []
    assert_identical(train(fresh(), recording(asked), URL, schedule), after(8))
    assert asked == [3, 4, 5, 6, 7]
    assert finished(workdir) == [6, 8]
    assert [line["step"] for line in lines(workdir)] == list(range(1, 9))
    assert events.read_bytes() == before and len(list(workdir.glob("events.out.tfevents*"))) == 2
    assert list((tmp_path / "temporary").iterdir()) == []


def test_half_written_checkpoints_are_ignored(workdir):
    train(fresh(), step, URL, Schedule(4, 1, 2))
    (workdir / "checkpoints/4/commit_success.txt").unlink()
    asked = []
    assert_identical(train(fresh(), recording(asked), URL, Schedule(4, 1, 2)), after(4))
    assert asked == [2, 3] and finished(workdir) == [2, 4]


@pytest.mark.parametrize(("checkpoint_every", "period"), [(3, 30), (9, 0)])
def test_lines_are_there_when_a_checkpoint_is_and_after_a_while(workdir, monkeypatch, checkpoint_every, period):
    """Whoever goes on after the process was killed finds them."""
    monkeypatch.setattr(telemetry, "_PERIOD", period)
    found = []

    def looking(state, number):
        if number == 3:
            found.extend(line["step"] for line in lines(workdir))
        return step(state, number)

    train(fresh(), looking, URL, Schedule(4, 1, checkpoint_every))
    assert found == [1, 2, 3]


def test_profiles_and_what_failed(workdir):
    def diverging(state, number):
        return state, {"loss": jnp.where(number >= 3, jnp.nan, 1.0)}

    with pytest.raises(NonFiniteLossError):
        train(fresh(), diverging, URL, Schedule(9, 2, 2, profile=(2, 2)))
    assert json.loads((workdir / "non_finite_loss.json").read_text())["step"] == 4
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_working_directories(workdir):
    path = open_workdir(f"{URL}/", CONFIG)
    assert str(path / "model") == f"{URL}/model"
    assert json.loads((workdir / "config.json").read_text())["steps"] == 10
    assert open_workdir(URL, CONFIG) == path
    with pytest.raises(ConfigError, match=f"^{URL} holds a run with other settings \\(steps\\)"):
        open_workdir(URL, {**CONFIG, "steps": 11})
    with pytest.raises(ConfigError, match="a working directory is a local one or gs://"):
        open_workdir("s3://bucket/a", CONFIG)


def test_buckets_that_fail(monkeypatch):
    def denied(*_, **__):
        raise OSError("Forbidden: gs://bucket\nno storage.objects.create access")

    monkeypatch.setattr(fsspec.get_filesystem_class("gs"), "pipe_file", denied)
    with pytest.raises(StorageError, match=rf"^{URL}/config.json: access is denied: log in") as caught:
        open_workdir(URL, CONFIG)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(fsspec.get_filesystem_class("gs"), "put_file", denied)
    with pytest.raises(StorageError, match=rf"^{URL}: access is denied: log in"):
        train(fresh(), step, URL, Schedule(2, 1, 2))
