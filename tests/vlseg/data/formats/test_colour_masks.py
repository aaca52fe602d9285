"""CVAT's masks in colours as a data set."""

import numpy as np
import pytest
from PIL import Image

from vlseg.data.sources import kind, open_dataset
from vlseg.errors import DatasetError

COLOURS = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwet  grass:128,0,0::\ncat:250,50,83:head:sit\n"


@pytest.fixture
def root(tmp_path):
    pixels = np.zeros((9, 12, 3), np.uint8)
    pixels[:4], pixels[4:6, :3] = (250, 50, 83), (128, 0, 0)
    for folder, name, content in [("JPEGImages/in", "a.JPG", pixels), ("SegmentationClass/in", "a.png", pixels)]:
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(content).save(tmp_path / folder / name)
    (tmp_path / "labelmap.txt").write_text(COLOURS)
    return tmp_path


def refused(root, match, **options):
    with pytest.raises(DatasetError, match=match) as caught:
        list(open_dataset(str(root), **options))
    assert "\n" not in str(caught.value)


def test_masks_in_colours(root):
    expected = np.full((9, 12), 255)
    expected[:4], expected[4:6, :3] = 1, 0
    for source in (str(root), f"cvat:{root}", f"cvat:{root}:{root}/JPEGImages"):
        assert kind(source) == "cvat"
        (example,) = dataset = open_dataset(source, strict=True)
        assert dataset.names == ("wet grass", "cat") and example.name == "in/a"
        np.testing.assert_array_equal(example.label, expected)


def test_what_does_not_fit(root):
    path = root / "labelmap.txt"
    path.write_text(COLOURS.replace("cat:250", "cat:251"))
    refused(root, "has the colour 250,50,83, which labelmap.txt does not list")
    for text, match in [
        (COLOURS + "dog:1,2\n", "'dog:1,2' is not name:r,g,b"),
        (COLOURS + "dog:1,2,300::\n", "no red, green and blue"),
        (COLOURS + f"dog:1,2,{'9' * 5000}::\n", "which is no red, green and blue"),
        (COLOURS + "dog:128,0,0::\n", "two labels have one colour"),
        (COLOURS + "cat:1,2,3::\n", "same category"),
        ("background:0,0,0::\n", "no categories"),
        ("", "no categories"),
        ("cat\n", "has no colours"),
    ]:
        path.write_text(text)
        refused(root, match)
    path.write_text(COLOURS)
    (root / "JPEGImages/notes.txt").write_text("x")
    refused(root, "notes.txt.*strict", strict=True)
    Image.new("RGB", (12, 9)).save(root / "SegmentationClass/b.png")
    refused(root, "no picture for 1 of 2 label maps: b")
