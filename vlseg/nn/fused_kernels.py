"""Attention in kernels for TPUs, forward and backward: scores of queries and keys never reach memory.

For an image, a head, queries i and keys j, where a group of images may share r, t and bias
(Vaswani et al. 2017, Eq. 1; products of positions are those of OFA, OFA-Sys/OFA):

    s[i, j] = q[i] . k[j] + r[i] . t[j] + bias[i, j] + mask[j]
    p[i, j] = exp(s[i, j]) / sum over j of exp(s[i, j])
    o[i]    = sum over j of p[i, j] v[j]

Backward, from the gradient g of o, p is computed again (Dao et al. 2022, Appendix B.2):

    dv[j]    = sum over i of p[i, j] g[i]
    ds[i, j] = p[i, j] (g[i] . v[j] - sum over j' of p[i, j'] g[i] . v[j'])
    dq[i]    = sum over j of ds[i, j] k[j]                  dk[j] = sum over i of ds[i, j] q[i]
    dr, dt, dbias: the same with t and r, and ds itself, each summed over the images of its group

Arrays are read as linear layers leave them, [B, n, W]. Two heads of 64 channels fill the 128 lanes of a tile, and the
positions of a head take the place of the other head's channels: q[0] | r[0] for the first head and r[1] | q[1] for the
second. So nothing is split into heads, nothing is padded, and one product over 128 channels sums content and position.

The relative bias between cells of a grid depends on the distance of their rows and of their columns alone. One row of
the grid as keys is then, for the 32 cells of a row of queries, one row of numbers that moves by a lane from query to
query. So a tile of 8 x 32 queries by all 1,024 cells is made of 16 rows of numbers by rotations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vlseg.nn.attention import MASKED

HEAD, LANES = 64, 128
"""Channels of a head, and of the pair of heads that a step reads."""

SIDE, CELLS = 32, 1024
"""Of the grid whose bias is made inside the kernels: two rows of it as keys, at a pitch of 64, fill a tile's lanes."""

Refs: TypeAlias = Mapping[str, Any]
"""Blocks of operands, results and scratch of a step, by name."""


@dataclass(frozen=True)
class Shapes:
    """Of a call on one device.

    batch, queries, keys, pairs: B, n, m and half the heads. rows, images: queries and images of a step.
    """

    batch: int
    queries: int
    keys: int
    pairs: int
    rows: int
    images: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Steps over pairs of heads, images, and queries, the last fastest."""
        return self.pairs, self.batch // self.images, self.blocks

    @property
    def blocks(self) -> int:
        """Of queries; the last may be partly filled."""
        return pl.cdiv(self.queries, self.rows)

    @property
    def ragged(self) -> bool:
        """Whether the last block of queries is partly filled."""
        return self.queries % self.rows > 0

    def steps(self, groups: int) -> int:
        """Consecutive steps over images that share what there are `groups` of."""
        return self.batch // groups // self.images


def forward(shapes: Shapes, groups: Mapping[str, int], causal: bool, refs: Refs) -> None:
    """Writes the output of a step."""
    del groups
    block = pl.program_id(2)
    _write_tile(shapes, causal, refs, block)
    for image in range(shapes.images):
        value = refs["value"][image]
        rows, columns = _pair(refs, "query", image), _pair(refs, "key", image)
        outputs = []
        for head in range(2):
            scores = _scores(refs, image, head, rows[head], columns[head])
            weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
            total = weights.sum(axis=1, keepdims=True)
            outputs.append(_product(weights.astype(value.dtype), value, 1, 0) / total)
        refs["output"][image] = _halves(*outputs).astype(refs["output"].dtype)


def backward(shapes: Shapes, groups: Mapping[str, int], causal: bool, refs: Refs) -> None:
    """Adds a step to the gradients, and writes those that are complete after it."""
    step, block = pl.program_id(1), pl.program_id(2)
    _write_tile(shapes, causal, refs, block)
    _start_sums(shapes, groups, refs, step, block)
    row = block * shapes.rows + jax.lax.broadcasted_iota(jnp.int32, (shapes.rows, 1), 0)
    valid = row < shapes.queries if shapes.ragged else None
    slopes: list[Any] = [0.0, 0.0]
    row_positions: Any = 0.0
    column_positions: Any = 0.0
    for image in range(shapes.images):
        value, gradient = refs["value"][image], _without(refs["gradient"][image], valid)
        rows, columns = _pair(refs, "query", image, valid), _pair(refs, "key", image)
        none = jnp.zeros_like(gradient)
        gradients = _halves(gradient, none), _halves(none, gradient)
        by_row, by_column, by_value = [], [], []
        for head in range(2):
            scores = _without(_scores(refs, image, head, rows[head], columns[head]), valid)
            weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
            weights = weights / weights.sum(axis=1, keepdims=True)
            slope = _product(gradients[head], value, 1, 1)
            slope = weights * (slope - jnp.sum(weights * slope, axis=1, keepdims=True))
            slopes[head] += slope
            slope = slope.astype(value.dtype)
            by_row.append(_product(slope, columns[head], 1, 0))
            by_column.append(_product(slope, rows[head], 0, 0))
            by_value.append(_product(weights.astype(value.dtype), gradient, 0, 0))
        refs["query_gradient"][image] = _halves(*by_row).astype(refs["query_gradient"].dtype)
        refs["key_sum"][image] += _halves(*by_column)
        refs["value_sum"][image] += _halves(*by_value)
        row_positions += _halves(*reversed(by_row))
        column_positions += _halves(*reversed(by_column))
    if "key_position" in refs:
        refs["key_position_gradient"][...] += column_positions
        refs["query_position_gradient"][_rows(shapes, block)] += row_positions
    if "even" in refs:
        _add_grid(shapes, refs, block, slopes)
    if "bias_sum" in refs:
        _add_dense(shapes, shapes.steps(groups["bias"]), refs, step, block, slopes)

    @pl.when(block == shapes.blocks - 1)
    def _() -> None:
        for name in ("key", "value"):
            gradient = refs[f"{name}_gradient"]
            gradient[...] = refs[f"{name}_sum"][...].astype(gradient.dtype)


def _start_sums(shapes: Shapes, groups: Mapping[str, int], refs: Refs, step: Any, block: Any) -> None:
    """Zeroes sums over blocks of queries, and sums over the images of a group, at their first steps."""

    @pl.when(block == 0)
    def _() -> None:
        for name in ("key_sum", "value_sum"):
            refs[name][...] = jnp.zeros_like(refs[name])

    for name in ("query_position", "key_position", "even", "odd", "beside", "below", "corner"):
        if name in refs:
            # A loop's variable in a function that runs later would be that of the last round.
            def zero(sums: Any = refs[f"{name}_gradient"]) -> None:
                sums[...] = jnp.zeros_like(sums)

            pl.when((block == 0) & (step % shapes.steps(groups[name]) == 0))(zero)


def _low(shape: tuple[int, ...]) -> jax.Array:
    """Whether a lane belongs to the first head of a pair."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) < HEAD


