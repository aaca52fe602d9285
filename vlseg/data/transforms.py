"""Random views of a labelled picture for training, after mmsegmentation's Resize, RandomCrop, RandomFlip and
PhotoMetricDistortion with the settings of alinlab/ifseg.

Every function draws from the generator it is given and from nothing else.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlseg.data.examples import IGNORE_LABEL
from vlseg.data.images import rescaled_size, resize_nearest, resize_window

# The uint8 nearest to the 127.5 that normalises to 0.
PAD_LEVEL = 128

_BRIGHTNESS = 32.0
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE_DEGREES = 36.0


def random_crop(
    image: NDArray[np.uint8],
    label: NDArray[np.int32],
    size: tuple[int, int],
    rng: np.random.Generator,
    scale_range: tuple[float, float] = (0.5, 2.0),
    short_side: int | None = None,
    min_side: int | None = None,
    max_category_ratio: float = 0.75,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A random training view: resized, cropped, perhaps mirrored, its colours distorted, padded to `size`.

    Args:
        image: uint8 [H, W, 3].
        label: int32 [H, W].
        size: (h, w) of the view.
        rng: where all randomness comes from.
        scale_range: the short side is resized to a uniform draw from this range times `short_side`.
        short_side: in pixels; by default the smaller of `size` (officially 512 for views of 512 x 512).
        min_side: the least short side after resizing; by default `short_side`, as in the official code, so that nothing
            needs padding and scales below 1 all act as 1. 0 for no bound.
        max_category_ratio: a crop in which one category has this share or more of the labelled pixels is drawn again,
            up to ten times.
        ignore_label: the label of padding, and of pixels that `max_category_ratio` leaves out.

    Returns:
        uint8 [h, w, 3] and int32 [h, w].
    """
    short_side = min(size) if short_side is None else short_side
    min_side = short_side if min_side is None else min_side
    resized = random_size(label.shape, short_side, min_side, scale_range, rng)
    resized_label = resize_nearest(label, resized)
    rows, columns = crop_window(resized_label, size, max_category_ratio, ignore_label, rng)
    # Only the window of the picture is resized: at scale 2 that is less than a fifth of it.
    view, view_label = resize_window(image, resized, rows, columns), resized_label[rows, columns]
    if rng.random() < 0.5:
        view, view_label = view[:, ::-1], view_label[:, ::-1]
    view = distort_colours(view, rng)
    return pad(view, size, PAD_LEVEL), pad(view_label, size, ignore_label)


def scale_and_crop(
    image: NDArray[np.uint8],
    label: NDArray[np.int32],
    rng: np.random.Generator,
    *,
    base_size: int = 520,
    crop_size: int | tuple[int, int] = 480,
    scale_range: tuple[float, float] = (0.5, 2.0),
    ignore_label: int = IGNORE_LABEL,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A random view, officially a square, as PyTorch-Encoding's data sets give it, on which LSeg was trained.

    Mirrored or not, resized (bicubic) so that the long side is a uniform draw of `scale_range` times `base_size`,
    padded with black at the right and the bottom, and cropped.

    Args:
        image: uint8 [H, W, 3].
        label: int32 [H, W].
        rng: where all randomness comes from.
        base_size: in pixels. crop_size: the side of a square, or height and width.
        scale_range: least and largest factor.
        ignore_label: the label of padding.

    Returns:
        uint8 [height, width, 3] and int32 [height, width].
    """
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    height, width = label.shape
    low, high = (max(1, int(base_size * scale)) for scale in scale_range)
    long_side = int(rng.integers(low, high, endpoint=True))
    scale = long_side / max(height, width)
    size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    picture = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)
    labels = Image.fromarray(np.ascontiguousarray(label, np.int32)).resize(size, Image.Resampling.NEAREST)
    window = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    view, view_label = pad(np.asarray(picture), window, 0), pad(np.asarray(labels), window, ignore_label)
    rows, columns = (_random_slice(length, side, rng) for length, side in zip(view_label.shape, window, strict=True))
    return view[rows, columns], view_label[rows, columns].astype(np.int32)


def random_size(
    size: tuple[int, int], short_side: int, min_side: int, scale_range: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """(height, width) of the aspect of `size` with a short side of `short_side` times a random scale."""
    short = max(min_side, 1, int(short_side * rng.uniform(*scale_range)))
    height, width = size
    return rescaled_size(height, width, short, sys.maxsize)


def crop_window(
    label: NDArray[np.int32],
    size: tuple[int, int],
    max_category_ratio: float,
    ignore_label: int,
    rng: np.random.Generator,
) -> tuple[slice, slice]:
    """Rows and columns of a random window of `size`, or of what there is of it, in which no category dominates."""
    for _ in range(10):
        rows, columns = (_random_slice(length, part, rng) for length, part in zip(label.shape, size, strict=True))
        window = label[rows, columns]
        _, counts = np.unique(window[window != ignore_label], return_counts=True)
        if len(counts) > 1 and counts.max() < max_category_ratio * counts.sum():
            break
    return rows, columns


def distort_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2. uint8 [H, W, 3] to the same.

    Brightness by up to 32 grey levels, contrast and saturation by a factor of 0.5 to 1.5, hue by up to 36 degrees (18
    of the 180 units of OpenCV); contrast first or last with equal chance.
    """
    contrast_first = rng.random() < 0.5
    if rng.random() < 0.5:
        image = _linear(image, 1.0, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    if contrast_first:
        image = _random_contrast(image, rng)
    saturation = rng.uniform(*_SATURATION) if rng.random() < 0.5 else 1.0
    degrees = rng.uniform(-_HUE_DEGREES, _HUE_DEGREES) if rng.random() < 0.5 else 0.0
    if saturation != 1.0 or degrees != 0.0:
        image = _change_hue_and_saturation(image, degrees, saturation)
    if not contrast_first:
        image = _random_contrast(image, rng)
    return image


def pad(pixels: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """[H, W, ...] extended with `value` at the bottom and at the right to at least `size`."""
    missing = [(0, max(0, want - have)) for want, have in zip(size, pixels.shape, strict=False)]
    return np.pad(pixels, missing + [(0, 0)] * (pixels.ndim - 2), constant_values=value)


def _random_slice(length: int, part: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(max(length - part, 0) + 1))
    return slice(start, min(start + part, length))


def _random_contrast(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return _linear(image, rng.uniform(*_CONTRAST), 0.0) if rng.random() < 0.5 else image


def _linear(image: NDArray[np.uint8], factor: float, offset: float) -> NDArray[np.uint8]:
    return np.clip(np.arange(256) * factor + offset, 0, 255).astype(np.uint8)[image]


def _change_hue_and_saturation(image: NDArray[np.uint8], degrees: float, saturation: float) -> NDArray[np.uint8]:
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    # Pillow's hue goes around in 256 steps, as uint8 does.
    hsv[..., 0] += np.uint8(round(degrees / 360 * 256) % 256)
    hsv[..., 1] = _linear(hsv[..., 1], saturation, 0.0)
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
