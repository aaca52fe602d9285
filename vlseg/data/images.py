"""Reading pictures and label maps from files that may be anything, and resizing them as the official code does.

Pictures are uint8 [H, W, 3] RGB, upright; label maps are int32 [H, W].
"""

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray
from PIL import Image

from vlseg.errors import ImageError

MIN_SIDE = 8
MAX_PIXELS = 100_000_000
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")

# Pillow reads many more, some by starting other programs (PostScript); a data set needs none of them.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FORMATS_IN_WORDS = "JPEG, PNG, WebP, GIF, BMP, TIFF or PNM"
_ORIENTATION_TAG = 0x0112
# cv2.resize weighs uint8 pixels with integers of this many bits, and so must whoever wants its grey levels.
_WEIGHT_BITS = 11

ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """A picture as RGB pixels, upright.

    Args:
        source: a file, a PIL image, or an array uint8 [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).
            Alpha is dropped; 16-bit grey is scaled from its full range; of an animation the first frame is read.

    Returns:
        uint8 [H, W, 3]; may share memory with an array given as `source`.

    Raises:
        ImageError: missing, empty, damaged or no picture; a side below MIN_SIDE; more than MAX_PIXELS pixels.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        _check_size(source.size, name)
        return _decode(source, name, _rgb_pixels)
    with _opened(source) as image:
        return _decode(image, str(source), _rgb_pixels)


def read_label(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """A label map: the palette indices or the grey values of a lossless file, turned upright as its picture would be.

    Returns:
        int32 [H, W], values in [0, 65535].

    Raises:
        ImageError: as `read_image`, and when the file has colours instead of ids, or is a JPEG, which alters ids.
    """
    with _opened(path) as image:
        return _lossless(image, str(path))


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """`read_image` of a file's content; `name` is what errors call it."""
    with _opened(io.BytesIO(data), name) as image:
        return _decode(image, name, _rgb_pixels)


def decode_label(data: bytes, name: str) -> NDArray[np.int32]:
    """`read_label` of a file's content; `name` is what errors call it."""
    with _opened(io.BytesIO(data), name) as image:
        return _lossless(image, name)


def is_plain(data: bytes) -> bool:
    """Whether the content of a picture file is RGB or grey pixels, upright, as a JPEG or PNG: any reader's pixels."""
    with _opened(io.BytesIO(data), "image") as image:
        return image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and _orientation(image) == 1


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The height and width that `read_image` would give, from the header of the file alone.

    (A PNG without EXIF before its pixels is decoded, because EXIF may also follow them.)

    Raises:
        ImageError: as `read_image`, but damaged pixels go unnoticed.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) >= 5
        return (width, height) if turned else (height, width)


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


@contextmanager
def _opened(file: str | os.PathLike[str] | io.BytesIO, name: str | None = None) -> Iterator[Image.Image]:
    """An image whose header is sound and whose size is within the limits; its pixels are not decoded yet.

    Args:
        file: a path, or the content of a file. name: what errors call it; by default the path.
    """
    name = str(file) if name is None else name
    if not isinstance(file, io.BytesIO):
        _check_file(file)
    with _open_header(file, name) as image:
        _check_size(image.size, name)
        yield image


_WARNINGS = threading.Lock()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns of large pictures and of odd EXIF; here the one is an error or fine, the other harmless."""
    # Threads that change the filters at the same time would leave them changed.
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _check_file(path: str | os.PathLike[str]) -> None:
    """Raises ImageError for what no file can be opened from, in words that say why."""
    if os.path.isdir(path):
        raise ImageError(f"{path}: is a directory, not an image file")
    if not os.path.exists(path):
        raise ImageError(f"{path}: no such file")
    if os.path.getsize(path) == 0:
        raise ImageError(f"{path}: is an empty file")


def _open_header(file: str | os.PathLike[str] | io.BytesIO, name: str) -> Image.Image:
    try:
        with _without_warnings():
            return Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_large(name)) from None
    except PermissionError:
        raise ImageError(f"{name}: cannot be read: permission denied") from None
    except Exception as error:  # on damaged headers Pillow raises almost anything
        raise ImageError(f"{name}: is not an image, or is damaged; expected {_FORMATS_IN_WORDS}") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} is too small; a side needs {MIN_SIDE} pixels or more")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name))


def _too_large(name: str) -> str:
    return f"{name}: is too large; at most {MAX_PIXELS:,} pixels are read, so scale it down first"


def _decode(image: Image.Image, name: str, pixels: Callable[[Image.Image, str], np.ndarray]) -> np.ndarray:
    """The upright pixels of `image` as the function `pixels` takes them from it."""
    try:
        image.load()
        return _upright(pixels(image, name), _orientation(image))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged data Pillow's decoders raise almost anything
        raise ImageError(f"{name}: is truncated or damaged") from error


def _lossless(image: Image.Image, name: str) -> NDArray[np.int32]:
    """The label ids of an image that is no JPEG."""
    if image.format == "JPEG":
        raise ImageError(f"{name}: a JPEG does not keep label ids exactly; save labels as PNG")
    return _decode(image, name, _label_pixels)


def _rgb_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        levels = _sixteen_bits(image, name)
        grey = ((levels + 128) // 257).astype(np.uint8)
        return repeat(grey, "h w -> h w rgb", rgb=3)
    if image.mode == "F":
        raise ImageError(f"{name}: has floating point pixels of unknown range; save it with 8 bits")
    if image.mode in ("P", "PA"):
        # A transparent palette entry keeps its colour only this way round.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _label_pixels(image: Image.Image, name: str) -> NDArray[np.int32]:
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.int32)
    if image.mode.startswith("I"):
        return _sixteen_bits(image, name)
    raise ImageError(f"{name}: has {image.mode} pixels, not label ids; save labels as palette or greyscale PNG")


def _sixteen_bits(image: Image.Image, name: str) -> NDArray[np.int32]:
    """Values in [0, 65535] of a mode I or I;16* image; Pillow reads some 16-bit files into the 32 bits of mode I."""
    levels = np.asarray(image).astype(np.int32)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError(f"{name}: has 32-bit pixels; save it with 8 or 16 bits")
    return levels


def _array_to_rgb(array: np.ndarray) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"an image array must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {array.dtype} {list(array.shape)}"
        )
    _check_size((array.shape[1], array.shape[0]), "image array")
    if array.ndim == 2:
        return repeat(array, "h w -> h w rgb", rgb=3)
    return np.ascontiguousarray(array[:, :, :3])


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF files itself.
    try:
        with _without_warnings():
            value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # EXIF is often damaged, and a picture is worth reading without it
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = rearrange(pixels, "h w ... -> w h ...")
    # Where the stored first row and first column lie in the upright picture: bottom, right.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
