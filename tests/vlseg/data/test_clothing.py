"""Clothing Co-Parsing in both layouts: how it is split, what is left out, and what is refused."""

import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.samples import SIZE, cells, clothing, picture
from vlseg import labels
from vlseg.data.catalog import entry
from vlseg.data.sources import announced, open_dataset
from vlseg.errors import DatasetError, ImageError

WORDS = labels.load("clothing_59")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All files of the official layout, of which only the list of words is more than a name."""
    root = tmp_path_factory.mktemp("clothing")
    maps = root / "clothing-co-parsing-master/annotations/pixel-level"
    maps.mkdir(parents=True)
    (maps.parent / "image-level").mkdir()
    (maps.parents[1] / "photos").mkdir()
    for number in range(1, 2099):
        (maps.parents[1] / f"photos/{number:04d}.jpg").touch()
        (maps / f"{number:04d}.mat" if number <= 1004 else maps.parent / f"image-level/{number:04d}.mat").touch()
    scipy.io.savemat(maps.parents[1] / "label_list.mat", {"label_list": cells(["null", *WORDS[1:]])})
    return root


def prepared(root, numbers):
    """A folder of photographs and PNGs of which some may be missing; their label maps by name."""
    maps = {}
    for number in numbers:
        picture(root / f"images/{number:04d}.jpg", number)
        maps[f"{number:04d}"] = np.random.default_rng(number).choice([*range(59), 255], SIZE)
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(maps[f"{number:04d}"].astype(np.uint8)).save(root / f"labels/{number:04d}.png")
    (root / "names.txt").write_text("\n".join(WORDS))
    return maps


def refused(root, match, split="val"):
    with pytest.raises(DatasetError, match=match) as caught:
        open_dataset(f"clothing:{root}:{split}")
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_the_splits_of_the_whole(whole, capsys):
    sorted_names = sorted(path.stem for path in whole.glob("*/annotations/pixel-level/*.mat"))
    of_number = {3: "test", 5: "val"}
    expected = {split: [] for split in ("train", "val", "test")}
    for number, name in enumerate(sorted_names):
        expected[of_number.get(number % 7, "train")].append(name)
    expected["trainval"] = sorted(expected["train"] + expected["val"])
    assert list(map(len, expected.values())) == [718, 143, 143, 861]
    assert set(entry("clothing").splits) == set(expected)
    del expected["train"]  # the rest of trainval; to open all takes a second
    for split, names in expected.items():
        dataset = announced(open_dataset(f"clothing:{whole}", split=split, strict=True))
        assert [pair.name for pair in dataset.pairs] == names
        assert {(pair.image.stem, pair.label.stem) for pair in dataset.pairs} == {(name, name) for name in names}
        assert entry("clothing").splits[split].examples == len(names)
        line = capsys.readouterr().out
        assert f"{len(names)} of {len(names)} read: 1,094 without labels of pixels" in line
        assert "annotations of whole images are not read): 1005.jpg, 1006.jpg" in line and line.count("\n") == 1
    assert {split: part.examples for split, part in entry("clothing").splits.items()}["train"] == 718


def test_numbers_are_of_names_and_not_of_places(tmp_path, capsys):
    """With test photographs missing, as they are for those who are not to see them."""
    numbers = [number for number in range(1, 40) if (number - 1) % 7 != 3 and number not in (2, 5)]
    maps = prepared(tmp_path, numbers)
    for split, remainders in (("val", {5}), ("train", {0, 1, 2, 4, 6})):
        dataset = announced(open_dataset(f"clothing:{tmp_path}:{split}", strict=True))
        assert [pair.name for pair in dataset.pairs] == [f"{n:04d}" for n in numbers if (n - 1) % 7 in remainders]
        for example in dataset:
            np.testing.assert_array_equal(example.label, maps[example.name])
    assert dataset.names == WORDS and dataset.ignore_label == 255 and capsys.readouterr().out == ""
    refused(tmp_path, "holds no photograph of the test split, whose file names less one leave 3", split="test")


def test_a_photograph_that_exif_turns(tmp_path):
    clothing(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photos/0006.jpg", exif=exif)
    (example,) = open_dataset(f"clothing:{tmp_path}")
    stored = scipy.io.loadmat(tmp_path / "annotations/pixel-level/0006.mat")["groundtruth"]
    assert example.image.shape == (*SIZE[::-1], 3)
    np.testing.assert_array_equal(example.label, np.rot90(stored, -1))


def test_words_that_are_not_those_of_the_data_set(tmp_path):
    clothing(tmp_path / "official")
    prepared(tmp_path / "folder", [1, 6])
    root, path = tmp_path / "official", tmp_path / "official/label_list.mat"
    words = ["null", *WORDS[1:]]
    for changed, match in (
        (words[:-1], r"label_list\.mat: has 58 words, and this data set 59; it lacks wedges"),
        ([*words, "cape of good hope"], "has 60 words, and this data set 59; it has also cape of good hope"),
        ([*words[:2], "purse", "belt", *words[4:]], "1 words are not those of this data set: 2 is purse, not bag"),
        ([*words[:1], *words[2:], words[1]], "58 words are not those of this data set: 1 is bag, not accessories,"),
    ):
        scipy.io.savemat(path, {"label_list": cells(changed)})
        refused(root, match)
    scipy.io.savemat(path, {"label_list": cells([word.upper() for word in words])})
    assert len(open_dataset(f"clothing:{root}")) == 1
    scipy.io.savemat(path, {"labels": cells(words)})
    refused(root, "label_list.mat: is not a MATLAB file with label_list, or is damaged")
    path.unlink()
    refused(root, r"label_list\.mat: no such file of the 59 words")
    root, path = tmp_path / "folder", tmp_path / "folder/names.txt"
    path.write_text("\n".join(WORDS[:-1]))
    refused(root, r"names\.txt: has 58 words, and this data set 59; it lacks wedges")
    path.write_text("\n".join(f"{index + 1}: {word}" for index, word in enumerate(WORDS)))
    refused(root, "counts from 1, but label files count from 0")
    path.unlink()
    refused(root, r"names\.txt: no such file")


def test_files_that_do_not_fit_together(tmp_path):
    root = tmp_path / "clothing"

    def fresh():
        shutil.rmtree(root, ignore_errors=True)
        clothing(root)

    fresh()
    (root / "photos/0004.jpg").unlink()
    refused(root, r"photos: 1 photographs are missing: 0004\.jpg")
    fresh()
    (root / "annotations/pixel-level/0007.mat").unlink()
    refused(root, r"pixel-level: 1 label files are missing: 0007\.mat")
    fresh()
    (root / "annotations/pixel-level/0007.mat").rename(root / "annotations/pixel-level/1007.mat")
    refused(root, "1 names are no numbers from 0001 to 1004, by which photographs are split: 1007")
    fresh()
    shutil.rmtree(root / "annotations/pixel-level")
    refused(root, "pixel-level: no such folder")
    shutil.rmtree(root / "photos")
    refused(root, "holds neither photos/ and annotations/pixel-level/ nor images/ and labels/")
    prepared(root, [1, 6])
    (root / "images/street.jpg").write_bytes((root / "images/0006.jpg").read_bytes())
    refused(root, r"1 label files are missing: street\.png")
    (root / "labels/street.png").write_bytes((root / "labels/0006.png").read_bytes())
    refused(root, "1 names are no numbers from 0001 to 1004, .*: street")


def test_photographs_of_another_kind_are_left_out_and_said(tmp_path):
    clothing(tmp_path)
    picture(tmp_path / "photos/1006.png")
    dataset = open_dataset(f"clothing:{tmp_path}")
    assert "1 of 2 read: 1 of an unknown type: 1006.png; 1 without labels of pixels" in dataset.listing.line
    with pytest.raises(DatasetError, match="--strict"):
        open_dataset(f"clothing:{tmp_path}", strict=True)


@pytest.mark.parametrize(
    ("groundtruth", "match"),
    [
        (np.full(SIZE, 59), "has label 59, which this data set does not have"),
        (np.full(SIZE, 255), "has label 255, which this data set does not have"),
        (np.zeros((8, 9)), "is 9 x 8 pixels, but its picture 32 x 24"),
        (np.full(SIZE, 0.5), "groundtruth is not a map of labels"),
    ],
)
def test_label_maps_that_cannot_be_used(tmp_path, groundtruth, match):
    clothing(tmp_path)
    scipy.io.savemat(tmp_path / "annotations/pixel-level/0006.mat", {"groundtruth": groundtruth})
    dataset = open_dataset(f"clothing:{tmp_path}")
    with pytest.raises((DatasetError, ImageError), match=match):
        dataset[0]
