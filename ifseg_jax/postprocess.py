"""From logits on the token grid to a label map: averaging over neighbours and upsampling (IFSeg, Eq. 12-14 and 18).

Probabilities live on the token grid until label maps are made, tile by tile, at the images' original sizes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vlseg.errors import ConfigError
from vlseg.evaluation.tiles import TILE, Canvas, enlarged, half_pixel_taps, tiles
from vlseg.nn.resize import interpolation_matrix
from vlseg.scores import NO_LABEL, Scores, chosen

SPANS = (16, 128)
"""Tokens along a side of what a tile of pixels is made of, or multiples of the last: few, so that few programs are."""

CATEGORIES = 4
"""Of a tile on a CPU that are compared at a time."""

MASKED_SIMILARITY = -2.0
"""Below every cosine."""


@functools.partial(jax.jit, static_argnames=("k", "iterations"))
def knn_average(
    probabilities: jax.Array, features: jax.Array, k: int = 3, iterations: int = 25, mask: jax.Array | None = None
) -> jax.Array:
    """Replaces each cell's probabilities by the mean over its nearest neighbours, again and again.

    Neighbours are the `k` cells of highest cosine similarity in the image trunk's features, the cell itself among
    them; similarities are computed at full float32 precision on every backend, because neighbours are a discrete
    choice. Equal similarities go to the cell that comes first.

    Args:
        probabilities: float [B, N, M].
        features: float [B, N, C].
        k: neighbours per cell; more than there are cells means all of them.
        iterations: rounds of averaging.
        mask: bool [B, N], False at padding, or None. Padding is nobody's neighbour and its own output is 0.

    Returns:
        float32 [B, N, M]; rows keep summing to what they summed to.

    Raises:
        ConfigError: `k` is below 1, or `iterations` below 0.
    """
    if k < 1 or iterations < 0:
        raise ConfigError(f"kNN averaging needs k >= 1 and iterations >= 0, not {k} and {iterations}")
    features = features.astype(jnp.float32)
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    features = features / jnp.maximum(norm, 1e-12)
    similarity = jnp.einsum("bnc,bmc->bnm", features, features, precision="highest")
    if mask is not None:
        similarity = jnp.where(mask[:, None, :], similarity, MASKED_SIMILARITY)
        # A product with what is not a number is none even where the factor is 0.
        probabilities = jnp.where(mask[..., None], probabilities, 0.0)
    k = min(k, features.shape[1])
    averaged = jax.lax.platform_dependent(
        probabilities.astype(jnp.float32),
        similarity,
        cpu=functools.partial(average_by_gathers, k, iterations),
        default=functools.partial(average_by_products, k, iterations),
    )
    return averaged if mask is None else jnp.where(mask[..., None], averaged, 0.0)


def average_by_gathers(k: int, iterations: int, probabilities: jax.Array, similarity: jax.Array) -> jax.Array:
    """`knn_average` by the neighbours' places: float32 [B, N, M] and [B, N, N], MASKED_SIMILARITY at padding."""
    weights, neighbours = jax.lax.top_k(similarity, k)
    valid = (weights > MASKED_SIMILARITY).astype(jnp.float32)[..., None]
    count = jnp.maximum(valid.sum(axis=2), 1.0)

    def average(_: int, current: jax.Array) -> jax.Array:
        gathered = jax.vmap(lambda values, index: values[index])(current, neighbours)
        return (gathered * valid).sum(axis=2) / count

    return jax.lax.fori_loop(0, iterations, average, probabilities)


