"""Arrays out of MATLAB's files of version 5 to 7.2, and nothing else of them.

SciPy reads all that such a file may hold, and ends the process on one that is nested deeply. Here what is not asked for
is passed over, so that neither depth nor number of what a file holds matters.

Source of the format: MathWorks, "MAT-File Level 5 File Format".
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**30
"""Of an array, unpacked."""

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2
_NUMERIC = range(6, 16)
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


class _Element(NamedTuple):
    kind: int
    content: memoryview


class _Matrix(NamedTuple):
    """kind: class of the array. parts: the elements that follow its name."""

    kind: int
    shape: tuple[int, ...]
    name: str
    parts: Iterator[_Element]


def read(content: bytes, keys: Sequence[str]) -> NDArray[np.number]:
    """An array of numbers.

    Args:
        content: of the file. keys: the name of a variable, and then those of the fields around the array.

    Raises:
        ValueError: it is no such file, is damaged, or has no such array.
    """
    mark = content[126:128]
    if len(content) < _HEADER or mark not in (b"IM", b"MI"):
        raise ValueError("it is no file of version 5 to 7.2")
    order = "<" if mark == b"IM" else ">"
    for element in _elements(memoryview(content)[_HEADER:], order):
        if element.kind == _COMPRESSED:
            element = next(_elements(memoryview(_unpacked(element.content)), order))
        if element.kind != _MATRIX:
            continue
        matrix = _matrix(element.content, order)
        if matrix.name == keys[0]:
            for key in keys[1:]:
                matrix = _field(matrix, key, order)
            return _numbers(matrix, order)
    raise ValueError(f"it has no {keys[0]}")


def _unpacked(content: memoryview) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"what is compressed in it is damaged: {error}") from error
    if not decompressor.eof:  # where the checksum is
        raise ValueError("what is compressed in it is cut off, or too large")
    return found


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, step = place + 8, size
        if small := kind >> 16:  # four bytes or less stand in the tag itself
            kind, size, start, step = kind & 0xFFFF, small, place + 4, 0
            if size > 4:
                raise ValueError("an element has a size that cannot be")
        if start + size > len(content):
            raise ValueError("it is cut off")
        yield _Element(kind, content[start : start + size])
        # Elements begin at multiples of eight bytes, but for compressed ones.
        place += 8 + (step if kind == _COMPRESSED else -(-step // 8) * 8)


def _matrix(content: memoryview, order: str) -> _Matrix:
    parts = _elements(content, order)
    try:
        flags, sizes, name = next(parts), next(parts), next(parts)
    except StopIteration:
        raise ValueError("an array has no name") from None
    if flags.kind != 6 or len(flags.content) != 8 or sizes.kind != 5 or name.kind not in (1, 2):
        raise ValueError("an array has no shape or name")
    shape = tuple(np.frombuffer(sizes.content, f"{order}i4").tolist())
    (kind,) = struct.unpack_from(f"{order}I", flags.content)
    if min(shape, default=0) < 0 or len(shape) > 32 or (kind & 0x0800 and kind & 0xFF in _NUMERIC):
        raise ValueError("an array has a shape that cannot be, or complex numbers")
    return _Matrix(kind & 0xFF, shape, bytes(name.content).decode("latin-1"), parts)


def _field(matrix: _Matrix, key: str, order: str) -> _Matrix:
    """The field of a structure of one item."""
    if matrix.kind != _STRUCT or math.prod(matrix.shape) != 1:
        raise ValueError(f"it has no {key} in {matrix.name or 'it'}")
    try:
        length, listed = next(matrix.parts), next(matrix.parts)
        width = int(np.frombuffer(length.content, f"{order}i4")[0])
    except (StopIteration, IndexError, ValueError):
        raise ValueError("a structure has no fields") from None
    if width < 1:
        raise ValueError("a structure has no fields")
    whole = bytes(listed.content)
    names = [whole[place : place + width].split(b"\0")[0] for place in range(0, len(whole), width)]
    for name, part in zip(names, matrix.parts, strict=False):
        if name == key.encode():
            if part.kind != _MATRIX:
                break
            return _matrix(part.content, order)
    raise ValueError(f"it has no {key}")


def _numbers(matrix: _Matrix, order: str) -> NDArray[np.number]:
    stored = next(matrix.parts, None)
    if matrix.kind not in _NUMERIC or stored is None or stored.kind not in _TYPES:
        raise ValueError("it is no array of numbers")
    dtype = np.dtype(f"{order}{_TYPES[stored.kind]}")
    if len(stored.content) != math.prod(matrix.shape) * dtype.itemsize:
        raise ValueError("an array has another number of items than its shape says")
    return np.frombuffer(stored.content, dtype).reshape(matrix.shape, order="F")
