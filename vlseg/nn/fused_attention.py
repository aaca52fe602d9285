"""Calls of the kernels of `vlseg.nn.fused_kernels`: blocks of every operand, memory of the core, and shapes of results.

A step is a pair of heads, some images and a block of queries; the last varies fastest. All keys of the images are
in the core's memory, so there is no running softmax, and the bytes that are moved are those of inputs and outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vlseg.nn import fused_kernels, kernel_costs
from vlseg.nn.fused_kernels import HEAD, LANES, Shapes

BLOCKS = ((256, 2), (256, 1), (128, 1))
"""Queries and images of a step, best first."""


@struct.dataclass
class GridBias:
    """Biases of scores where queries and keys start with the cells of a 32 x 32 grid, in raster order.

    What lies between two cells depends on the distance of their rows and columns alone, so a row of the grid as keys
    is, for the 32 cells of a row of queries, one row of numbers that moves by one lane from query to query.

    Attributes:
        even, odd: of cells towards cells, float32 [G, H, 32, 1024]: for a row of queries, the biases of all distances
            31 ... -31 between columns and one 0, for every key row with an even number, or an odd one, [16 * 64].
        beside: of all cells towards each of the other keys, float32 [G, H, 1, m - 1024]; or None for 0.
        below: of all other queries towards all cells, float32 [G, H, 1, 1]; or None for 0.
        corner: of the other queries towards the other keys, float32 [G, H, n - 1024, m - 1024].
        causal: cells attend to cells up to themselves, and the other queries to no cells.
    """

    even: jax.Array
    odd: jax.Array
    beside: jax.Array | None
    below: jax.Array | None
    corner: jax.Array
    causal: bool = struct.field(pytree_node=False, default=False)


Bias: TypeAlias = jax.Array | GridBias | None
"""float [G, H or 1, n, m], or as above, for groups of consecutive images. One for all heads gets no gradient."""


class Arrays(NamedTuple):
    """What a call attends with.

    query: [B, n, W], scaled, W of an even number of heads. key, value: [B, m, W].
    positions: of queries [G, n, W], scaled, and keys [G, m, W], for groups of consecutive images; or None.
    bias: see `Bias`. mask: added to the scores, float32 [B, 1, m], or None.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    positions: tuple[jax.Array, jax.Array] | None
    bias: Bias
    mask: jax.Array | None


@dataclass(frozen=True)
class Operand:
    """An array that the kernel reads, or writes, in blocks."""

    name: str
    array: jax.Array | jax.ShapeDtypeStruct
    spec: pl.BlockSpec


def forward(arrays: Arrays, *, memory: int, interpret: bool = False) -> jax.Array:
    """The output [B, n, W] in the dtype of the values.

    Args:
        memory: bytes of the core's memory that the kernel may take. interpret: run by XLA, on any platform.
    """
    shapes, inputs = _inputs(arrays, memory, backward=False)
    output = Operand("output", jax.ShapeDtypeStruct(arrays.query.shape, arrays.value.dtype), _of_queries(shapes))
    (result,) = _call(fused_kernels.forward, shapes, inputs, [output], arrays.bias, 2, memory, interpret)
    return result


def backward(
    arrays: Arrays, gradient: jax.Array, *, memory: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None, Bias]:
    """Gradients of query, key, value, positions and bias (of one head: zeros) from that of the output [B, n, W]."""
    positions, bias = arrays.positions, arrays.bias
    shapes, inputs = _inputs(arrays, memory, backward=True)
    inputs.append(Operand("gradient", gradient, _of_queries(shapes)))
    given = {operand.name: operand for operand in inputs}
    outputs = [
        Operand(f"{name}_gradient", _like(given[name].array, given[name].array.dtype), given[name].spec)
        for name in ("query", "key", "value")
    ]
    padded = shapes.blocks * shapes.rows
    for name, length in (("query_position", padded), ("key_position", shapes.keys)):
        if name in given:
            groups, _, width = given[name].array.shape
            shape = jax.ShapeDtypeStruct((groups, length, width), jnp.float32)
            outputs.append(Operand(f"{name}_gradient", shape, _of_group(shapes, groups, (length, LANES), last=True)))
    for name in ("even", "odd", "beside", "below", "corner"):
        if name in given:
            array = given[name].array
            spec = _of_group(shapes, array.shape[0], (2, *array.shape[2:]))
            outputs.append(Operand(f"{name}_gradient", _like(array, jnp.float32), spec))
    if "bias" in given and given["bias"].array.shape[1] > 1:
        outputs.append(_dense_gradient(shapes, given["bias"].array))
    results = _call(fused_kernels.backward, shapes, inputs, outputs, bias, 5, memory, interpret)
    found = {operand.name.removesuffix("_gradient"): result for operand, result in zip(outputs, results, strict=True)}
    position_gradients = None
    if positions is not None:
        pair = found["query_position"][:, : shapes.queries], found["key_position"]
        rows, columns = (_swapped(x).astype(like.dtype) for x, like in zip(pair, positions, strict=True))
        position_gradients = rows, columns
    bias_gradient: Bias = found.get("bias")
    if isinstance(bias, GridBias):
        corner = found["corner"][:, :, : bias.corner.shape[2]]
        edges = found.get("beside"), found.get("below")
        bias_gradient = GridBias(found["even"], found["odd"], *edges, corner, bias.causal)
    elif bias is not None and bias_gradient is None:
        bias_gradient = jnp.zeros_like(bias)
    return found["query"], found["key"], found["value"], position_gradients, bias_gradient