def average_by_products(k: int, iterations: int, probabilities: jax.Array, similarity: jax.Array) -> jax.Array:
    """The same by products with a matrix of zeros and ones, for accelerators.

    There, `top_k` of every cell sorts N x N numbers and gathers are slow, and products are nearly free. The matrix is
    exact in bfloat16, and a float32 number is the sum of three in bfloat16, so that one pass for each of these is as
    precise as the mean of the neighbours in float32.
    """

    def add_nearest(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, chosen = state
        nearest = jnp.argmax(left, axis=-1)[..., None] == jnp.arange(left.shape[-1])
        valid = nearest & (left > MASKED_SIMILARITY)
        return jnp.where(nearest, -jnp.inf, left), chosen + valid.astype(chosen.dtype)

    _, chosen = jax.lax.fori_loop(0, k, add_nearest, (similarity, jnp.zeros(similarity.shape, jnp.bfloat16)))
    count = jnp.maximum(jnp.sum(chosen, axis=-1, keepdims=True, dtype=jnp.float32), 1.0)

    def average(_: int, current: jax.Array) -> jax.Array:
        parts, rest = [], current
        for _ in range(3):
            # Not a cast there and back, which compilers may leave out.
            part = jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
            parts.append(part.astype(jnp.bfloat16))
            rest = rest - part
        terms = (jnp.einsum("bnm,bmc->bnc", chosen, part, preferred_element_type=jnp.float32) for part in parts)
        return sum(terms, jnp.zeros_like(current)) / count

    return jax.lax.fori_loop(0, iterations, average, probabilities)


@functools.partial(jax.jit, static_argnames=("count", "height", "width", "row_block"))
def best_categories(
    probabilities: jax.Array,
    grids: jax.Array | None,
    sizes: jax.Array,
    count: int,
    height: int,
    width: int,
    row_block: int = 16,
) -> tuple[jax.Array, jax.Array]:
    """The most probable categories of every pixel after bilinear upsampling of probabilities (Eq. 12-14).

    Args:
        probabilities: float32 [B, h, w, M] on the padded grid.
        grids: int32 [B, 2] valid rows and columns; None when all are.
        sizes: int32 [B, 2] original height and width of each image.
        count: of categories; of equal ones the first comes first.
        height, width: padded output size, at least every size.
        row_block: rows of pixels that are upsampled at a time.

    Returns:
        int32 [B, height, width, count], and their probabilities float32 of the same shape; pixels beyond an image's
        size are meaningless.
    """
    batch, h, w, _ = probabilities.shape
    if grids is None:
        grids = jnp.full((batch, 2), jnp.asarray([h, w]))
    row_block = min(row_block, height)
    blocks = -(-height // row_block)
    rows = interpolation_matrix(grids[:, 0], sizes[:, 0], h, blocks * row_block)
    columns = interpolation_matrix(grids[:, 1], sizes[:, 1], w, width)

    def block(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        tall = jnp.einsum("byh,bhwm->bywm", rows, probabilities, precision="highest")
        return _best(jnp.einsum("bxw,bywm->byxm", columns, tall, precision="highest"), count)

    def whole(parts: jax.Array) -> jax.Array:
        return parts.swapaxes(0, 1).reshape(batch, blocks * row_block, width, count)[:, :height]

    best, highest = jax.lax.map(block, rows.reshape(batch, blocks, row_block, h).swapaxes(0, 1))
    return whole(best), whole(highest)


def _best(pixels: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The best categories int32 [..., count] of probabilities [..., M], and their probabilities; see `Scores.top`."""
    # Whether a maximum passes on what is not a number depends on the compiler.
    pixels = jnp.where(jnp.isnan(pixels), -jnp.inf, pixels)
    if count == 1:  # which needs no sorting
        best, highest = jnp.argmax(pixels, axis=-1)[..., None], jnp.max(pixels, axis=-1)[..., None]
    else:
        highest, best = jax.lax.top_k(pixels, count)
    return jnp.where(highest == -jnp.inf, NO_LABEL, best.astype(jnp.int32)), highest


@functools.partial(jax.jit, static_argnames="count")
def best_of_tile(tokens: jax.Array, rows: jax.Array, columns: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """`best_categories` of a tile of an image: int32 [TILE, TILE, count] and float32 of the same shape.

    Args:
        tokens: float32 [span, span, M], the probabilities that it is made of. rows, columns: float32 [TILE, span], see
            `vlseg.evaluation.tiles`.
    """
    if count > 1:
        return _best(enlarged(tokens, rows, columns), count)
    # The CPU's compiler searches a last axis slowly; accelerators would wait for every turn of a loop.
    return jax.lax.platform_dependent(
        tokens, rows, columns, cpu=best_by_loop, default=lambda *parts: _best(enlarged(*parts), 1)
    )


def best_by_loop(tokens: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`best_of_tile` for a count of 1, a few categories at a time: what is held does not grow with their number."""
    (height, span), width, categories = rows.shape, len(columns), tokens.shape[-1]
    several = min(CATEGORIES, categories)
    # Fillers are not numbers, which are more than nothing else.
    planes = jnp.pad(tokens, ((0, 0), (0, 0), (0, -categories % several)), constant_values=jnp.nan)
    planes = planes.reshape(span, span, -1, several).transpose(2, 0, 3, 1)

    def better(turn: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best, highest = found
        down = jnp.einsum("yi,inj->ynj", rows, planes[turn], precision="highest")
        pixels = jnp.einsum("ynj,xj->ynx", down, columns, precision="highest")
        for number in range(several):
            more = pixels[:, number] > highest  # of equal ones the first stays
            best = jnp.where(more, turn * several + number, best)
            highest = jnp.where(more, pixels[:, number], highest)
        return best, highest

    nothing = jnp.full((height, width), NO_LABEL, jnp.int32), jnp.full((height, width), -jnp.inf)
    best, highest = jax.lax.fori_loop(0, len(planes), better, nothing)
    return best[..., None], highest[..., None]


class GridScores:
    """Probabilities of a batch of images on the token grid.

    Attributes:
        probabilities: float32 [B, h, w, M] on the padded grid; images may be fewer than B.
        grids: valid rows and columns of each image. sizes: their original heights and widths.
    """

    def __init__(
        self, probabilities: jax.Array, grids: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, ...]]
    ) -> None:
        self.probabilities, self.grids, self.sizes = probabilities, grids, sizes

    @functools.cached_property
    def on_host(self) -> np.ndarray:
        """The probabilities, copied once for all images of the batch."""
        return np.asarray(self.probabilities)


class ImageScores(Scores):
    """The scores of one image of a batch: probabilities of its categories."""

    def __init__(self, batch: GridScores, row: int) -> None:
        self._batch, self._row = batch, row

    @property
    def grid_probabilities(self) -> np.ndarray:
        """float32 [h, w, M] on the image's token grid."""
        rows, columns = self._batch.grids[self._row]
        return self._batch.on_host[self._row, :rows, :columns]

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scores.top`; scores are probabilities."""
        return self._top(self.grid_probabilities, count)

    def most_probable(self, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Scores.most_probable`."""
        if among is None:
            best, highest = self.top(1)
            return best[..., 0], highest[..., 0]
        allowed = self.grid_probabilities[..., among]
        best, highest = self._top(allowed, 1)
        # Upsampling is linear, so it may come after the sum.
        total = self._upsampled(allowed.sum(axis=-1, keepdims=True))
        return chosen(among, best[..., 0]), np.divide(highest, total, out=highest)[..., 0]

    def probabilities(self) -> np.ndarray:
        """See `Scores.probabilities`: bilinearly upsampled."""
        return self._upsampled(self.grid_probabilities)

    def _top(self, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best of probabilities float32 [h, w, M] on the token grid for every pixel, see `Scores.top`."""
        (height, width), (h, w, _) = self._batch.sizes[self._row], tokens.shape
        down, along = half_pixel_taps(h, height), half_pixel_taps(w, width)
        reach = max(down.reach, along.reach)
        span = next((span for span in SPANS if span >= reach), -(-reach // SPANS[-1]) * SPANS[-1])
        padded = np.pad(tokens, ((0, max(span - h, 0)), (0, max(span - w, 0)), (0, 0)))
        rows, columns = down.stretches(span), along.stretches(span)
        shape = (TILE, TILE, count)
        canvas = Canvas(height, width, [np.zeros(shape, np.int32), np.zeros(shape, np.float32)])
        for tile, row, column in tiles(height, width):
            (top, row_weights), (left, column_weights) = rows[row], columns[column]
            part = np.ascontiguousarray(padded[top : top + span, left : left + span])
            canvas.put(tile, best_of_tile(part, row_weights, column_weights, count))
        labels, scores = canvas.arrays()
        return labels, scores

    def _upsampled(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [h, w, n] on the token grid at the size of the image: float32 [H, W, n]."""
        (height, width), (h, w, n) = self._batch.sizes[self._row], tokens.shape
        columns = np.concatenate([weights for _, weights in half_pixel_taps(w, width).stretches(w)])[:width]
        found = np.empty((height, width, n), np.float32)
        for number, (_, rows) in enumerate(half_pixel_taps(h, height).stretches(h)):
            into = found[number * TILE : (number + 1) * TILE]
            np.matmul(columns, np.tensordot(rows[: len(into)], tokens, 1), out=into)
        return found
