"""Arrays out of MATLAB's files, and files that end the process of other readers."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from vlseg.data.decoding import matlab
from vlseg.errors import ImageError

IDS = np.arange(160, dtype=np.uint8).reshape(10, 16)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_arrays_are_those_that_scipy_writes(tmp_path: Path, compressed: bool, dtype: Any) -> None:
    ids: np.ndarray = IDS.astype(dtype)
    content = {
        "first": np.zeros((2, 3)),
        "GTcls": {"Boundaries": [1, "x", {"y": 2.0}], "Segmentation": ids},
        "map": ids,
    }
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    for keys in (("GTcls", "Segmentation"), ("map",)):
        found = matlab(tmp_path / "a.mat", *keys)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, IDS)


def nested(depth: int) -> bytes:
    """A file of cells in cells, whose depth is more than a stack holds."""
    inner = b""
    for _ in range(depth):
        head = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1) + struct.pack("<II", 1, 0)
        inner = struct.pack("<II", 14, len(head) + len(inner)) + head + inner
    return b" " * 124 + b"\0\1IM" + inner


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (bytes(10_000), "no file of version 5"),
        (b"MATLAB 7.3" + b" " * 200, "no file of version 5"),
        (nested(5_000), "it has no LabelMap"),
        (b" " * 124 + b"\0\1IM" + struct.pack("<II", 14, 2**32 - 8), "cut off"),
        (b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, 4) + b"abcd", "compressed in it is damaged"),
    ],
)
def test_files_that_hold_no_such_array(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        matlab(tmp_path / "a.mat", "LabelMap")


@pytest.mark.parametrize("value", [-1, 70_000, float("nan"), 1j, "text", {"a": 1}, np.zeros((2, 2, 2))])
def test_arrays_that_are_no_map_of_labels(tmp_path: Path, value: object) -> None:
    array = np.full((3, 4), value) if isinstance(value, int | float | complex) else value
    scipy.io.savemat(tmp_path / "a.mat", {"LabelMap": array})
    with pytest.raises(ImageError, match="LabelMap"):
        matlab(tmp_path / "a.mat", "LabelMap")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, compressed: bool) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"LabelMap": IDS}, do_compression=compressed)
    whole = (tmp_path / "a.mat").read_bytes()
    for end in range(0, len(whole) - 8, 3):
        (tmp_path / "a.mat").write_bytes(whole[:end])
        with pytest.raises(ImageError, match=r"a\.mat"):
            matlab(tmp_path / "a.mat", "LabelMap")
