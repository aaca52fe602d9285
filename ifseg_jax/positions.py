"""Disentangled positions of OFA (OFA-Sys/OFA): positions enter as biases of attention scores, never as added tokens.

Two kinds of bias exist. The absolute one is an inner product of projected position embeddings; it rides along as
extra dimensions of queries and keys (see `vlseg.nn.multi_head`). The relative ones are looked up in tables: 1-D
between words, 2-D between image cells. The official code evaluates the 2-D table on the trained grid and resizes the
result bilinearly along keys and along queries to the grid at hand. Both steps are linear and separable into rows and
columns, so here they are two small matrix products, whatever the grid, even one that is only known at run time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct

from vlseg.nn.resize import Size, interpolation_matrix
from vlseg.sharding import for_each_shard


class Grid(NamedTuple):
    """A grid of image cells, padded to a static size.

    Attributes:
        rows, columns: static padded size.
        size: int32 [B, 2] valid rows and columns of each example, or None when every cell is valid.
    """

    rows: int
    columns: int
    size: jax.Array | None = None

    @property
    def cells(self) -> int:
        """Number of padded cells N = rows * columns."""
        return self.rows * self.columns

    def axis(self, axis: int) -> Size:
        """Valid size along rows (0) or columns (1): an int, or int32 [B]."""
        return (self.rows, self.columns)[axis] if self.size is None else self.size[:, axis]

    def valid(self) -> jax.Array | None:
        """bool [B, N], True at valid cells in raster order; None when all are."""
        if self.size is None:
            return None
        rows = jnp.arange(self.rows) < self.size[:, :1]
        columns = jnp.arange(self.columns) < self.size[:, 1:]
        return rearrange(rows[:, :, None] & columns[:, None, :], "b h w -> b (h w)")

    def preceding(self) -> jax.Array:
        """Where the decoder's output for each cell comes from: int32 [B or 1, N].

        Decoder elements are the padded cells in raster order, followed by <s>; the output for a cell is computed at
        the element of the preceding valid cell, and at <s> for the first (Sec. 2.2 of the IFSeg paper).
        """
        row = jnp.arange(self.rows, dtype=jnp.int32)[:, None]
        column = jnp.arange(self.columns, dtype=jnp.int32)[None, :]
        last = jnp.asarray(self.axis(1), jnp.int32).reshape(-1, 1, 1) - 1
        same_row = row * self.columns + column - 1
        previous_row = (row - 1) * self.columns + last
        element = jnp.where(column > 0, same_row, previous_row)
        return rearrange(jnp.where((row == 0) & (column == 0), self.cells, element), "b h w -> b (h w)")


@struct.dataclass
class RelativeAxes:
    """Weights that resize relative positions of a trained grid to a `Grid`.

    rows: float32 [b, R, R, 2g - 1] and columns: float32 [b, C, C, 2g - 1], with b = 1 for an unpadded grid; entry
    (q, k, y) is the weight of trained offset y - (g - 1) in the bias between query q and key k along that axis.
    trained: whether it is the trained grid itself, so that nothing is resized.
    """

    rows: jax.Array
    columns: jax.Array
    trained: bool = struct.field(pytree_node=False, default=False)

    @property
    def cells(self) -> int:
        """Number of padded cells N = R * C."""
        return self.rows.shape[1] * self.columns.shape[1]


def relative_axes(grid: Grid, trained: int) -> RelativeAxes:
    """Resizing weights from a `trained` x `trained` grid to `grid`, for queries and keys at once."""
    offset = np.arange(trained)[:, None] - np.arange(trained)[None, :] + trained - 1
    indicator = jnp.asarray(np.eye(2 * trained - 1, dtype=np.float32)[offset])

    def weights(axis: int, maximum: int) -> jax.Array:
        resize = interpolation_matrix(trained, grid.axis(axis), trained, maximum).reshape(-1, maximum, trained)
        keys = jnp.einsum("zkb,aby->zkay", resize, indicator, precision="highest")
        return jnp.einsum("zqa,zkay->zqky", resize, keys, precision="highest")

    same = grid.size is None and grid.rows == grid.columns == trained
    return RelativeAxes(for_each_shard(weights(0, grid.rows)), for_each_shard(weights(1, grid.columns)), same)


def offsets_table(table: jax.Array, bucket: int, trained: int) -> jax.Array:
    """The 2-D offsets that occur in a trained grid: rows of `table` [(2 * bucket - 1)**2 + 3, H] -> [2g-1, 2g-1, H]."""
    side = 2 * bucket - 1
    trained_part = slice(bucket - trained, bucket + trained - 1)
    return rearrange(table[: side * side], "(y x) h -> y x h", y=side)[trained_part][:, trained_part]


def relative_bias(
    offsets: jax.Array, axes: RelativeAxes, query_rows: slice = slice(None), key_rows: slice = slice(None)
) -> jax.Array:
    """2-D relative bias between cells: float32 [b, H, query rows, columns, key rows, columns].

    The grid axes stay apart: merging them here would force a transposed copy, while sums with scores that are viewed
    in the same six axes read the array in place.

    Args:
        offsets: [2g - 1, 2g - 1, H] from `offsets_table`.
        axes: from `relative_axes`.
        query_rows, key_rows: static ranges of grid rows to compute.
    """
    by_row = jnp.einsum("yxh,zqky->zhqkx", offsets, axes.rows[:, query_rows, key_rows])
    return jnp.einsum("zhqkx,zcdx->zhqckd", by_row, axes.columns)


def kernel_tables(offsets: jax.Array, axes: RelativeAxes) -> tuple[jax.Array, jax.Array]:
    """The relative bias of a trained 32 x 32 grid as `vlseg.nn.fused_attention.GridBias` has it: `even` and `odd`.

    Args:
        offsets: [63, 63, H] from `offsets_table`. axes: of the trained grid.
    """
    by_row = jnp.einsum("yxh,zqky->zhqkx", offsets, axes.rows)[..., ::-1]
    by_row = jnp.pad(by_row, ((0, 0),) * 4 + ((0, 1),))
    even, odd = (rearrange(by_row[:, :, :, start::2], "z h q k x -> z h q (k x)") for start in (0, 1))
    return even, odd


def token_buckets(bucket: int, max_positions: int) -> np.ndarray:
    """Bucket of every 1-D offset -(P - 1) ... P - 1: int32 [2 * P - 1], P = `max_positions`.

    Offsets below half the bucket size are exact, larger ones logarithmic (OFA's token buckets, as in T5).
    """
    offset = np.arange(-(max_positions - 1), max_positions)
    middle = bucket // 2
    distance = np.where(np.abs(offset) < middle, middle - 1, np.abs(offset)).astype(np.float32)
    # float32 like the official buffer, so that ceil() falls on the same side at exact powers.
    # Exact ones need no logarithm, which at small sizes would be that of 0 or divide by 0.
    steps = np.log(max(max_positions - 1, middle + 1) / middle)
    ratio = np.log(np.maximum(distance, np.float32(middle)) / np.float32(middle)) / np.float32(steps)
    # At some sizes rounding lifts the largest distance out of the table.
    logarithmic = np.minimum(np.ceil(ratio * np.float32(middle - 1)) + middle, bucket - 1).astype(np.int32)
    return np.where(distance <= middle, offset, logarithmic * np.sign(offset)).astype(np.int32) + bucket - 1


def token_bias(table: jax.Array, buckets: np.ndarray, length: int) -> jax.Array:
    """1-D relative bias between `length` words: float32 [1, H, length, length] from `table` [2 * bucket - 1, H].

    The bias depends on query - key only. It is laid out by reshaping a repeated row, which differentiates into sums
    instead of the scatter that a gather of length**2 entries would need.
    """
    centre = len(buckets) // 2
    values = table[buckets[centre - length + 1 : centre + length]]  # query - key = -(length - 1) ... length - 1
    heads = values.shape[-1]
    by_key = values[::-1]  # entry j belongs to query - key = length - 1 - j
    padded = jnp.concatenate([by_key, jnp.zeros((1, heads), values.dtype)])
    skewed = jnp.broadcast_to(padded, (length, 2 * length, heads)).reshape(-1, heads)[: -length or None]
    skewed = skewed.reshape(length, 2 * length - 1, heads)[:, length - 1 :]
    return rearrange(skewed, "q k h -> 1 h q k")


def image_position_embeddings(table: jax.Array, grid: Grid, trained: int, bucket: int) -> jax.Array:
    """Encoder position embedding of every image cell: [b, N, D] from `table` [bucket**2 + 1, D].

    Cells index row * bucket + column + 1. Grids with more cells than the trained one take the trained square of
    embeddings, bilinearly resized; others look up directly (alinlab/ifseg).
    """
    row, column = np.divmod(np.arange(grid.cells), grid.columns)
    index = np.minimum(row * bucket + column + 1, bucket * bucket)
    square = rearrange(table[1:], "(h w) d -> h w d", h=bucket)[:trained, :trained]
    if grid.size is None:
        if grid.cells > trained * trained:
            return resized_square(square, grid)
        return table[index][None]
    larger = grid.size[:, 0] * grid.size[:, 1] > trained * trained
    return jnp.where(larger[:, None, None], resized_square(square, grid), table[index][None])


def resized_square(square: jax.Array, grid: Grid) -> jax.Array:
    """Bilinear resize of embeddings [g, g, D] to `grid`: [b, N, D]."""
    rows = interpolation_matrix(square.shape[0], grid.axis(0), square.shape[0], grid.rows)
    columns = interpolation_matrix(square.shape[1], grid.axis(1), square.shape[1], grid.columns)
    rows, columns = (matrix.reshape(-1, *matrix.shape[-2:]) for matrix in (rows, columns))
    resized = jnp.einsum("zra,abd->zrbd", rows, square, precision="highest")
    resized = jnp.einsum("zcb,zrbd->zrcd", columns, resized, precision="highest")
    return rearrange(resized, "b h w d -> b (h w) d")
