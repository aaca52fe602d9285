"""Pictures as other programs hold them: arrays and tensors of any library, and files in memory."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from einops import repeat
from numpy.typing import NDArray
from PIL import Image

from vlseg.errors import ImageError

Picture = Any
"""A path, a PIL image, the content of a file (bytes, or a binary file such as BytesIO), or an array or tensor of NumPy,
JAX, PyTorch or TensorFlow: [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels; uint8, other integers (but uint16)
in [0, 255], or floats in [0, 1]. Alpha is dropped."""

CHANNELS = (1, 3, 4)


class Pixels(np.ndarray[Any, np.dtype[np.uint8]]):
    """A view of pixels [H, W, 3] that are known to be such; of other arrays [1, 1, 3] may as well be [C, H, W]."""


def is_batch(value: Any) -> bool:
    """Whether a value is an array or tensor of several pictures, [B, H, W, C] or [B, C, H, W]."""
    return len(_shape(value) or ()) == 4


def is_picture(value: Any) -> bool:
    """Whether a value is meant as one picture, not as several; it need not be one that can be read."""
    one = str | os.PathLike | Image.Image | bytes | bytearray | memoryview | Mapping
    return value is None or isinstance(value, one) or hasattr(value, "read") or _is_array(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and _shape(value) is not None and not is_batch(value)


def _shape(value: Any) -> tuple[Any, ...] | None:
    """The shape of an array; () of one whose library says that it has none, None of what is no array."""
    try:
        return tuple(value.shape)
    except AttributeError:
        return None
    except Exception:  # PyTorch's nested tensors and TensorFlow's of unknown rank have none
        return ()


def several(pictures: Any) -> Iterator[Picture]:
    """Each of several pictures; ImageError for one, whose rows or letters would be taken for pictures."""
    if is_picture(pictures) or not isinstance(pictures, Iterable):
        raise ImageError(f"segment_each takes several images, not one {type(pictures).__name__}: give a list of them")
    return iter(_array(pictures) if is_batch(pictures) else pictures)


def plain(value: Picture) -> str | os.PathLike[str] | Image.Image | bytes | NDArray[np.uint8]:
    """A picture as `vlseg.data.images` reads it: a path, a PIL image, the content of a file, or uint8 pixels.

    Args:
        value: see `Picture`.

    Returns:
        of an array uint8 [H, W], [H, W, 3] or [H, W, 4].

    Raises:
        ImageError: it is something else, or an array of another shape, type or range; it says which.
    """
    if isinstance(value, str | os.PathLike | Image.Image):
        return value
    if isinstance(value, Pixels):
        return value.view(np.ndarray)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read"):
        return _content(value)
    if _is_array(value) or is_batch(value):
        return _levels(_channels_last(_array(value)))
    raise ImageError(
        f"a {type(value).__name__} is no picture: give a path, a PIL image, a file's content, an array or a tensor"
    )


def rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [H, W] (grey), [H, W, 3] or [H, W, 4] (RGBA) -> uint8 [H, W, 3]; ImageError for all other arrays."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"an image array must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {array.dtype} {list(array.shape)}"
        )
    return repeat(array, "h w -> h w c", c=3) if array.ndim == 2 else np.ascontiguousarray(array[:, :, :3])


def _content(file: Any) -> bytes:
    """A file in memory, from its beginning as Pillow reads it."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"a {type(file).__name__} cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise ImageError(f"a {type(file).__name__} that gives text is no picture: open the file in binary mode")
    return content


def _array(value: Any) -> NDArray[Any]:
    """Any library's array or tensor as NumPy's."""
    try:
        # Of PyTorch: from the graph and from the device, with the signs that it has put off.
        for step in ("detach", "cpu", "resolve_conj", "resolve_neg") if hasattr(value, "detach") else ():
            value = getattr(value, step)() if hasattr(value, step) else value
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()  # NumPy has no such type
        array = np.asarray(value)
    except Exception as error:  # what is being traced has no values, and libraries say so in many ways
        raise ImageError(
            f"a {type(value).__name__} has no pixels to read: give a dense array with values ({str(error)[:200]})"
        ) from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """[H, W], or [H, W, C] from that or from [C, H, W]; a single channel is left out."""
    if array.ndim == 3:
        first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
        if first and last:
            raise ImageError(
                f"an array {list(array.shape)} may be [H, W, C] or [C, H, W]; a picture is larger than that"
            )
        if first:
            array = np.moveaxis(array, 0, 2)
        if array.shape[2] == 1:
            array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in CHANNELS):
        raise ImageError(
            f"an array {list(array.shape)} is no picture: it must be [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4"
        )
    return array


def _levels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels 0 to 255, from these or from floats in [0, 1]."""
    kind, name = array.dtype.kind, array.dtype.name
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8)
    if kind not in "iuf" or name == "uint16":
        raise ImageError(f"an array of {name} is no picture: give uint8, integers in [0, 255] or floats in [0, 1]")
    low, high = array.min(), array.max()
    if kind == "f":
        if not (low >= 0 and high <= 1):  # not a number included
            raise ImageError(
                f"an array of {name} has values from {low:.4g} to {high:.4g}: floats must be in [0, 1]; "
                "give pixels in [0, 255] as uint8, and pixels before they are normalised"
            )
        return np.rint(array.astype(np.float32) * np.float32(255)).astype(np.uint8)
    if low < 0 or high > 255:
        raise ImageError(f"an array of {name} has values from {low} to {high}: integers must be in [0, 255]")
    return array.astype(np.uint8)