def _halves(first: jax.Array, second: jax.Array) -> jax.Array:
    """The first head's lanes of one array [rows, 128] and the second's of another."""
    return jnp.where(_low(first.shape), first, second)


def _pair(refs: Refs, name: str, image: int, valid: Any = None) -> tuple[jax.Array, jax.Array]:
    """What the products of both heads take of queries or keys [rows, 128]: with positions, or zeros, beside them."""
    content = _without(refs[name][image], valid)
    position = f"{name}_position"
    beside = _without(refs[position][...], valid) if position in refs else jnp.zeros_like(content)
    return _halves(content, beside), _halves(beside, content)


def _without(x: jax.Array, valid: Any) -> jax.Array:
    """`x` [rows, m] with zeros where there are no queries: what a block holds there is not defined."""
    return x if valid is None else jnp.where(valid, x, jnp.zeros_like(x))


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """Matrix product over an axis of each, in float32.

    Kernels know two precisions, and only the lower one for bfloat16: what asks for more than that gets the higher one.
    """
    axes = (((left_axis,), (right_axis,)), ((), ()))
    asked = jax.config.values["jax_default_matmul_precision"]
    more = left.dtype == jnp.float32 and asked not in (None, "default", "fastest", "bfloat16")
    precision = jax.lax.Precision.HIGHEST if more else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(left, right, axes, precision, preferred_element_type=jnp.float32)


def _rows(shapes: Shapes, block: Any) -> Any:
    """Where a block of queries lies in all of them."""
    return pl.ds(pl.multiple_of(block * shapes.rows, shapes.rows), shapes.rows)