def fits(arrays: Arrays, *, memory: int, backward: bool) -> bool:
    """Whether a call with arrays, or shapes, like these takes at most `memory` bytes of the core's memory."""
    return _shapes(arrays, memory, backward) is not None


def _shapes(arrays: Arrays, memory: int, backward: bool) -> Shapes | None:
    """The best blocks that the core's memory has room for."""
    query, key, bias = arrays.query, arrays.key, arrays.bias
    batch, queries, width = query.shape
    groups = [array.shape[0] for array in jax.tree.leaves((arrays.positions, bias))]
    for rows, images in BLOCKS:
        rows = min(rows, -(-queries // 16) * 16)
        if isinstance(bias, GridBias) and rows != 8 * fused_kernels.SIDE:
            continue
        shapes = Shapes(batch, queries, key.shape[1], width // LANES, rows, images)
        divides = all(batch // count % images == 0 for count in (1, *groups))
        if divides and _bytes(shapes, query.dtype.itemsize, arrays.positions is not None, bias, backward) <= memory:
            return shapes
    return None


def _bytes(shapes: Shapes, itemsize: int, positions: bool, bias: Bias, backward: bool) -> int:
    """About what the core's memory has to hold: blocks twice, sums, and scores in several stages of their way."""
    keys = -(-shapes.keys // LANES) * LANES
    scores = 4 * shapes.rows * keys
    of_queries, of_keys = shapes.rows * LANES, keys * LANES
    lengths = 3 * of_queries + 4 * of_keys if backward else 2 * of_queries + 2 * of_keys
    total = 2 * shapes.images * itemsize * lengths + (8 if backward else 5) * scores
    if positions:
        total += 2 * itemsize * (of_queries + of_keys)
        total += 8 * (shapes.blocks * of_queries + of_keys) if backward else 0
    if backward:
        total += 2 * 4 * shapes.images * of_keys
    if isinstance(bias, GridBias):
        # Of both heads: the bias of a block, tables, and the corner; for the gradient sums of both.
        side, others = bias.even.shape[2], bias.corner.shape[3]
        corner = -(-bias.corner.shape[2] // shapes.rows) * shapes.rows * -(-others // LANES) * LANES
        tables = 2 * 2 * (side * bias.even.shape[3] + corner)
        total += 2 * scores + (2 if backward else 1) * 4 * tables
    elif bias is not None:
        total += 4 * shapes.rows * keys * bias.dtype.itemsize * (2 if backward else 1)
        total += 2 * shapes.blocks * scores if backward and bias.shape[1] > 1 else 0
    return total


def _inputs(arrays: Arrays, memory: int, backward: bool) -> tuple[Shapes, list[Operand]]:
    """What both kernels read."""
    query, key, value, positions, bias, mask = arrays
    shapes = _shapes(arrays, memory, backward)
    assert shapes is not None, "ask `fits` first"
    rows, keys = shapes.rows, shapes.keys
    found = [
        Operand("query", query, _of_queries(shapes)),
        Operand("key", key, _of_keys(shapes)),
        Operand("value", value, _of_keys(shapes)),
    ]
    if positions is not None:
        of_queries, of_keys = (_swapped(x.astype(query.dtype)) for x in positions)
        spec = _of_block(shapes, of_queries.shape[0], (rows, LANES), lambda h, i: (i, h))
        found.append(Operand("query_position", of_queries, spec))
        spec = _of_group(shapes, of_keys.shape[0], (keys, LANES), last=True)
        found.append(Operand("key_position", of_keys, spec))
    if isinstance(bias, GridBias):
        found += _grid_inputs(shapes, bias)
    elif bias is not None:
        heads = min(bias.shape[1], 2)
        spec = _of_block(shapes, bias.shape[0], (heads, rows, keys), lambda h, i: (h if heads > 1 else 0, i, 0))
        found.append(Operand("bias", bias, spec))
    if mask is not None:
        images = shapes.images
        found.append(Operand("mask", mask, pl.BlockSpec((images, 1, keys), lambda h, b, i: (b, 0, 0))))
    return shapes, found


def _grid_inputs(shapes: Shapes, bias: GridBias) -> list[Operand]:
    groups, _, side, width = bias.even.shape
    tile = shapes.rows // side
    last = side // tile - 1
    spec = _of_block(shapes, groups, (2, tile, width), lambda h, i: (h, i * (i < last) + last * (i >= last), 0))
    found = [Operand("even", bias.even, spec), Operand("odd", bias.odd, spec)]
    corner = jnp.pad(bias.corner, ((0, 0), (0, 0), (0, -bias.corner.shape[2] % shapes.rows), (0, 0)))
    edges = {"beside": bias.beside, "below": bias.below, "corner": corner}
    for name, array in edges.items():
        if array is not None:
            found.append(Operand(name, array, _of_group(shapes, groups, (2, *array.shape[2:]))))
    return found


def _of_queries(shapes: Shapes) -> pl.BlockSpec:
    return pl.BlockSpec((shapes.images, shapes.rows, LANES), lambda h, b, i: (b, i, h))


def _of_keys(shapes: Shapes) -> pl.BlockSpec:
    return pl.BlockSpec((shapes.images, shapes.keys, LANES), lambda h, b, i: (b, 0, h))


def _of_block(shapes: Shapes, groups: int, block: tuple[int, ...], place: Callable[..., Any]) -> pl.BlockSpec:
    """What a block of queries has of an array for a group of images; `place` is a function of heads and block."""
    steps = shapes.steps(groups)
    return pl.BlockSpec((None, *block), lambda h, b, i: (b // steps, *place(h, i)))


def _of_group(shapes: Shapes, groups: int, block: tuple[int, ...], *, last: bool = False) -> pl.BlockSpec:
    """All that a pair of heads has of an array, for a group of images; heads are the first axis of it or the last."""
    steps, zeros = shapes.steps(groups), (0,) * (len(block) - 1)
    return pl.BlockSpec((None, *block), lambda h, b, i: (b // steps, *zeros, h) if last else (b // steps, h, *zeros))


def _dense_gradient(shapes: Shapes, bias: jax.Array | jax.ShapeDtypeStruct) -> Operand:
    """Blocks of queries are written while the last images of a group pass, when their sums are complete."""
    steps = shapes.steps(bias.shape[0])

    def place(h: Any, b: Any, i: Any) -> tuple[Any, ...]:
        return b // steps, h, i * (b % steps == steps - 1), 0

    return Operand("bias_gradient", _like(bias, bias.dtype), pl.BlockSpec((None, 2, shapes.rows, shapes.keys), place))


def _like(array: jax.Array | jax.ShapeDtypeStruct, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, dtype)


def _swapped(x: jax.Array) -> jax.Array:
    """[G, n, W] with the two heads of each pair in each other's place."""
    return x.reshape(*x.shape[:-1], -1, 2, HEAD)[..., ::-1, :].reshape(x.shape)


def _call(
    kernel: Any,
    shapes: Shapes,
    inputs: Sequence[Operand],
    outputs: Sequence[Operand],
    bias: Bias,
    products: int,
    memory: int,
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel. `products`: of queries and keys over 128 channels, for each head."""
    scratch: dict[str, Any] = {}
    if isinstance(bias, GridBias):
        scratch["tile"] = pltpu.VMEM((2, shapes.rows, shapes.keys), jnp.float32)
    if kernel is fused_kernels.backward:
        for name in ("key_sum", "value_sum"):
            scratch[name] = pltpu.VMEM((shapes.images, shapes.keys, LANES), jnp.float32)
        if any(operand.name == "bias_gradient" for operand in outputs):
            scratch["bias_sum"] = pltpu.VMEM((2, shapes.blocks * shapes.rows, shapes.keys), jnp.float32)
    names = [*(operand.name for operand in (*inputs, *outputs)), *scratch]
    groups = {operand.name: operand.array.shape[0] for operand in (*inputs, *outputs)}
    causal = isinstance(bias, GridBias) and bias.causal

    def body(*refs: Any) -> None:
        kernel(shapes, groups, causal, dict(zip(names, refs, strict=True)))

    pairs = 2 * shapes.pairs * shapes.batch * shapes.queries * shapes.keys
    operands = [*inputs, *outputs]
    costs = kernel_costs.cost_estimate(
        shapes.grid,
        [operand.spec for operand in operands],
        [operand.array for operand in operands],
        flops=2 * LANES * products * pairs,
        transcendentals=pairs,
    )
    return pl.pallas_call(
        body,
        grid=shapes.grid,
        in_specs=[operand.spec for operand in inputs],
        out_specs=[operand.spec for operand in outputs],
        out_shape=[operand.array for operand in outputs],
        scratch_shapes=list(scratch.values()),
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=memory,
            # Chips with two cores give each of them half of the heads.
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
        ),
        cost_estimate=costs,
        interpret=interpret,
        name=f"attention_{kernel.__name__}",
    )(*(operand.array for operand in inputs))
