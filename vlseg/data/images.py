"""Reading pictures and label maps from files that may be anything, and resizing them as the official code does.

Pictures are uint8 [H, W, 3] RGB, upright; label maps are int32 [H, W].
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from einops import repeat
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from vlseg import file_formats, files
from vlseg.data import arrays, heif, label_pixels, png, tiff
from vlseg.data.orientation import Picture, Shape, exif_orientation, upright, without_warnings
from vlseg.errors import ImageError

MAX_PIXELS = 100_000_000
EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    *heif.extensions(),
)

# Pillow reads many more, some by starting other programs (PostScript); a data set needs none of them.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FORMATS_IN_WORDS = "JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, AVIF or HEIC"
_HEAD = 512
# Headers of photographs are mostly shorter: then they are read without holding up other threads.
_BUFFER = 1 << 16
_THREADS = 16
# cv2.resize weighs uint8 pixels with integers of this many bits, and so must whoever wants its grey levels.
_WEIGHT_BITS = 11

ImageSource = str | os.PathLike[str] | Image.Image | bytes | np.ndarray


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """A picture as RGB pixels, upright.

    Args:
        source: a file, its content, a PIL image, or an array uint8 [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).
            Alpha is dropped; 16-bit grey is scaled from its full range; of an animation the first frame is read.
            What other programs hold: see `vlseg.data.arrays`.

    Returns:
        uint8 [H, W, 3]; may share memory with an array given as `source`.

    Raises:
        ImageError: missing, empty, damaged or no picture; no pixel; more than MAX_PIXELS pixels.
    """
    return read_picture(source).pixels


def read_picture(source: ImageSource) -> Picture:
    """`read_image` with the orientation that a label map beside it may need."""
    if isinstance(source, np.ndarray):
        pixels = arrays.rgb(source)
        _check_size((pixels.shape[1], pixels.shape[0]), "image array")
        return Picture(pixels, 1)
    if isinstance(source, bytes):
        return decode_picture(source, "image")
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        _check_size(source.size, name)
        try:
            return _picture(source, name)
        except ImageError as error:
            file = getattr(source, "fp", source)
            if error.__cause__ and (file is None or getattr(file, "closed", False)):
                message = f"{name}: its file was closed before its pixels were read; load them first"
                raise ImageError(message) from error
            raise
    with _opened(source) as opened:
        return _picture(opened.image, str(source))


def read_label(path: str | os.PathLike[str], palette: NDArray[np.uint8] | None = None) -> NDArray[np.int32]:
    """A label map: the palette indices or the grey values of a lossless file, turned as its own EXIF says.

    Args:
        path: the file. Ids that it holds scaled, as formats do with few bits, are scaled back.
        palette: uint8 [K, 3], the colour of each id in the data set; then a file of colours is read too.

    Returns:
        int32 [H, W], values in [0, 65535].

    Raises:
        ImageError: as `read_image`, and when the ids cannot be told exactly: see `vlseg.data.label_pixels.ids`.
    """
    with _opened(path) as opened:
        return _label(opened, str(path), palette)


def read_label_colours(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A label map as colours uint8 [H, W, 3], of a file that keeps them exactly.

    Raises:
        ImageError: as `read_image`; and as `vlseg.data.label_pixels.colours`.
    """
    with _opened(path) as (image, _, structure):
        return _decode(image, str(path), lambda image, name: label_pixels.colours(image, name, structure))[0]


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """`read_image` of a file's content; `name` is what errors call it."""
    return decode_picture(data, name).pixels


def decode_picture(data: bytes, name: str) -> Picture:
    """`read_picture` of a file's content; `name` is what errors call it."""
    with _opened(io.BytesIO(data), name) as opened:
        return _picture(opened.image, name)


def decode_label(data: bytes, name: str) -> NDArray[np.int32]:
    """`read_label` of a file's content; `name` is what errors call it."""
    with _opened(io.BytesIO(data), name) as opened:
        return _label(opened, name, None)


def is_plain(data: bytes) -> bool:
    """Whether the content of a picture file is RGB or grey pixels, upright, as a JPEG or PNG: any reader's pixels."""
    with _opened(io.BytesIO(data), "image", pixels=False) as (image, _, _):
        return image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and exif_orientation(image, True) == 1


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The height and width that `read_image` would give, from the header of the file alone.

    Raises:
        ImageError: as `read_image`, but damaged pixels go unnoticed.
    """
    return read_shape(path)[:2]


def read_shape(path: str | os.PathLike[str]) -> Shape:
    """`check_image` with the orientation that a label map beside it may need."""
    with _opened(path, pixels=False) as opened:
        return _shape(opened.image)


def decode_shape(data: bytes, name: str) -> Shape:
    """`read_shape` of a file's content; `name` is what errors call it."""
    with _opened(io.BytesIO(data), name, pixels=False) as opened:
        return _shape(opened.image)


