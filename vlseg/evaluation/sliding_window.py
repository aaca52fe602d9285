"""Scores of a whole image from overlapping square windows of it at several sizes (isl-org/lang-seg).

Everything around the network is linear and treats rows and columns alike but apart: resizing the image and cutting a
window out of it, and on the way back enlarging the network's grid of scores to the window, averaging where windows
overlap, and resizing to the image. So each of the two ways is one small matrix for the rows and one for the columns of
a window. They are computed on the device from a window's four integers, with exact positions, so images of all sizes
share one program per bucket:

    for batch in batches(windows(height, width, scheme), size):         # in one jitted function, `scores` donated
        images = cut(image, (height, width), batch, scheme, pad_value)
        grids = network(images)
        if scheme.flip:
            grids += mirror(network(mirror(images)))
        scores = merge(scores, grids, placements((height, width), batch, scheme, grid, scores.shape[:2]))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlseg import fields
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF
from vlseg.fields import Length, Range, Side

OFFICIAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of the published scores."""

BUCKET = 128
"""Images are padded to multiples of this, so that few shapes occur."""

Size = tuple[int | jax.Array, int | jax.Array]
"""Height and width; arrays where one program serves many sizes."""


MAX_WINDOWS = 2**16
"""Of an image; the official evaluation has fifty."""


@dataclass(frozen=True)
class Scheme:
    """How an image is looked at. Hashable: a static argument of jitted functions.

    Attributes:
        base_size: the long side of the image at scale 1.
        crop_size: side of the windows, a multiple of 32, which is what the network takes.
        stride_rate: the step from a window to the next as a share of its side, in (0, 1].
        scales: factors of the base size; the scores at each are added up.
        flip: whether the scores of the mirrored windows are added too.
        crf: of the probabilities that come of it all, at the image's size.

    Raises:
        ConfigError: a value outside these ranges.
    """

    base_size: Side = 520
    crop_size: Side = 480
    stride_rate: Annotated[float, Range(0, 1)] = 2 / 3
    scales: Annotated[tuple[Annotated[float, Range(0, 64)], ...], Length(0, 64)] = (1.0,)
    flip: bool = False
    crf: CRF = field(default_factory=CRF)

    def __post_init__(self) -> None:
        fields.check(self)
        if self.crop_size % 32:
            raise ConfigError(f"crop_size is {self.crop_size}; make it a multiple of 32")
        if not 0 < self.stride_rate <= 1 or self.stride < 1:
            raise ConfigError(f"stride_rate is {self.stride_rate}; make it at most 1, and a stride of a pixel or more")
        if not self.scales:
            raise ConfigError("scales is empty; name at least one, such as 1.0")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"scales are {self.scales}; make all of them positive")
        count = sum((self.base_size * scale / self.stride + 1) ** 2 for scale in self.scales)
        if count > MAX_WINDOWS:
            raise ConfigError(
                f"base_size {self.base_size} at these scales, in steps of {self.stride} pixels, makes about "
                f"{count:.0f} windows of an image; at most {MAX_WINDOWS} are looked at"
            )

    @property
    def stride(self) -> int:
        """Pixels from a window to the next."""
        return int(self.crop_size * self.stride_rate)


class Window(NamedTuple):
    """A square of `crop_size` pixels of a rescaled image; what lies outside the image is padding.

    height, width: the size of the whole rescaled image. top, left: the window's first pixel in it.
    """

    height: int
    width: int
    top: int
    left: int


class Placements(NamedTuple):
    """What a cell of a window's grid adds to a pixel of the image is rows[k, y, i] * columns[k, x, j].

    rows: float32 [K, H, grid]. columns: float32 [K, W, grid].
    """

    rows: jax.Array
    columns: jax.Array


