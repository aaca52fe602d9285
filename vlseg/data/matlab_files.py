"""Arrays of numbers, and lists of texts, out of MATLAB's files of version 5 to 7.2, and nothing else of them.

SciPy reads all that such a file may hold, and ends the process on one that is nested deeply. Here what is not asked for
is passed over, so that neither depth nor number of what a file holds matters.

Source of the format: MathWorks, "MAT-File Level 5 File Format".
"""

import itertools
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
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
"""Of texts, by the type of their elements; MATLAB itself writes 4."""

_MAX_TEXTS = 2**16
"""Of a list."""


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
    matrix, order = _variable(content, keys[0])
    for key in keys[1:]:
        matrix = _field(matrix, key, order)
    return _numbers(matrix, order)


def read_texts(content: bytes, key: str) -> list[str]:
    """The texts of a cell array, in MATLAB's order: column by column.

    Args:
        content: of the file. key: the name of the variable.

    Raises:
        ValueError: it is no such file, is damaged, or has no such cell array.
    """
    matrix, order = _variable(content, key)
    count = math.prod(matrix.shape)
    if matrix.kind != _CELL or count > _MAX_TEXTS:
        raise ValueError(f"{key} is no list of texts")
    parts = list(itertools.islice(matrix.parts, count))
    if len(parts) < count or any(part.kind != _MATRIX for part in parts):
        raise ValueError(f"{key} has another number of items than its shape says")
    return [_text(_matrix(part.content, order), key, order) for part in parts]


def _variable(content: bytes, name: str) -> tuple[_Matrix, str]:
    """A variable of a file, and the order of bytes in it; ValueError if there is none of the name."""
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
        if matrix.name == name:
            return matrix, order
    raise ValueError(f"it has no {name}")


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


def _text(matrix: _Matrix, key: str, order: str) -> str:
    """A text of one row, or of none."""
    stored = next(matrix.parts, None)
    long = math.prod(matrix.shape)
    # SciPy writes an empty text as one of no rows, and MATLAB without a content.
    if matrix.kind != _CHAR or (long and (len(matrix.shape) != 2 or matrix.shape[0] != 1)):
        raise ValueError(f"{key} holds something else than texts of one line")
    if not long:
        return ""
    encoding = _ENCODINGS.get(stored.kind, "") if stored else ""
    if not stored or not encoding:
        raise ValueError(f"{key} holds a text without letters")
    suffix = {"<": "-le", ">": "-be"}[order] if encoding == "utf-16" else ""
    try:
        return bytes(stored.content).decode(encoding + suffix)
    except UnicodeDecodeError as error:
        raise ValueError(f"{key} holds a text that cannot be read: {error}") from error
