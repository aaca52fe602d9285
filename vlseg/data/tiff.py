"""What TIFF files can tell of damage and of the memory that they will take, before Pillow reads their pixels."""

import math
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from PIL.TiffImagePlugin import TiffImageFile

from vlseg.errors import ImageError

_BITS, _COMPRESSION, _SAMPLES = 258, 259, 277
_STRIPS, _STRIP_SIZES = 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES = 322, 323, 324, 325
_DEFLATE = (8, 32946)
_PIECE = 1 << 20


def check_tiles(image: TiffImageFile, name: str, most: int) -> None:
    """Raises ImageError if a tile, which is unpacked as a whole, has more than `most` pixels."""
    sides = [image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
    if not all(isinstance(side, int) for side in sides) or math.prod(sides) > most:
        raise ImageError(f"{name}: is a TIFF in tiles that are too large or damaged")


def check_data(image: TiffImageFile, file: BinaryIO, name: str) -> None:
    """Verifies the checksums of deflate, which libtiff passes over once it has all pixels.

    Other compressions carry none. The file's position stays.

    Raises:
        ImageError: a strip or tile is damaged, or holds far more than it should.
    """
    tags = image.tag_v2
    if tags.get(_COMPRESSION, 1) not in _DEFLATE:
        return
    position = file.tell()
    try:
        starts, sizes = (_numbers(tags.get(strips, tags.get(tiles, ()))) for strips, tiles in _PARTS)
        sample = (max(_numbers(tags.get(_BITS, 1))) + 7) // 8 * int(tags.get(_SAMPLES, 1))
        width, height = (side + int(tags.get(tag, 0)) for side, tag in zip(image.size, _TILE_TAGS, strict=True))
        left = 2 * width * height * sample + _PIECE
        for start, size in zip(starts, sizes, strict=True):
            file.seek(start)
            left -= _unpacked(file.read(size), left)
    except (zlib.error, ValueError, TypeError, OverflowError, OSError):
        raise ImageError(f"{name}: is truncated or damaged: its image data cannot be unpacked") from None
    finally:
        file.seek(position)


_PARTS = ((_STRIPS, _TILES), (_STRIP_SIZES, _TILE_SIZES))
_TILE_TAGS = (_TILE_WIDTH, _TILE_HEIGHT)


def _numbers(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _unpacked(content: bytes, most: int) -> int:
    """How many bytes come out; ValueError if they are more than `most` or end before their checksum."""
    if not content:
        return 0  # a part that was left out
    unpacker, found = zlib.decompressobj(), 0
    while not unpacker.eof:
        piece = unpacker.decompress(content, _PIECE)
        found += len(piece)
        if found > most or (not piece and not unpacker.unconsumed_tail and not unpacker.eof):
            raise ValueError
        content = unpacker.unconsumed_tail
    return found
