import io
import zipfile

import numpy as np
import pytest

from vlseg.errors import CheckpointError
from vlseg.npz_files import open_npz

ARRAYS = {
    "block/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(7, ">i4"),
    "empty": np.zeros((0, 3), np.float16),
}


def npy(header):
    text = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_what_numpy_saved(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = open_npz(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        read = found[name].read()
        assert (read.dtype, read.shape, found[name].shape) == (expected.dtype, expected.shape, expected.shape)
        np.testing.assert_array_equal(read, expected)


def test_other_versions_of_the_format(tmp_path):
    for version in ((2, 0), (3, 0)):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, ARRAYS["turned"], version)
        found = open_npz(archive(tmp_path / "a.npz", stream.getvalue()))
        np.testing.assert_array_equal(found["a"].read(), ARRAYS["turned"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", "another size"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "which no weights are"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "which no weights are"),
        ("{'descr': '|S0', 'fortran_order': False, 'shape': (1,)}", "which no weights are"),
        ("{'descr': 'f4', 'shape': (1,)}", "is no array"),
        ("__import__('os').system('touch x')", "is no array"),
        ("(" * 100, "is no array"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, header, message):
    with pytest.raises(CheckpointError, match=rf"a\.npz cannot be read: its a\.npy .*{message}") as caught:
        open_npz(archive(tmp_path / "a.npz", npy(header) + bytes(4)))
    assert str(caught.value).isprintable()


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=ARRAYS["block/kernel"])
    content = path.read_bytes()
    tensor = open_npz(path)["a"]
    for position in (tensor.record.start + 3, tensor.record.start + tensor.start + 1):
        changed = bytearray(content)
        changed[position] ^= 16
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"a\.npz"):
            open_npz(path)["a"].read()
    for position, value in ((6, 255), (8, 64)):  # the version that is needed, and strong encryption
        changed = bytearray(content)
        changed[content.index(b"PK\x01\x02") + position] = value
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"a\.npz cannot be read"):
            open_npz(path)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(CheckpointError, match="is no archive of arrays"):
        open_npz(path)
