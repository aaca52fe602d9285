"""Scores of a whole image from overlapping windows of it at several sizes (isl-org/lang-seg).

Everything around the network is linear and treats rows and columns alike but apart: resizing the image and cutting a
window out of it, and on the way back enlarging the network's grid of scores to the window, averaging where windows
overlap, and resizing to the image. Each pixel of a window lies between two rows and two columns of the image, and each
pixel of the image takes its scores from four cells of a window along a side. These places and their weights are found
on the host in exact integers; what runs on the device has shapes that do not depend on the image's size:

    found = windows(height, width, scheme)
    grids = [network(cut(views(image, batch, scheme))) for batch in batches(found, size)]  # and of mirrored windows
    for tile, parts in Layout((height, width), found, scheme, grid).tiles():
        for number, part in enumerate(parts):  # `total` is donated
            total = merge(total, number == 0, grids[part.window // size], part.corner(size), part.rows, part.columns)
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlseg import fields
from vlseg.errors import ConfigError
from vlseg.evaluation import tiles
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.tiles import Taps, Tile
from vlseg.fields import Length, Range, Side
from vlseg.nn.resize import aligned_taps

OFFICIAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of the published scores."""


MAX_WINDOWS = 2**16
"""Of an image; the official evaluation has fifty."""

TRIM_STEP = 128
"""Pixels: sides of trimmed windows are multiples of this, so that few shapes are compiled whatever the images."""


@dataclass(frozen=True)
class Scheme:
    """How an image is looked at. Hashable: a static argument of jitted functions.

    Attributes:
        base_size: the long side of the image at scale 1.
        crop_size: side of the windows, a multiple of 32, which is what the network takes.
        stride_rate: the step from a window to the next as a share of its side, in (0, 1].
        scales: factors of the base size; the scores at each are added up.
        flip: whether the scores of the mirrored windows are added too.
        trim: whether windows end soon after the image does, at a multiple of 128 pixels, instead of being squares
            filled up with black, as the official ones are. That takes less time and memory and changes scores slightly.
        crf: of the probabilities that come of it all, at the image's size.

    Raises:
        ConfigError: a value outside these ranges.
    """

    base_size: Side = 520
    crop_size: Side = 480
    stride_rate: Annotated[float, Range(0, 1)] = 2 / 3
    scales: Annotated[tuple[Annotated[float, Range(0, 64)], ...], Length(0, 64)] = (1.0,)
    flip: bool = False
    trim: bool = False
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
    """A part of `window_size` pixels of a rescaled image; what lies outside the image is padding.

    height, width: the size of the whole rescaled image. top, left: the window's first pixel in it.
    """

    height: int
    width: int
    top: int
    left: int


class Views(NamedTuple):
    """The pixels of an image that the pixels of K windows lie between.

    pixels: uint8 [K, 2, h, 2, w, 3]: of every pixel of a window, h x w, the row above and the one below, in these the
        column before and the one after.
    rows, columns: float32 [K, 2, h] and [K, 2, w], their weights; 0 outside the image.
    """

    pixels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Part(NamedTuple):
    """What a window adds to a tile of the image.

    window: its number. top, left: the first cells of its grid that count. rows, columns: float32 [TILE, span] each,
        with a span of its own, see `tiles.Stretch`.
    """

    window: int
    top: int
    left: int
    rows: np.ndarray
    columns: np.ndarray

    def corner(self, size: int) -> np.ndarray:
        """Where to find it in the grids of a batch of windows: int32 [3], its number there and its first cells."""
        return np.asarray([self.window % size, self.top, self.left], np.int32)


def rescaled(height: int, width: int, scheme: Scheme, scale: float) -> tuple[int, int]:
    """Height and width of the image at a scale: its long side is `base_size * scale`, rounded up.

    The short side is rounded to the nearest, and at least 1.
    """
    long_side = math.ceil(scheme.base_size * scale)
    # The order of operations is the official one, so that the roundings are.
    if height > width:
        return long_side, max(int(1.0 * width * long_side / height + 0.5), 1)
    return max(int(1.0 * height * long_side / width + 0.5), 1), long_side


