"""Records of a zip archive, and tensors that are still in theirs: PyTorch's element types, storages and views."""

import dataclasses
import itertools
import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401 - which makes bfloat16 and float8 known to numpy
import numpy as np

from vlseg import file_formats, files
from vlseg.errors import CheckpointError

_CHUNK = 1 << 18
_TAR = slice(257, 262)
_ENCRYPTED = 0x1 | 0x20 | 0x40
"""Flags of records that are encrypted, in either way, or are changes of another record."""

_MAX_EXPANDED_BYTES = 1 << 12
_MAX_EMPTY_ELEMENTS = 1 << 28
_MAX_DIMENSIONS = 32

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
    deflated: bool = False
    crc32: int = 0
    header: int = 0
    _verified: list[bool] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def read(self, start: int, length: int) -> np.ndarray:
        """Bytes [start, start + length) of the uncompressed record, as uint8 [length]; raises as `LazyTensor.read`.

        The first time, all of the record is read, and its checksum verified.
        """
        if start + length > self.size:
            raise CheckpointError(f"{self.path} is damaged: its record {self.name!r} is too short; get the file again")
        try:
            data = np.empty(length, np.uint8)
            with open(self.path, "rb") as file:
                if self.deflated or (self.crc32 and not self._verified and length):
                    complete = self._stream(file, start, data)
                else:
                    file.seek(self.start + start)
                    complete = file.readinto(data.data) == length
        except (OSError, zlib.error, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read its record {self.name!r}: {one_line(error)}") from error
        if not complete:
            raise CheckpointError(f"{self.path} is truncated in its record {self.name!r}; get the file again")
        return data

    def _stream(self, file: BinaryIO, start: int, data: np.ndarray) -> bool:
        """Fills `data` with the record's bytes from `start` on; whether there are as many."""
        position, end, checksum = 0, start + len(data), 0
        verify = bool(self.crc32) and not self._verified
        for plain in self._chunks(file):
            low, high = max(position, start), min(position + len(plain), end)
            if low < high:
                data[low - start : high - start] = np.frombuffer(plain, np.uint8)[low - position : high - position]
            position += len(plain)
            if verify:
                checksum = zlib.crc32(plain, checksum)
            elif position >= end:
                break
        if verify and position == self.size:
            if checksum != self.crc32:
                raise CheckpointError(
                    f"{self.path} is damaged: checksum of its record {self.name!r}; get the file again"
                )
            self._verified.append(True)
        return position >= (self.size if verify else end)

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        """The uncompressed record, at most `_CHUNK` bytes at a time, and no byte more than its size."""
        file.seek(self.start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        stored, plain = self.stored_bytes, self.size
        pending = b""
        while plain:
            if not pending and stored:
                pending = file.read(min(_CHUNK, stored))
                stored -= len(pending)
                if not pending:
                    return
            chunk, rest = pending, b""
            if self.deflated:
                chunk = decoder.decompress(pending, min(_CHUNK, plain))
                rest = decoder.unconsumed_tail
            if not chunk and not rest and (decoder.eof or not stored):
                return
            pending = rest
            plain -= len(chunk)
            yield chunk


def read_head(path: str, length: int) -> bytes:
    """The first bytes of a file.

    Raises:
      CheckpointError: it is missing, a folder, a pipe or the like, cannot be read, or is what stands in the place of a
        file: nothing, a web page, a pointer of Git LFS, or a tar archive of PyTorch's first format.
    """
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a directory; name the checkpoint file in it")
    files.check_regular(path, CheckpointError)
    try:
        with open(path, "rb") as file:
            head = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    if not head:
        raise CheckpointError(f"{path} is empty; get the file again")
    if kind := files.kind_of(head):
        raise CheckpointError(f"{path} is {kind}")
    if head[_TAR] == b"ustar":
        raise CheckpointError(
            f"{path} is a tar archive, PyTorch's format from before 0.1.10; load it in PyTorch and torch.save it again"
        )
    return head


def open_archive(path: str) -> dict[str, Entry]:
    """The records of the archive by their names within it ("data.pkl", "data/0", ...).

    Raises:
      CheckpointError: as `read_head`; or it is no such archive, truncated, or its records overlap or share a name.
    """
    head = read_head(path, 512)
    if not head.startswith(b"PK"):
        found = file_formats.format_of(head)
        raise CheckpointError(f"{path} is not a PyTorch zip archive{f'; it is {found}' if found else ''}")
    entries = zip_records(path)
    roots = [entry.name.removesuffix("data.pkl") for entry in entries if entry.name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        names = ", ".join(entry.name for entry in entries[:3]) or "nothing"
        hint = "; arrays of NumPy need the suffix .npz" if names.endswith(".npy") else ""
        raise CheckpointError(
            f"{path} is not a PyTorch zip archive: it has no record data.pkl, but holds {names[:200]}{hint}"
        )
    return {entry.name.removeprefix(roots[0]): entry for entry in entries if entry.name.startswith(roots[0])}


def zip_records(path: str) -> list[Entry]:
    """The records of any zip archive; raises as `open_archive`."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            entries = [_entry(path, file, size, info) for info in archive.infolist() if not info.is_dir()]
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    # zipfile answers a damaged directory with errors of many classes.
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged ({one_line(error)}); get the file again") from error
    _check_together(path, entries)
    return entries


def _entry(path: str, file: BinaryIO, size: int, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{path}: its record {info.filename!r} is encrypted or compressed in an unknown way")
    if info.volume:
        raise CheckpointError(f"{path} is one part of an archive in several; put them together first")
    file.seek(info.header_offset)
    signature, compression, name_length, extra_length = struct.unpack("<4s4xH16xHH", file.read(30))
    name = file.read(name_length).decode("utf-8" if info.flag_bits & 0x800 else "cp437")
    start = info.header_offset + 30 + name_length + extra_length
    if signature != b"PK\x03\x04" or start + info.compress_size > size:
        raise CheckpointError(f"{path} is truncated or damaged at its record {info.filename!r}; get the file again")
    stored = info.compress_type == zipfile.ZIP_STORED
    outside = name.startswith("/") or "\\" in name or ".." in name.split("/")
    if (name, compression, name) != (info.orig_filename, info.compress_type, info.filename) or outside:
        raise CheckpointError(f"{path} is damaged: its record {info.filename!r} is described in two ways, or misnamed")
    if stored and info.compress_size != info.file_size:
        raise CheckpointError(f"{path} is damaged at its record {info.filename!r}; get the file again")
    return Entry(
        path, info.filename, start, info.compress_size, info.file_size, not stored, info.CRC, info.header_offset
    )


def _check_together(path: str, entries: list[Entry]) -> None:
    if len({entry.name for entry in entries}) < len(entries):
        raise CheckpointError(f"{path} is damaged: it has several records of one name")
    ordered = sorted(entries, key=lambda entry: entry.header)
    for entry, following in itertools.pairwise(ordered):
        if entry.start + entry.stored_bytes > following.header:
            raise CheckpointError(f"{path} is damaged: its records {entry.name!r} and {following.name!r} overlap")


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

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

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
    """A view of a storage; ValueError if it would reach beyond, or be larger than the storage is."""
    if len(elements(shape)) != len(elements(stride)) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions with {len(stride)} strides")
    shape, stride = tuple(shape), tuple(stride)
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a negative, fractional or absurd size, stride or offset")
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    if offset + _extent(shape, stride) > available:
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {available} elements")
    # Views may repeat elements (stride 0), so a few bytes in the file could claim any amount of memory.
    expanded = math.prod(shape) > max(available, _MAX_EXPANDED_BYTES // dtype.itemsize)
    if expanded or math.prod(max(length, 1) for length in shape) > max(available, _MAX_EMPTY_ELEMENTS):
        raise ValueError(f"a tensor of shape {shape} on a storage of only {available} elements")
    return LazyTensor(shape, dtype, storage, offset, stride)
