"""Records of a zip archive, and tensors that are still in theirs: PyTorch's element types, storages and views."""

import dataclasses
import io
import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401 - which makes bfloat16 and float8 known to numpy
import numpy as np

from vlseg.errors import CheckpointError

_CHUNK = 1 << 20
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_EXPANDED_ELEMENTS = 1 << 28

DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}
DTYPE_ALIASES = {"short": "int16", "int": "int32", "long": "int64", "half": "float16", "float": "float32"}
DTYPE_ALIASES |= {"double": "float64", "cfloat": "complex64", "cdouble": "complex128"}
STORAGES = {"BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16"}
STORAGES |= {"IntStorage": "int32", "LongStorage": "int64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"}
STORAGES |= {"FloatStorage": "float32", "DoubleStorage": "float64"}
STORAGES |= {"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of an archive: where its bytes are in the file. `crc32` is 0 if the writer did not compute it."""

    path: str
    name: str
    start: int
    stored_bytes: int
    size: int
    deflated: bool
    crc32: int

    def read(self, start: int, length: int) -> np.ndarray:
        """Bytes [start, start + length) of the uncompressed record, as uint8 [length]; raises as `LazyTensor.read`."""
        if start + length > self.size:
            raise CheckpointError(f"{self.path} is damaged: its record {self.name!r} is too short; get the file again")
        try:
            data = np.empty(length, np.uint8)
            with open(self.path, "rb") as file:
                complete = self._inflate(file, start, data) if self.deflated else self._copy(file, start, data)
        except (OSError, zlib.error, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read its record {self.name!r}: {one_line(error)}") from error
        if not complete:
            raise CheckpointError(f"{self.path} is truncated in its record {self.name!r}; get the file again")
        if length == self.size and self.crc32 and zlib.crc32(data.data) != self.crc32:
            raise CheckpointError(f"{self.path} is damaged: checksum of its record {self.name!r}; get the file again")
        return data

    def _copy(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start + start)
        return file.readinto(data.data) == len(data)

    def _inflate(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        remaining, position, end = self.stored_bytes, 0, start + len(data)
        pending = b""
        while position < end:
            if not pending and remaining:
                pending = file.read(min(_CHUNK, remaining))
                remaining -= len(pending)
            plain = decoder.decompress(pending, _CHUNK)
            pending = decoder.unconsumed_tail
            if not plain and not pending and (decoder.eof or not remaining):
                return False
            low, high = max(position, start), min(position + len(plain), end)
            if low < high:
                data[low - start : high - start] = np.frombuffer(plain, np.uint8)[low - position : high - position]
            position += len(plain)
        return True


def open_archive(path: str) -> dict[str, Entry]:
    """The records of the archive by their names within it ("data.pkl", "data/0", ...)."""
    try:
        if os.path.isdir(path):
            raise CheckpointError(f"{path} is a directory; name the checkpoint file in it")
        with open(path, "rb") as file:
            _check_kind(path, file.read(len(_LEGACY_MAGIC)))
            with zipfile.ZipFile(file) as archive:
                entries = [_entry(path, file, info) for info in archive.infolist() if not info.is_dir()]
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    # zipfile answers a damaged directory with errors of many classes.
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged ({one_line(error)}); get the file again") from error
    roots = [entry.name.removesuffix("data.pkl") for entry in entries if entry.name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise CheckpointError(f"{path} is not a PyTorch zip archive: it has no record data.pkl")
    return {entry.name.removeprefix(roots[0]): entry for entry in entries if entry.name.startswith(roots[0])}


def _check_kind(path: str, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty; get the file again")
    if head.startswith(_LEGACY_MAGIC):
        raise CheckpointError(
            f"{path} has PyTorch's old format from before 1.6; load it in any PyTorch >= 1.6 and torch.save it again"
        )
    if not head.startswith(b"PK"):
        raise CheckpointError(f"{path} is not a PyTorch zip archive")


def _entry(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{path}: its record {info.filename!r} is encrypted or compressed in an unknown way")
    file.seek(info.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    start = info.header_offset + 30 + name_length + extra_length
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    end = start + info.compress_size
    if signature != b"PK\x03\x04" or end > os.fstat(file.fileno()).st_size:
        raise CheckpointError(f"{path} is truncated or damaged at its record {info.filename!r}; get the file again")
    if not deflated and info.compress_size != info.file_size:
        raise CheckpointError(f"{path} is damaged at its record {info.filename!r}; get the file again")
    return Entry(path, info.filename, start, info.compress_size, info.file_size, deflated, info.CRC)


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def torch_dtype_name(dtype: np.dtype) -> str:
    """PyTorch's name of an element type; CheckpointError if it has none."""
    for name, known in DTYPES.items():
        if known == dtype.newbyteorder("="):
            return name
    raise CheckpointError(f"an array of type {dtype}, which PyTorch does not have")


@dataclasses.dataclass(frozen=True)
class Storage:
    """`count` elements of type `dtype` in a record, of the given byte order ("little" or "big")."""

    entry: Entry
    dtype: np.dtype
    count: int
    byteorder: str


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in its file: `shape`, `dtype` (bfloat16 and float8 are those of ml_dtypes) and `read()`.

    `offset` and `stride` count elements of `dtype` in the storage. Two tensors are equal if they are the same view of
    the same storage.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    storage: Storage
    offset: int
    stride: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The values, a new array [*shape] in C order and native byte order. Reads only this tensor's part of the file.

        Raises:
          CheckpointError: the file changed, is truncated, damaged or cannot be read.
        """
        size = self.dtype.itemsize
        data = self.storage.entry.read(self.offset * size, _extent(self.shape, self.stride) * size)
        if self.storage.byteorder != sys.byteorder:
            unit = size // 2 if self.dtype.kind == "c" else size
            data.view(np.dtype(f"u{unit}")).byteswap(inplace=True)
        strides = [size * step for step in self.stride]
        try:
            return np.asarray(np.ndarray(self.shape, self.dtype, data.data, strides=strides), order="C")
        except MemoryError as error:
            raise CheckpointError(f"{self.storage.entry.path}: {one_line(error)}") from error


def _extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many elements lie between the first and the last of a view, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))


def elements(values: Any) -> Any:
    """The collection itself, if it is one; else ValueError."""
    # Python would take a range as well, which can ask for any amount of memory.
    if not isinstance(values, list | tuple | set | frozenset | dict):
        raise ValueError("a collection made from something that is no collection")
    return values


def tensor_view(storage: Any, dtype: np.dtype, offset: Any, shape: Any, stride: Any) -> LazyTensor:
    """A view of a storage; ValueError if it would reach beyond or claim absurd amounts of memory."""
    shape, stride = tuple(elements(shape)), tuple(elements(stride))
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a negative or fractional size, stride or offset")
    if len(shape) != len(stride) or len(shape) > 32:
        raise ValueError(f"a tensor of {len(shape)} dimensions with {len(stride)} strides")
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    if offset + _extent(shape, stride) > available:
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {available} elements")
    # Views may repeat elements (stride 0), so a few bytes in the file can claim any amount of memory.
    if math.prod(max(length, 1) for length in shape) > max(available, _MAX_EXPANDED_ELEMENTS):
        raise ValueError(f"a tensor of shape {shape} on a storage of only {available} elements")
    return LazyTensor(shape, dtype, storage, offset, stride)