def check_images(paths: Iterable[str | os.PathLike[str]]) -> list[tuple[int, int] | ImageError]:
    """`check_image` of each of many files, several at a time: for each its result or its error."""

    def check(path: str | os.PathLike[str]) -> tuple[int, int] | ImageError:
        try:
            return check_image(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(check, paths))


def orientation_of(file: str | os.PathLike[str] | bytes) -> int:
    """The EXIF orientation of a file, 1 (upright) to 8; 1 for what is no picture."""
    try:
        with _opened(io.BytesIO(file) if isinstance(file, bytes) else file, pixels=False) as (image, _, _):
            return exif_orientation(image, header_only=True)
    except ImageError:
        return 1


def rescaled_size(height: int, width: int, short_side: int = 512, long_side: int = 2048) -> tuple[int, int]:
    """(height, width) after the largest scaling that keeps the aspect, `short_side` and `long_side` (mmcv)."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resize, uint8 [H, W, 3] -> uint8 [h, w, 3] for `size` = (h, w).

    Half-pixel centres and no antialiasing; the same integers as cv2.resize with INTER_LINEAR, with which the
    official code prepares its pictures.
    """
    return resize_window(image, size, slice(0, size[0]), slice(0, size[1]))


def resize_window(image: NDArray[np.uint8], size: tuple[int, int], rows: slice, columns: slice) -> NDArray[np.uint8]:
    """`resize_image(image, size)[rows, columns]`, computing no more than that window. Slices need start and stop."""
    top, bottom, row_weights = (taps[rows] for taps in _taps(image.shape[0], size[0]))
    left, right, column_weights = (taps[columns] for taps in _taps(image.shape[1], size[1]))
    used, compact = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    lines = image[used]
    one = 1 << _WEIGHT_BITS
    column_weights = column_weights[:, None]
    across = lines[:, left] * (one - column_weights) + lines[:, right] * column_weights
    across >>= 4
    row_weights = row_weights[:, None, None]
    above, below = across[compact[: len(top)]], across[compact[len(top) :]]
    above *= one - row_weights
    above >>= 16
    below *= row_weights
    below >>= 16
    above += below
    above += 2
    above >>= 2
    return above.astype(np.uint8)


def resize_nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest resize [H, W] -> [h, w] for `size` = (h, w): row i is source row floor(i * H / h), as in cv2."""
    rows, columns = (_nearest(source, target) for source, target in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns]


def _nearest(source: int, target: int) -> np.ndarray:
    # Not i * source // target: cv2 rounds the scale, and where the product is whole that decides.
    positions = np.floor(np.arange(target) * (1 / (target / source))).astype(np.int32)
    return np.minimum(positions, source - 1)


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` positions: the two source positions to mix, and the integer weight of the second."""
    # Single precision on purpose: it decides how the weights round.
    centres = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(centres).astype(np.int32)
    weights = np.rint((centres - first.astype(np.float32)) * np.float32(1 << _WEIGHT_BITS)).astype(np.int32)
    return np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1), weights


class _Opened(NamedTuple):
    """A file whose header is sound: its image, not decoded yet, its first bytes, and the structure of a PNG."""

    image: Image.Image
    head: bytes
    structure: png.Structure | None


def _shape(image: Image.Image) -> Shape:
    (width, height), orientation = image.size, exif_orientation(image, header_only=True)
    height, width = (width, height) if orientation >= 5 else (height, width)
    return Shape(height, width, orientation)


