"""PyTorch's element types, storages, and tensors that are still in their file."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from vlseg.errors import CheckpointError
from vlseg.torch_files.archive import Entry, one_line

_MAX_EXPANDED_ELEMENTS = 1 << 28


DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "int32": np.dtype(np.int32),
    "uint32": np.dtype(np.uint32),
    "int64": np.dtype(np.int64),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
DTYPE_ALIASES = {
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "cfloat": "complex64",
    "cdouble": "complex128",
}
STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


def torch_dtype_name(dtype: np.dtype) -> str:
    """PyTorch's name of an element type; CheckpointError if it has none."""
    native = dtype.newbyteorder("=")
    for name, known in DTYPES.items():
        if known == native:
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