def rescaled(height: int, width: int, scheme: Scheme, scale: float) -> tuple[int, int]:
    """Height and width of the image at a scale: its long side is `base_size * scale`, rounded up.

    The short side is rounded to the nearest, and at least 1.
    """
    long_side = math.ceil(scheme.base_size * scale)
    # The order of operations is the official one, so that the roundings are.
    if height > width:
        return long_side, max(int(1.0 * width * long_side / height + 0.5), 1)
    return max(int(1.0 * height * long_side / width + 0.5), 1), long_side


def windows(height: int, width: int, scheme: Scheme) -> list[Window]:
    """All windows of an image, scale by scale and row by row. Mirrored windows are not listed, see `mirror`.

    Windows that stick out at the bottom or the right are padded, not shifted back into the image.
    """
    found = []
    for scale in scheme.scales:
        size = rescaled(height, width, scheme, scale)
        tops, lefts = (range(0, max(side - scheme.crop_size, 0) + scheme.stride, scheme.stride) for side in size)
        found += [Window(*size, top, left) for top in tops for left in lefts]
    return found


def batches(found: Sequence[Window], size: int) -> np.ndarray:
    """Windows in batches of one size: int32 [batches, size, 4].

    The last batch is filled up with zeros, a window of an empty image: `cut` makes it all padding, and its placements
    are zero, so `merge` adds nothing for it.
    """
    rows = np.asarray(found, np.int32).reshape(-1, len(Window._fields))
    return np.pad(rows, ((0, -len(rows) % size), (0, 0))).reshape(-1, size, rows.shape[1])


def bucket(side: int) -> int:
    """The side to which images with a side of this length are padded: the next multiple of `BUCKET`."""
    return max(math.ceil(side / BUCKET), 1) * BUCKET


def cut(image: jax.Array, size: Size, batch: jax.Array, scheme: Scheme, pad_value: jax.Array) -> jax.Array:
    """The pixels of windows: the image is resized (bilinear, corners aligned), cut and padded.

    Args:
        image: float32 [H, W, C], the normalised image in the top left corner; what is around it is finite.
        size: height and width of the image, at most H and W.
        batch: int32 [K, 4], windows of an image of that size.
        scheme: the scheme of the windows.
        pad_value: float32 [C], what is outside the image; officially black as it is after normalisation, -mean / std.

    Returns:
        float32 [K, crop_size, crop_size, C].
    """
    heights, widths, tops, lefts = jnp.asarray(batch).T
    rows = _reading(size[0], heights, tops, scheme, image.shape[0])
    columns = _reading(size[1], widths, lefts, scheme, image.shape[1])
    # Outside the image the weights are 0, and so is there the difference to the padding.
    difference = jnp.asarray(image, jnp.float32) - pad_value
    across = jnp.einsum("kxw,hwc->khxc", columns, difference, precision="highest")
    return jnp.einsum("kyh,khxc->kyxc", rows, across, precision="highest") + pad_value


def mirror(images: jax.Array) -> jax.Array:
    """Windows, or their grids, with left and right swapped: [K, rows, columns, ...].

    To mirror a grid is to mirror the scores enlarged from it, so the grids of mirrored windows are added to those of
    the windows after `mirror`, and placed once.
    """
    return images[:, :, ::-1]


def placements(size: Size, batch: jax.Array, scheme: Scheme, grid: int, padded: tuple[int, int]) -> Placements:
    """Where the windows' grids go in the image.

    A grid is enlarged to the window, the padding cut off, the mean taken over the windows of the same scale that see a
    pixel, and the result resized to the image; both resizes are bilinear with aligned corners. The weights of each
    pixel sum to 1 for every scale.

    Args:
        size: height and width of the image.
        batch: int32 [K, 4], windows of an image of that size.
        scheme: the scheme of the windows.
        grid: cells along a side of the network's output before its last upsampling.
        padded: height H and width W of the array of scores, at least the image's. Nothing is placed beyond the image.
    """
    heights, widths, tops, lefts = jnp.asarray(batch).T
    return Placements(
        rows=_writing(size[0], heights, tops, scheme, grid, padded[0]),
        columns=_writing(size[1], widths, lefts, scheme, grid, padded[1]),
    )


