import json
import os
import struct

import numpy as np
import pytest

from vlseg.errors import CheckpointError, StorageError
from vlseg.safetensors_files import open_safetensors, read_variables, save_safetensors

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([0.1, -2], np.float16),
    "count": np.array(7, np.int64),
    "емкость": np.zeros((0, 3), bool),
}


def test_there_and_back(tmp_path):
    path = tmp_path / "arrays.safetensors"
    save_safetensors(ARRAYS, path, path)
    tensors = open_safetensors(str(path))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: x.shape for name, x in ARRAYS.items()}
    for name, expected in ARRAYS.items():
        found = tensors[name].read()
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype and found.shape == expected.shape


def test_whoever_may_read_other_files_may_read_these(tmp_path):
    save_safetensors(ARRAYS, tmp_path / "arrays.safetensors", tmp_path)
    (tmp_path / "other").touch()
    assert (tmp_path / "arrays.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "arrays.safetensors"
    with pytest.raises(CheckpointError, match=r"arrays\.safetensors is missing"):
        open_safetensors(path)
    save_safetensors(ARRAYS, path, path)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:9], content[:3], b"", b"text" * 100):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"arrays\.safetensors cannot be read") as caught:
            open_safetensors(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_safetensors(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(StorageError, match="cannot write the model"):
        save_safetensors(ARRAYS, tmp_path / "absent" / "arrays.safetensors", "the model")


def write(path, header, data=b"", length=None):
    """A file with this header, a dictionary or its JSON, which need not say the truth."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ONE = json.dumps(entry())


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": entry(), "b": entry()}, bytes(4), None),  # overlap
        ({"a": entry(offsets=(0, 400))}, bytes(4), None),
        ({"a": entry(offsets=(4, 0))}, bytes(4), None),
        ({"a": entry()}, bytes(8), None),  # bytes that are nobody's
        ({"a": entry(shape=(2**62, 2**62))}, bytes(4), None),
        ({"a": entry(shape=(-1,))}, bytes(4), None),
        ({"a": entry(dtype="F99")}, bytes(4), None),
        ({"a": entry()}, bytes(4), 2**62),
        ({"a": entry()}, bytes(4), 10**6),
        (f'{{"a": {ONE}, "a": {ONE}}}'.encode(), bytes(4), None),
        (b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4), None),
        (b'{"__metadata__": ' + b"[" * 100_000 + b"}", b"", None),
        (b'{"a": ' * 100_000 + b"}", b"", None),
        (b"\xff\xfe", b"", None),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, header, data, length):
    path = write(tmp_path / "arrays.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"arrays\.safetensors cannot be read") as caught:
        open_safetensors(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 500


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "BOOL", "U8", "I64", "C64"])
def test_parameters_that_are_no_floats(tmp_path, dtype):
    """They are named by data type before anything is read; the library has no numpy type for some."""
    size = {"F4": 1, "I64": 16, "C64": 16}.get(dtype, 2)
    path = write(tmp_path / "arrays.safetensors", {"w": entry(dtype, (2,), (0, size))}, bytes(size))
    with pytest.raises(CheckpointError, match=r"arrays\.safetensors: parameters must be float16.* but w is \w+$"):
        read_variables(path, {"w": (2,)}, "a model", np.asarray)
    if dtype in ("F8_E4M3", "F4"):
        with pytest.raises(CheckpointError, match=rf"cannot be read: its w of type {dtype}"):
            open_safetensors(path)["w"].read()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_parameters_are_floats_of_every_length(tmp_path, dtype):
    path = tmp_path / "arrays.safetensors"
    save_safetensors({"w": np.ones(2, np.dtype(dtype))}, path, path)
    assert read_variables(path, {"w": (2,)}, "a model", np.asarray)["w"].dtype == dtype


def test_a_file_that_is_cut_after_it_was_opened(tmp_path):
    path = tmp_path / "arrays.safetensors"
    save_safetensors(ARRAYS, path, path)
    tensors = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read: its matrix"):
        tensors["matrix"].read()


def test_what_stands_in_the_place_of_a_file(tmp_path):
    path = tmp_path / "arrays.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match="cannot be read: is a Git LFS pointer"):
        open_safetensors(path)
    path.write_text("<html>sign in</html>")
    with pytest.raises(CheckpointError, match="cannot be read: is an HTML page"):
        open_safetensors(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a pipe"):
        open_safetensors(path)