@contextmanager
def _opened(
    file: str | os.PathLike[str] | io.BytesIO, name: str | None = None, pixels: bool = True
) -> Iterator[_Opened]:
    """An image whose header is sound and whose size is within the limits; its pixels are not decoded yet.

    Args:
        file: a path, or the content of a file. name: what errors call it; by default the path.
        pixels: whether they will be wanted; if not, as little as possible is read.
    """
    name = str(file) if name is None else name
    with file if isinstance(file, io.BytesIO) else _open_file(file, name) as stream:
        head, structure = _content(stream, name, _HEAD), None
        stream.seek(0)
        if problem := files.kind_of(head):
            raise ImageError(f"{name}: is {problem}")
        if head.startswith(png.SIGNATURE):
            structure = png.read_structure(stream, name)
            _check_size((structure.header.width, structure.header.height), name)
            if pixels:
                stream.seek(0)
                structure = png.read(_content(stream, name), name)
        source = stream if structure is None else io.BytesIO(structure.kept)
        with _open_header(source, name, heif.formats(head, name) or _FORMATS) as image:
            _check_size(image.size, name)
            _check_layout(image, head, name)
            if pixels and isinstance(image, TiffImageFile):
                tiff.check_data(image, stream, name)
            yield _Opened(image, head, structure)


def _open_file(path: str | os.PathLike[str], name: str) -> BinaryIO:
    """A file to read from; ImageError for what no file can be opened from, in words that say why."""
    if os.path.isdir(path):
        raise ImageError(f"{name}: is a directory, not an image file")
    files.check_regular(path, ImageError)
    try:
        return open(path, "rb", buffering=_BUFFER)
    except PermissionError:
        raise ImageError(f"{name}: cannot be read: permission denied") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or error}") from error


def _content(file: BinaryIO, name: str, length: int = -1) -> bytes:
    """So many bytes of a file from where it is, or all; ImageError if its disk or network fails."""
    try:
        return file.read(length)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or error}") from error


def _open_header(file: BinaryIO, name: str, formats: tuple[str, ...]) -> Image.Image:
    try:
        with without_warnings():
            return Image.open(file, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_large(name)) from None
    except Exception as error:  # on damaged headers Pillow raises almost anything
        file.seek(0)
        found = file_formats.format_of(file.read(_HEAD))
        what = f": it is {found}" if found and not found.endswith(" picture") else ""
        raise ImageError(f"{name}: is not an image, or is damaged{what}; expected {_FORMATS_IN_WORDS}") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(width, height) < 1:
        raise ImageError(f"{name}: {width} x {height} is a picture without pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name))


def _too_large(name: str) -> str:
    return f"{name}: is too large; at most {MAX_PIXELS:,} pixels are read, so scale it down first"


def _check_layout(image: Image.Image, head: bytes, name: str) -> None:
    """Refuses what Pillow would read as other pixels, or with memory that the size of the picture does not bound."""
    if image.format == "BMP":
        bits = int.from_bytes(head[28:30] if head[14] >= 40 else head[24:26], "little")
        if (image.mode, bits) not in (("1", 1), ("L", 8)) and image.mode in ("1", "L"):
            raise ImageError(f"{name}: is a BMP of {bits} bits with a grey palette, which is not read; save it as PNG")
    if isinstance(image, TiffImageFile):
        tiff.check_tiles(image, name, MAX_PIXELS)


def _decode(image: Image.Image, name: str, pixels: Callable[[Image.Image, str], np.ndarray]) -> tuple[np.ndarray, int]:
    """The upright pixels of `image` as the function `pixels` takes them from it, and their orientation before."""
    try:
        stored, orientation = pixels(image, name), exif_orientation(image)
        return upright(stored, orientation), orientation
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged data Pillow's decoders raise almost anything
        raise ImageError(f"{name}: is truncated or damaged") from error


def _picture(image: Image.Image, name: str) -> Picture:
    return Picture(*_decode(image, name, _rgb_pixels))


def _label(opened: _Opened, name: str, palette: NDArray[np.uint8] | None) -> NDArray[np.int32]:
    image, _, structure = opened
    return _decode(image, name, lambda image, name: label_pixels.ids(image, name, structure, palette))[0]


def _rgb_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    image.load()
    if image.mode.startswith("I"):
        levels = label_pixels.sixteen_bits(image, name)
        # Pillow has 16-bit levels of these formats as 32 bits; others may as well be 8-bit levels.
        if image.mode == "I" and image.format not in ("PNG", "PPM") and 0 < levels.max() <= 255:
            raise ImageError(f"{name}: has 32-bit pixels of unknown range, up to {levels.max()}; save it with 8 bits")
        grey = ((levels + 128) // 257).astype(np.uint8)
        return repeat(grey, "h w -> h w rgb", rgb=3)
    if image.mode == "F":
        raise ImageError(f"{name}: has floating point pixels of unknown range; save it with 8 bits")
    if image.mode in ("P", "PA"):
        # A transparent palette entry keeps its colour only this way round.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
