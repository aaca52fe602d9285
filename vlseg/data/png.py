"""The structure of PNG files, checked as the format allows: lengths, checksums and the amount of image data.

Pillow reads the pixels, but passes over the checksums of image data, and refuses files for texts that no pixel needs.
So it is given a file with nothing but what decides pixels and orientation.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from vlseg.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

GREY, PALETTE = 0, 3
"""Colour types."""

_CHANNELS = {GREY: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), 2: (8, 16), PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Of interlaced files: the first column and row of each pass, and the steps between its columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# What the pixels, or which way is up, depend on although a reader need not know it.
_NEEDED = (b"tRNS",)
# Texts in which programs keep EXIF and XMP.
_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_LONGEST_TEXT = 1 << 20
_PIECE = 1 << 20
_EMPTY, _END = (bytes(4) + kind + zlib.crc32(kind).to_bytes(4, "big") for kind in (b"IDAT", b"IEND"))


class Header(NamedTuple):
    """The size in pixels, the bits of a sample, the colour type, and whether the file is interlaced."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def size_of_data(self) -> int:
        """Bytes of the image data, unpacked."""
        passes = _PASSES if self.interlaced else ((0, 0, 1, 1),)
        bits = self.depth * _CHANNELS[self.colour]
        total = 0
        for left, top, across, down in passes:
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


@dataclass(frozen=True)
class Structure:
    """What a file consists of.

    Attributes:
        header: the first chunk.
        frames: how many pictures it holds, more than 1 in an animation.
        kept: a PNG of what pixels and orientation depend on; without image data if only the structure was read.
    """

    header: Header
    frames: int
    kept: bytes


def read_structure(file: BinaryIO, name: str) -> Structure:
    """The structure of a file, from its beginning; image data are passed over.

    Raises:
        ImageError: it is truncated, or damaged outside of the image data; see `read`.
    """
    return _structure(file, name, with_pixels=False)


def read(data: bytes, name: str) -> Structure:
    """The content of a file, every checksum verified that pixels depend on.

    A damaged ancillary chunk is passed over unless it is EXIF, and so is what follows the end.

    Raises:
        ImageError: truncated; a wrong checksum in a chunk that decides pixels; image data that are damaged, or more or
            less than the header says.
    """
    structure = _structure(io.BytesIO(data), name, with_pixels=True)
    _check_image_data(structure, name)
    return structure


def _structure(file: BinaryIO, name: str, with_pixels: bool) -> Structure:
    size = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    kept, oriented = [SIGNATURE], []
    header, frames, colours, filled, ended = None, 1, False, False, False
    for kind, length in _chunks(file, size, name):
        if header is None and kind != b"IHDR":
            raise _damaged(name)
        if kind == b"IDAT" and not with_pixels:
            filled = True
            file.seek(length + 4, io.SEEK_CUR)
            continue
        needed = kind in _CRITICAL or kind in _NEEDED
        content, checksum = file.read(length), file.read(4)
        whole = zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(checksum, "big")
        if not whole and (needed or _may_turn(content)):
            raise ImageError(f"{name}: is damaged: wrong checksum in {kind.decode()}")
        if kind == b"IHDR":
            if header is not None:
                raise _damaged(name)
            header = _header(content, name)
        elif kind == b"acTL" and whole and length >= 8:
            frames = max(1, int.from_bytes(content[:4], "big"))
        colours |= kind == b"PLTE"
        filled |= kind == b"IDAT"
        ended |= kind == b"IEND"
        chunk = b"".join((length.to_bytes(4, "big"), kind, content, checksum))
        if needed and kind != b"IEND":
            kept.append(chunk)
        elif whole and (kind == b"eXIf" or _is_orientation_text(kind, content)):
            oriented.append(chunk)
    if header is None or not ended or not filled or (header.colour == PALETTE and not colours):
        raise ImageError(f"{name}: is truncated or damaged")
    # Orientation comes first, so that no pixels have to be read for it.
    kept[2:2] = oriented
    if not with_pixels:
        kept.append(_EMPTY)
    return Structure(header, frames, b"".join((*kept, _END)))


def _chunks(file: BinaryIO, size: int, name: str) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk. The file stands at its content; the caller leaves it behind its checksum."""
    while True:
        start = file.read(8)
        if len(start) < 8:
            raise ImageError(f"{name}: is truncated or damaged")
        length, kind = struct.unpack(">I4s", start)
        if not kind.isalpha() or not kind.isascii():
            raise _damaged(name)
        if file.tell() + length + 4 > size:
            raise ImageError(f"{name}: is truncated or damaged")
        if kind[:1].isupper() and kind not in _CRITICAL:
            raise _damaged(name)  # a reader must know it
        yield kind, length
        if kind == b"IEND":
            return


def _header(content: bytes, name: str) -> Header:
    if len(content) != 13:
        raise _damaged(name)
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", content)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1 or not width or not height:
        raise _damaged(name)
    return Header(width, height, depth, colour, bool(interlaced))


def _may_turn(content: bytes) -> bool:
    """Whether a damaged chunk looks like EXIF or XMP, without which another way may be up; its kind may be damaged."""
    return content[:2] in (b"II", b"MM") or content[2:4] in (b"*\0", b"\0*") or content.startswith(_TEXTS)


def _is_orientation_text(kind: bytes, content: bytes) -> bool:
    """Whether a chunk may say which way is up, and Pillow reads it."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or not content.startswith(_TEXTS) or len(content) > _LONGEST_TEXT:
        return False
    packed = kind == b"zTXt" or (kind == b"iTXt" and content.partition(b"\0")[2][:1] == b"\1")
    if not packed:
        return True
    text = content.partition(b"\0")[2][1:] if kind == b"zTXt" else content.split(b"\0", 1)[1][2:].split(b"\0", 2)[-1]
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(text, _LONGEST_TEXT)
        return not unpacker.unconsumed_tail
    except zlib.error:
        return False


def _check_image_data(structure: Structure, name: str) -> None:
    """Unpacks the image data piece by piece, keeping nothing, to the checksum at their end."""
    expected, found = structure.header.size_of_data, 0
    unpacker = zlib.decompressobj()
    file = io.BytesIO(structure.kept)
    file.seek(len(SIGNATURE))
    try:
        for kind, length in _chunks(file, len(structure.kept), name):
            content = file.read(length)
            file.seek(4, io.SEEK_CUR)
            if kind != b"IDAT":
                continue
            while content and not unpacker.eof and found <= expected:
                found += len(unpacker.decompress(content, _PIECE))
                content = unpacker.unconsumed_tail
        while not unpacker.eof and found <= expected:
            more = unpacker.decompress(b"", _PIECE)
            if not more:
                break
            found += len(more)
    except zlib.error:
        raise ImageError(f"{name}: is truncated or damaged: its image data cannot be unpacked") from None
    if not unpacker.eof or found != expected:
        amount = "more" if found > expected else "less"
        raise ImageError(f"{name}: is truncated or damaged: it holds {amount} image data than its header says")


def _damaged(name: str) -> ImageError:
    return ImageError(f"{name}: is not an image, or is damaged; as a PNG it breaks off or has an unknown part")
