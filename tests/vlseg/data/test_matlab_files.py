"""Arrays and lists of texts out of MATLAB's files, and files that end the process of other readers."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from tests.samples import cells
from vlseg.data.decoding import matlab, matlab_texts
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


@pytest.mark.parametrize("compressed", [False, True])
def test_lists_of_texts_are_those_that_scipy_writes(tmp_path: Path, compressed: bool) -> None:
    texts = ["null", "t-shirt", "", "b", "long name of some words", "\u00e9t\u00e9", "\u732b"]
    content = {"other": 1.0, "label_list": cells(texts), "column": cells(texts).T, "none": cells([])}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    assert matlab_texts(tmp_path / "a.mat", "label_list") == texts
    assert matlab_texts(tmp_path / "a.mat", "column") == texts
    assert matlab_texts(tmp_path / "a.mat", "none") == []


@pytest.mark.parametrize("order", ["<", ">"])
def test_texts_in_sixteen_bits_as_matlab_writes_them(tmp_path: Path, order: str) -> None:
    """A file made by the format's description: cells of letters of type 4, four bytes or less in the tag itself."""

    def element(kind: int, content: bytes) -> bytes:
        if 0 < len(content) <= 4:
            return struct.pack(f"{order}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
        return struct.pack(f"{order}II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8, b"\0")

    def matrix(kind: int, shape: tuple[int, int], name: bytes, rest: bytes) -> bytes:
        head = element(6, struct.pack(f"{order}II", kind, 0)) + element(5, struct.pack(f"{order}ii", *shape))
        return element(14, head + element(1, name) + rest)

    def text(letters: str) -> bytes:
        encoded = letters.encode({"<": "utf-16-le", ">": "utf-16-be"}[order])
        return matrix(4, (1, len(letters)), b"", element(4, encoded))

    words = ["null", "ab", "t-shirt"]
    mark = {"<": b"\0\1IM", ">": b"\1\0MI"}[order]
    content = b" " * 124 + mark + matrix(1, (1, 3), b"label_list", b"".join(map(text, words)))
    (tmp_path / "a.mat").write_bytes(content)
    assert matlab_texts(tmp_path / "a.mat", "label_list") == words
    assert scipy.io.loadmat(tmp_path / "a.mat")["label_list"].ravel().tolist() == [[word] for word in words]


@pytest.mark.parametrize(
    "value", [np.arange(3), "text", cells(["a", 1.0]), cells(["a", np.array(["b", "c"])]), {"a": "b"}]
)
def test_what_is_no_list_of_texts(tmp_path: Path, value: Any) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"label_list": value})
    with pytest.raises(ImageError, match="label_list"):
        matlab_texts(tmp_path / "a.mat", "label_list")
