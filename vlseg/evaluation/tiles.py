"""Scores of an image tile by tile: neither memory nor compiled programs depend on its size.

What a model gives is a small grid of scores, enlarged to the image linearly, rows and columns apart. A square of `TILE`
pixels takes its scores from few cells of the grid, so that it is two small matrix products, of one shape for images of
all sizes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

TILE = 128
"""Pixels along a side of a tile."""

AHEAD = 8
"""Tiles that the device may work on before the host waits for the first of them."""


class Tile(NamedTuple):
    """Where a tile lies, in pixels. It may stick out of the image at the bottom and the right."""

    top: int
    left: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns, as an index of the image."""
        return slice(self.top, self.top + TILE), slice(self.left, self.left + TILE)


class Stretch(NamedTuple):
    """What `TILE` rows, or columns, of pixels take from the cells along a side of a grid.

    first: the first of these cells. weights: float32 [TILE, span], of the cells from there on.
    """

    first: int
    weights: np.ndarray


class Taps:
    """Which cells along a side of a grid each pixel along a side of the image is a weighted sum of.

    Attributes:
        used: bool [tiles along the side], whether a tile takes anything. reach: the most cells that a tile takes.
    """

    def __init__(self, cells: Sequence[np.ndarray], weights: Sequence[np.ndarray], grid: int) -> None:
        """Of a grid of so many cells along the side.

        Args:
            cells: int [side] each: of every pixel a cell. Where its weight is 0 it may be any number.
            weights: float [side] each, at least 0; of each of `cells`.
            grid: cells along the side.
        """
        self._cells, self._weights, self._grid = np.stack(cells), np.stack(weights), grid
        counts = self._weights > 0
        starts = np.arange(0, self._cells.shape[1], TILE)
        self._first = np.minimum.reduceat(np.where(counts, self._cells, grid).min(axis=0), starts)
        last = np.maximum.reduceat(np.where(counts, self._cells, -1).max(axis=0), starts)
        self.used = last >= 0
        self.reach = max(int((last - self._first).max()) + 1, 1)

    def stretch(self, number: int, span: int) -> Stretch:
        """That of a tile by its number along the side; `span` is at least `reach`."""
        first = max(min(int(self._first[number]), self._grid - span), 0)
        pixels = slice(number * TILE, (number + 1) * TILE)
        weights = np.zeros((TILE, span), np.float32)
        for cells, shares in zip(self._cells[:, pixels], self._weights[:, pixels], strict=True):
            weights[np.arange(len(cells)), np.clip(cells - first, 0, span - 1)] += shares
        return Stretch(first, weights)

    def stretches(self, span: int) -> list[Stretch]:
        """Those of all tiles along the side."""
        return [self.stretch(number, span) for number in range(len(self.used))]


def half_pixel_taps(cells: int, side: int) -> Taps:
    """Those of a bilinear resize of `cells` to `side` whose outer edges coincide, without antialiasing."""
    centre = np.clip((np.arange(side) + 0.5) * (cells / side) - 0.5, 0, cells - 1)
    lower = np.floor(centre).astype(np.int64)
    return Taps([lower, lower + 1], [1 - (centre - lower), centre - lower], cells)


def tiles(height: int, width: int) -> Iterator[tuple[Tile, int, int]]:
    """The tiles of an image, row by row, with their numbers from the top and from the left."""
    for down in range(-(-height // TILE)):
        for along in range(-(-width // TILE)):
            yield Tile(down * TILE, along * TILE), down, along


def enlarged(cells: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """A tile [TILE, TILE, N] of cells [span, span, N], with the weights [TILE, span] of a `Stretch` for each side."""
    down = jnp.einsum("yi,ijn->yjn", rows, jnp.asarray(cells, jnp.float32), precision="highest")
    return jnp.einsum("xj,yjn->yxn", columns, down, precision="highest")


class Canvas:
    """Arrays of the size of an image on the host, made of tiles that the device is still working on."""

    def __init__(self, height: int, width: int, initial: Sequence[np.ndarray]) -> None:
        """Of what every tile is at first: arrays [TILE, TILE, ...]."""
        self._initial = initial
        self._arrays = [np.empty((height, width, *part.shape[2:]), part.dtype) for part in initial]
        self._waiting: dict[Tile, Sequence[jax.Array]] = {}

    def put(self, tile: Tile, parts: Sequence[jax.Array]) -> None:
        """Sets a tile; what of it lies outside the image is dropped."""
        self._waiting[tile] = parts
        if len(self._waiting) > AHEAD:
            self._write(next(iter(self._waiting)))

    def take(self, tile: Tile) -> Sequence[ArrayLike]:
        """A tile as it was put."""
        if tile in self._waiting:
            return self._waiting.pop(tile)
        parts = [part.copy() for part in self._initial]
        for array, part in zip(self._arrays, parts, strict=True):
            known = array[tile.pixels]
            part[: known.shape[0], : known.shape[1]] = known
        return parts

    def arrays(self) -> list[np.ndarray]:
        """The whole, [H, W, ...]; every tile has been put."""
        for tile in list(self._waiting):
            self._write(tile)
        return self._arrays

    def _write(self, tile: Tile) -> None:
        for array, part in zip(self._arrays, self._waiting.pop(tile), strict=True):
            into = array[tile.pixels]
            into[:] = np.asarray(part)[: into.shape[0], : into.shape[1]]
