"""What tells data and weights from others, wherever they lie."""

import os
import shutil
import unicodedata

import pytest

from tests.commands import labelled_folder
from vlseg.data.sources import open_dataset
from vlseg.errors import StorageError
from vlseg.training import inputs, workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("data") / "first", 3)


def of(path):
    return inputs.of_data(open_dataset(str(path)), str(path))


def test_data_that_were_moved_are_the_same(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "second"
    shutil.copytree(folder, moved)
    assert of(moved) == of(folder) and of(folder)["examples"] == 3
    for form in ("NFC", "NFD"):
        path = tmp_path / form
        shutil.copytree(folder, path)
        for file in (path / "images/0.jpg", path / "labels/0.png"):
            file.rename(file.with_stem(unicodedata.normalize(form, "\u00e9t\u00e9")))
    assert of(tmp_path / "NFC") == of(tmp_path / "NFD") != of(folder)


CHANGES = {
    "3 examples before, 2 now": lambda path: [(path / name).unlink() for name in ("images/0.jpg", "labels/0.png")],
    "name 1 was 'house' and is 'hut' now": lambda path: (path / "names.txt").write_text("grass\nhut\ntree\ncar"),
    "4 names before, 5 now": lambda path: (path / "names.txt").write_text("grass\nhouse\ntree\ncar\nsky"),
    "files of other names or sizes than before": lambda path: (path / "images/0.jpg").write_bytes(b"other"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_data_that_were_changed_are_others(said, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    CHANGES[said](tmp_path / "data")
    assert inputs.difference(of(folder), of(tmp_path / "data")) == said


def test_what_has_no_files_is_told_by_what_makes_it():
    first, second, third = (
        inputs.of_data(open_dataset("tiny_world", split=split, count=count), "tiny_world")
        for split, count in (("train", 3), ("train", 3), ("test", 3))
    )
    assert first == second != third


def test_weights_are_told_by_their_content(tmp_path, monkeypatch):
    """Large ones in pieces, the beginning and the end among them."""
    monkeypatch.setattr(inputs, "WHOLE", 1000)
    monkeypatch.setattr(inputs, "PIECE", 100)
    content = bytes(range(250)) * 20
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    first = inputs.of_files(tmp_path / "a")
    assert inputs.of_files(tmp_path / "b") == first
    for place in (0, 2600, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "b").write_bytes(changed)
        assert inputs.difference(first, inputs.of_files(tmp_path / "b")).startswith("other content than before")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        (tmp_path / name / "README.md").write_text(name)
    assert inputs.of_files(tmp_path / "one") == inputs.of_files(tmp_path / "two")


@pytest.mark.parametrize("before", [7, True, {"names": 5}, {"names": "ab"}, {"names": {"a": 1}}, {"examples": []}])
def test_differences_from_what_somebody_has_edited(before):
    assert inputs.difference(before, {"names": ["a", "b"], "examples": 3})


def test_a_pipe_in_place_of_what_was_written(tmp_path):
    workdir.open_workdir(tmp_path, {"steps": 1}, found={})
    (tmp_path / workdir.INPUTS_FILE).unlink()
    os.mkfifo(tmp_path / workdir.INPUTS_FILE)
    with pytest.raises(StorageError, match=r"inputs\.json: is a pipe"):
        workdir.check_same(tmp_path, {"steps": 1}, {}, workdir.Same())