def window_size(height: int, width: int, scheme: Scheme) -> tuple[int, int]:
    """Height and width of the windows of an image: `crop_size`, or less if they are trimmed.

    A trimmed side is the next multiple of `TRIM_STEP` that holds the image at all scales.
    """
    if not scheme.trim:
        return scheme.crop_size, scheme.crop_size
    largest = map(max, zip(*(rescaled(height, width, scheme, scale) for scale in scheme.scales), strict=True))
    rows, columns = (min(-(-side // TRIM_STEP) * TRIM_STEP, scheme.crop_size) for side in largest)
    return rows, columns


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

    The last batch is filled up with zeros, a window of an empty image, which `cut` makes all padding.
    """
    rows = np.asarray(found, np.int32).reshape(-1, len(Window._fields))
    return np.pad(rows, ((0, -len(rows) % size), (0, 0))).reshape(-1, size, rows.shape[1])


def views(image: np.ndarray, batch: np.ndarray, scheme: Scheme) -> Views:
    """What `cut` makes windows of: uint8 [H, W, 3] and windows of an image of that size, int32 [K, 4]."""
    down, along = window_size(image.shape[0], image.shape[1], scheme)
    pixels, weights = [], []
    for height, width, top, left in batch:
        rows, row_weights = _read(image.shape[0], int(height), int(top), down)
        columns, column_weights = _read(image.shape[1], int(width), int(left), along)
        seen = image[rows.reshape(-1, 1), columns.reshape(1, -1)]
        pixels.append(seen.reshape(*rows.shape, *columns.shape, 3))
        weights.append((row_weights, column_weights))
    return Views(np.stack(pixels), *map(np.stack, zip(*weights, strict=True)))


def cut(views: Views) -> jax.Array:
    """The pixels of windows: the image is resized (bilinear, corners aligned), cut, and padded with black.

    Returns:
        float32 [K, h, w, 3], in [0, 255].
    """
    pixels = views.pixels.astype(np.float32)
    above, below = (pixels[:, row] * views.rows[:, row, :, None, None, None] for row in (0, 1))
    lines = above + below
    before, after = (lines[:, :, column] * views.columns[:, column, None, :, None] for column in (0, 1))
    return before + after


def mirror(images: jax.Array) -> jax.Array:
    """Windows, or their grids, with left and right swapped: [K, rows, columns, ...].

    To mirror a grid is to mirror the scores enlarged from it, so the grids of mirrored windows are added to those of
    the windows after `mirror`, and placed once.
    """
    return images[:, :, ::-1]


class Layout:
    """Where the windows' grids go in the image.

    A grid is enlarged to the window, the padding cut off, the mean taken over the windows of the same scale that see a
    pixel, and the result resized to the image; both resizes are bilinear with aligned corners. The weights of each
    pixel sum to 1 for every scale.
    """

    def __init__(self, size: tuple[int, int], found: Sequence[Window], scheme: Scheme, grid: tuple[int, int]) -> None:
        """Takes the image's height and width, its windows, and the rows and columns of the network's output."""
        self._size = size
        (height, width), (down, along) = size, window_size(size[0], size[1], scheme)
        self._rows = [_written(height, window.height, window.top, scheme, down, grid[0]) for window in found]
        columns = [_written(width, window.width, window.left, scheme, along, grid[1]) for window in found]
        # Of few pairs, so that few programs serve images of all sizes.
        self._span, span = next(
            spans
            for spans in zip(*map(_spans, grid), strict=True)
            if all(taps.reach <= spans[0] for taps in self._rows) and all(taps.reach <= spans[1] for taps in columns)
        )
        self._columns = [(taps, taps.stretches(span)) for taps in columns]

    def tiles(self) -> Iterator[tuple[Tile, list[Part]]]:
        """The tiles of the image, row by row, each with what the windows that see it add; one does at least."""
        for tile, down, along in tiles.tiles(*self._size):
            if along == 0:
                rows = [taps.stretch(down, self._span) for taps in self._rows]
            parts = []
            for number, (row, (taps, columns)) in enumerate(zip(rows, self._columns, strict=True)):
                if self._rows[number].used[down] and taps.used[along]:
                    column = columns[along]
                    parts.append(Part(number, row.first, column.first, row.weights, column.weights))
            yield tile, parts


@functools.partial(jax.jit, donate_argnames="total")
def merge(
    total: jax.Array, fresh: bool, grids: jax.Array, corner: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> jax.Array:
    """The scores of a tile with those of a window added.

    Args:
        total: float32 [TILE, TILE, N], the sum so far. fresh: whether the sum begins here, whatever `total` holds.
        grids: [K, rows, columns, N], logits before the network's last upsampling, or anything else that is to be
            combined linearly, such as embeddings.
        corner, rows, columns: of a `Part`.
    """
    start = (corner[0], corner[1], corner[2], jnp.zeros_like(corner[0]))
    cells = jax.lax.dynamic_slice(grids, start, (1, rows.shape[1], columns.shape[1], grids.shape[-1]))[0]
    return tiles.enlarged(cells, rows, columns) + jnp.where(fresh, 0.0, total)


def _spans(grid: int) -> tuple[int, ...]:
    """How many of the cells along a side of a grid a tile may be made of."""
    return max(grid // 8, 1), 3 * grid // 8, grid


def _coverage(pixels: np.ndarray, side: int, scheme: Scheme) -> np.ndarray:
    """How many of the windows along a side of the rescaled image contain a pixel of it."""
    last = -(-max(side - scheme.crop_size, 0) // scheme.stride)
    first_over = np.maximum((pixels - scheme.crop_size) // scheme.stride + 1, 0)
    return np.minimum(pixels // scheme.stride, last) - first_over + 1


def _read(side: int, rescaled_side: int, start: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a window's pixels are found along a side: int [2, window] and their weights, 0 outside the image."""
    pixels = start + np.arange(window)
    lower, upper_share = aligned_taps(pixels, side, rescaled_side)
    weights = np.stack([1 - upper_share, upper_share]) * (pixels < rescaled_side)
    return np.clip(np.stack([lower, lower + 1]), 0, side - 1), weights.astype(np.float32)


def _written(side: int, rescaled_side: int, start: int, scheme: Scheme, window: int, grid: int) -> Taps:
    """The `grid` cells of a window of so many pixels that the pixels along a side of the image are made of."""
    lower, upper_share = aligned_taps(np.arange(side), rescaled_side, side)
    found, weights = [], []
    for pixels, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        places = pixels - start
        seen = (places >= 0) & (places < window) & (pixels < rescaled_side)
        share = np.where(seen, share, 0) / np.maximum(_coverage(pixels, rescaled_side, scheme), 1)
        cell, next_share = aligned_taps(places, grid, window)
        found += [cell, cell + 1]
        weights += [share * (1 - next_share), share * next_share]
    return Taps(found, weights, grid)
