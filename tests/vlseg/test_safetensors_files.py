import numpy as np
import pytest

from vlseg.errors import CheckpointError, StorageError
from vlseg.safetensors_files import open_safetensors, save_safetensors

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
