"""Data sets in few large files."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import Commands, files_in
from vlseg.data.formats import prepared
from vlseg.data.sources import open_dataset
from vlseg.errors import DatasetError, StorageError

commands = Commands("vlseg.data")

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


@pytest.fixture
def folder(tmp_path):
    """Five pictures of different sizes, four of them JPEGs, with labels 0 to 2 and what does not count."""
    for kind in ("images", "labels"):
        (tmp_path / "folder" / kind).mkdir(parents=True)
    for number in range(5):
        rng = np.random.default_rng(number)
        size = (10 + number, 20 - number)
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(tmp_path / f"folder/images/{number}.{'png' if number == 3 else 'jpg'}")
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        Image.fromarray(label).save(tmp_path / f"folder/labels/{number}.png")
    (tmp_path / "folder/names.txt").write_text("cat\ngrass\ndog\n")
    return tmp_path / "folder"


def assert_same(first, second):
    assert first.names == second.names and len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.image, other.image)
        ignored = one.label == first.ignore_label
        np.testing.assert_array_equal(ignored, other.label == second.ignore_label)
        np.testing.assert_array_equal(one.label[~ignored], other.label[~ignored])


def test_there_and_back_by_the_command(folder, tmp_path, capsys):
    out = tmp_path / "prepared"
    assert commands.call("prepare", f"--data={folder}", f"--out={out}", "--examples_per_file=2") == 0
    assert f"wrote 5 examples to {out}" in capsys.readouterr().out
    assert files_in(out) == {"prepared.json", *(f"{n:05d}-of-00003.array_record" for n in range(3))}
    assert_same(open_dataset(str(folder)), open_dataset(str(out)))
    # Pictures are not encoded anew.
    record = open_dataset(str(out)).records[1]
    assert (folder / "images/1.jpg").read_bytes() in record
    assert "exists" in commands.refusal(capsys, "prepare", f"--data={folder}", f"--out={out}")


def test_names_are_checked_and_have_one_form(folder, tmp_path):
    out = tmp_path / "prepared"
    prepared.write(open_dataset(str(folder)), out)
    info = json.loads((out / "prepared.json").read_text())
    for names, found in ((["cafe\u0301", "wet  grass", "dog"], ("café", "wet grass", "dog")), (["a", "a", "b"], None)):
        (out / "prepared.json").write_text(json.dumps({**info, "names": names}))
        if found:
            assert open_dataset(str(out)).names == found
        else:
            with pytest.raises(DatasetError, match=r"prepared\.json: 'a' and 'a' are the same category"):
                open_dataset(str(out))


class Many:
    """A data set of more classes than a byte holds, without files."""

    names = tuple(f"class {number}" for number in range(1000))
    ignore_label = -1

    def __len__(self):
        return 3

    def __getitem__(self, index):
        from vlseg.data.examples import Example

        rng = np.random.default_rng(index)
        return Example(
            rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), rng.integers(-1, 1000, (8, 9), np.int32), f"a/{index}"
        )

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def test_many_classes_and_data_without_files(tmp_path):
    assert prepared.write(Many(), tmp_path / "many") == 3
    found = open_dataset(str(tmp_path / "many"))
    assert found.ignore_label == 65535
    assert_same(Many(), found)
    with pytest.raises(StorageError):
        prepared.write(Many(), tmp_path / "many")
    with pytest.raises(IndexError):
        found[3]


def test_nothing_is_left_of_a_data_set_that_cannot_be_read(folder, tmp_path, capsys):
    (folder / "images/4.jpg").write_bytes(b"nothing")
    assert "4.jpg: is not an image" in commands.refusal(
        capsys, "prepare", f"--data={folder}", f"--out={tmp_path / 'prepared'}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_missing_or_damaged(tmp_path):
    root = tmp_path / "many"
    prepared.write(Many(), root, examples_per_file=2)
    info = json.loads((root / "prepared.json").read_text())

    def refused(match):
        with pytest.raises(DatasetError, match=match) as caught:
            open_dataset(str(root))
        assert str(root) in str(caught.value) and "\n" not in str(caught.value)

    (root / "prepared.json").write_text(json.dumps({**info, "examples": 4}))
    refused("holds 3 examples, not 4")
    (root / "prepared.json").write_text(json.dumps({**info, "format": "vlseg prepared data set 2"}))
    refused("is of format")
    (root / "prepared.json").write_text("{")
    refused("is not a prepared data set, or is damaged")
    (root / "prepared.json").write_text(json.dumps(info))
    content = (root / info["files"][0]).read_bytes()
    (root / info["files"][0]).write_bytes(content[: len(content) // 2])
    refused("is not a prepared data set, or is damaged")
    (root / info["files"][0]).unlink()
    refused(r"00000-of-00002\.array_record are missing")
