import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlseg.data.images import read_label
from vlseg.predictions import output_names, write

PATHS = st.builds(
    lambda folder, stem, suffix: Path(folder, f"{stem}{suffix}"),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["x", "x_png", "x_png_1", "x_png_2", "x_1", "x_jpg", "x.y", "y"]),
    st.sampled_from([".png", ".jpg"]),
)


@given(st.lists(PATHS, max_size=12))
def test_no_two_images_share_a_name(paths):
    names = output_names(paths)
    assert len(names) == len(paths) == len(set(names))
    assert not any("." in name for path, name in zip(paths, names, strict=True) if "." not in path.stem)


def test_names():
    assert output_names([Path("a/x.png"), Path("b/y.jpg")]) == ["x", "y"]
    assert output_names([Path("x.png"), Path("x.jpg"), Path("y.z.png")]) == ["x_png", "x_jpg", "y.z"]
    assert output_names([Path("a/x.png"), Path("b/x.png"), Path("c/x.png")]) == ["x_png", "x_png_1", "x_png_2"]
    assert output_names([]) == []


@dataclasses.dataclass
class Segmented:
    label_map: np.ndarray
    labels: tuple[str, ...]

    def overlay(self):
        return Image.new("RGB", self.label_map.shape[::-1])


@pytest.mark.parametrize("count", [3, 300])
def test_files_and_report(tmp_path, count):
    for folder in ("overlays", "labels"):
        (tmp_path / folder).mkdir()
    label_map = np.zeros((8, 9), np.int32)
    label_map[:4, :3], label_map[4:, :3] = 2, count - 1
    segmented = Segmented(label_map, tuple(f"label {i}" for i in range(count)))
    entry = write(tmp_path, "x", Path("a/x.png"), segmented)
    shares = {"label 0": 0.666667, "label 2": 0.333333} if count == 3 else {}
    shares = shares or {"label 0": 0.666667, "label 2": 0.166667, "label 299": 0.166667}
    assert entry == {"image": "a/x.png", "name": "x", "height": 8, "width": 9, "shares": shares}
    np.testing.assert_array_equal(read_label(tmp_path / "labels" / "x.png"), label_map)
    assert Image.open(tmp_path / "overlays" / "x.png").size == (9, 8)


def test_more_labels_than_a_picture_can_hold(tmp_path):
    for folder in ("overlays", "labels"):
        (tmp_path / folder).mkdir()
    label_map = np.array([[0, 70_000]], np.int32)
    write(tmp_path, "x.y", Path("x.y.png"), Segmented(label_map, tuple(map(str, range(70_001)))))
    np.testing.assert_array_equal(np.load(tmp_path / "labels" / "x.y.npy"), label_map)