def _scores(refs: Refs, image: int, head: int, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """float32 [rows, m]."""
    scores = _product(rows, columns, 1, 1)
    if "tile" in refs:
        scores += refs["tile"][head]
    elif "bias" in refs:
        scores += refs["bias"][min(head, refs["bias"].shape[0] - 1)].astype(jnp.float32)
    return scores + refs["mask"][image] if "mask" in refs else scores


def _write_tile(shapes: Shapes, causal: bool, refs: Refs, block: Any) -> None:
    """The bias of a block of queries and all keys, from the tables of a grid, for both heads."""
    if "even" not in refs:
        return
    tile, others = refs["tile"], shapes.keys - CELLS
    before = CELLS // shapes.rows
    column = jax.lax.broadcasted_iota(jnp.int32, (shapes.rows, CELLS), 1)

    @pl.when(block < before)
    def _() -> None:
        row = block * shapes.rows + jax.lax.broadcasted_iota(jnp.int32, (shapes.rows, CELLS), 0)
        for head in range(2):
            bias = grid_bias(refs["even"][head], refs["odd"][head])
            tile[head, :, :CELLS] = jnp.where(column <= row, bias, MASKED) if causal else bias
            beside = refs["beside"][head] if "beside" in refs else jnp.zeros((1, others), jnp.float32)
            tile[head, :, CELLS:] = jnp.broadcast_to(beside, (shapes.rows, others))

    @pl.when(block >= before)
    def _() -> None:
        for head in range(2):
            below = refs["below"][head] if "below" in refs else jnp.zeros((1, 1), jnp.float32)
            tile[head, :, :CELLS] = jnp.broadcast_to(MASKED if causal else below, (shapes.rows, CELLS))
            tile[head, :, CELLS:] = refs["corner"][head, _rows(shapes, block - before)]


def _add_grid(shapes: Shapes, refs: Refs, block: Any, slopes: list[jax.Array]) -> None:
    """Adds the gradients [rows, m] of a block of scores, of both heads, to those of a grid's tables."""
    before, tile = CELLS // shapes.rows, shapes.rows // SIDE

    @pl.when(block < before)
    def _() -> None:
        rows = pl.ds(pl.multiple_of(block * tile, tile), tile)
        for head in range(2):
            even, odd = grid_gradient(slopes[head][:, :CELLS])
            refs["even_gradient"][head, rows] += even
            refs["odd_gradient"][head, rows] += odd
            if "beside" in refs:
                refs["beside_gradient"][head] += slopes[head][:, CELLS:].sum(axis=0, keepdims=True)

    @pl.when(block >= before)
    def _() -> None:
        for head in range(2):
            if "below" in refs:
                to_cells = slopes[head][:, :CELLS].sum(axis=1, keepdims=True)
                refs["below_gradient"][head] += to_cells.sum(axis=0, keepdims=True)
            refs["corner_gradient"][head, _rows(shapes, block - before)] += slopes[head][:, CELLS:]


def _add_dense(shapes: Shapes, steps: int, refs: Refs, step: Any, block: Any, slopes: list[jax.Array]) -> None:
    """Sums gradients of scores over the images of a group; the last of them writes."""
    rows, sums, result = _rows(shapes, block), refs["bias_sum"], refs["bias_gradient"]
    first, last = step % steps == 0, step % steps == steps - 1
    for head in range(2):
        slope = slopes[head] + jnp.where(first, jnp.zeros_like(slopes[head]), sums[head, rows])
        sums[head, rows] = slope

        def write(head: int = head, slope: jax.Array = slope) -> None:
            result[head] = slope.astype(result.dtype)

        pl.when(last)(write)


def grid_bias(even: jax.Array, odd: jax.Array) -> jax.Array:
    """[r, 1024] of r rows of queries, see `vlseg.nn.fused_attention.GridBias` -> biases [r * 32, 1024] of cells."""
    of_even = jax.lax.broadcasted_iota(jnp.int32, (SIDE, CELLS), 1) % (2 * SIDE) < SIDE
    rows = []
    for row in range(even.shape[0]):
        # From query to query one lane further; the first sees distance 0 in the lane of its own column.
        places = {"shift": CELLS - SIDE + 1, "axis": 1, "stride": 1, "stride_axis": 0}
        left = pltpu.roll(jnp.broadcast_to(even[row : row + 1], (SIDE, CELLS)), **places)
        places["shift"] += SIDE
        right = pltpu.roll(jnp.broadcast_to(odd[row : row + 1], (SIDE, CELLS)), **places)
        rows.append(jnp.where(of_even, left, right))
    return jnp.concatenate(rows, axis=0)


def grid_gradient(slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The transpose of `grid_bias`: [r * 32, 1024] -> even and odd [r, 1024]."""
    of_even = jax.lax.broadcasted_iota(jnp.int32, slope.shape, 1) % (2 * SIDE) < SIDE
    back = SIDE - 1 - jax.lax.broadcasted_iota(jnp.int32, slope.shape, 0) % SIDE

    def moved(x: jax.Array, further: int) -> jax.Array:
        # Rotations by another number of lanes for each row, one bit of it after another.
        for bit in range(5):
            x = jnp.where((back >> bit) & 1 == 1, pltpu.roll(x, 1 << bit, 1), x)
        x = x.reshape(-1, SIDE, CELLS).sum(axis=1)
        return pltpu.roll(x, further, 1) if further else x

    return moved(jnp.where(of_even, slope, 0.0), 0), moved(jnp.where(of_even, 0.0, slope), CELLS - SIDE)