def merge(scores: jax.Array, grids: jax.Array, placed: Placements) -> jax.Array:
    """The scores with those of some windows added, one window at a time to save memory.

    Args:
        scores: float32 [H, W, N], the sum so far; zeros before the first window.
        grids: [K, grid, grid, N], logits before the network's last upsampling, or anything else that is to be combined
            linearly, such as embeddings.
        placed: of the K windows.

    Returns:
        float32 [H, W, N].
    """

    def add(scores: jax.Array, window: tuple[jax.Array, Placements]) -> tuple[jax.Array, None]:
        cells, (rows, columns) = window
        down = jnp.einsum("yi,ijn->yjn", rows, cells.astype(jnp.float32), precision="highest")
        return scores + jnp.einsum("xj,yjn->yxn", columns, down, precision="highest"), None

    return jax.lax.scan(add, scores, (grids, placed))[0]


def _coverage(pixels: jax.Array, sides: jax.Array, scheme: Scheme) -> jax.Array:
    """How many of the windows along a side of the rescaled image contain a pixel of it."""
    last = -(-jnp.maximum(sides - scheme.crop_size, 0) // scheme.stride)
    first_over = jnp.maximum((pixels - scheme.crop_size) // scheme.stride + 1, 0)
    return jnp.minimum(pixels // scheme.stride, last) - first_over + 1


def _reading(side: int | jax.Array, sides: jax.Array, starts: jax.Array, scheme: Scheme, max_side: int) -> jax.Array:
    """Weights of a side's pixels in a window: float32 [K, crop_size, max_side], zero outside the image."""
    pixels = starts[:, None] + jnp.arange(scheme.crop_size)
    weights = _weights(*_taps(pixels, side, sides[:, None]), max_side)
    return jnp.where((pixels < sides[:, None])[..., None], weights, 0.0)


def _writing(
    side: int | jax.Array, sides: jax.Array, starts: jax.Array, scheme: Scheme, grid: int, max_side: int
) -> jax.Array:
    """Weights of a window's cells in a side's pixels: float32 [K, max_side, grid]."""
    sides, starts = sides[:, None], starts[:, None]
    targets = jnp.arange(max_side)
    lower, upper_share = _taps(targets, sides, side)
    placed = jnp.zeros((*lower.shape, grid), jnp.float32)
    for pixels, share in ((lower, 1.0 - upper_share), (lower + 1, upper_share)):
        places = pixels - starts
        seen = (places >= 0) & (places < scheme.crop_size) & (pixels < sides) & (targets < side)
        share = jnp.where(seen, share, 0.0) / jnp.maximum(_coverage(pixels, sides, scheme), 1).astype(jnp.float32)
        placed += share[..., None] * _weights(*_taps(places, grid, scheme.crop_size), grid)
    return placed


def _taps(targets: jax.Array, in_size: int | jax.Array, out_size: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two source cells that a target cell of a linear resize with aligned corners lies between.

    Counted in integers: the rounding of a position in float32 grows with the size of the image.

    Returns:
        int32, the lower cell, and float32 in [0, 1), the share of the cell after it.
    """
    steps = jnp.maximum(jnp.asarray(out_size) - 1, 1)
    travelled = targets * (in_size - 1)
    lower = travelled // steps
    return lower, (travelled - lower * steps) / steps


def _weights(lower: jax.Array, upper_share: jax.Array, cells: int) -> jax.Array:
    """Taps [...] as weights of all source cells: float32 [..., cells]."""
    sources = jnp.arange(cells)
    lower, upper_share = lower[..., None], upper_share[..., None]
    return jnp.where(sources == lower, 1.0 - upper_share, 0.0) + jnp.where(sources == lower + 1, upper_share, 0.0)
