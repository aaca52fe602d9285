"""Roboflow's masks as a data set."""

import numpy as np
import pytest
from PIL import Image

from vlseg.data.sources import kind, open_dataset
from vlseg.errors import DatasetError

CLASSES = "Pixel Value, Class\n0, background\n1, cat\n"


@pytest.fixture
def root(tmp_path):
    label = np.zeros((9, 12), np.uint8)
    label[:4] = 1
    Image.fromarray(label).convert("RGB").save(tmp_path / "a_jpg.rf.1b.jpg")
    Image.fromarray(label).save(tmp_path / "a_jpg.rf.1b_mask.png")
    (tmp_path / "_classes.csv").write_text(CLASSES)
    (tmp_path / "README.dataset.txt").write_text("of whom")
    return tmp_path


def test_masks_beside_pictures(root):
    assert kind(str(root)) == kind(f"roboflow:{root}") == "roboflow"
    dataset = open_dataset(str(root))
    (example,) = dataset
    assert dataset.names == ("background", "cat")
    assert example.name == "a_jpg.rf.1b"
    assert (example.label == np.repeat([1, 0], [4, 5])[:, None]).all()
    assert "1 of 2 read: 1 of an unknown type: README.dataset.txt" in dataset.listing.line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a_jpg.rf.1b_mask.png", None, "no label map"),
        ("a_jpg.rf.1b.jpg", None, "holds no pictures"),
        ("b_mask.png", b"", "no picture"),
        ("_classes.csv", b"Pixel Value, Class\n1, cat\n", "counts from 1"),
        ("_classes.csv", b"filename, cat, dog\na.jpg, 1, 0\n", "without a heading"),
    ],
)
def test_what_does_not_fit(name, content, message, root):
    (root / name).unlink(missing_ok=True)
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"roboflow:{root}")
