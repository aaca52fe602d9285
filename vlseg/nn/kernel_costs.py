"""What a Pallas kernel moves between memory and the core, from its grid and blocks alone.

The compiler sees nothing of what happens inside of a kernel; it, and the counts of compiled programs, take the figures
of the kernel's cost estimate. Those of FLOPs follow from the mathematics. Bytes follow from the pipeline: before each
step of the grid a block of every operand is fetched unless it is the one that is there already, and a block of a result
is written when the next step has another one. So they are computed here and cannot be chosen.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

SUBLANES, LANES = 8, 128
"""Of a tile of 32-bit numbers; of narrower ones more rows share it."""


def cost_estimate(
    grid: Sequence[int],
    specs: Sequence[pl.BlockSpec],
    arrays: Sequence[jax.Array | jax.ShapeDtypeStruct],
    *,
    flops: int,
    transcendentals: int = 0,
) -> pl.CostEstimate:
    """The `cost_estimate` of a `pallas_call`.

    Args:
        grid: its steps, the last axis fastest.
        specs: of all operands and results. arrays: those, or their shapes and dtypes, in the same order.
        flops: of the products inside. transcendentals: exponentials and the like inside.

    Raises:
        ValueError: see `moved_bytes`.
    """
    moved = sum(moved_bytes(grid, spec, array) for spec, array in zip(specs, arrays, strict=True))
    return pl.CostEstimate(flops=flops, bytes_accessed=moved, transcendentals=transcendentals)


def moved_bytes(grid: Sequence[int], spec: pl.BlockSpec, array: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Bytes of the blocks of one operand or result that a kernel moves in all of its steps.

    Blocks count whole, also where they reach over the end of the array, and with the padding of their tiles.

    Args:
        grid: steps of the kernel, the last axis fastest.
        spec: the block's shape (None for an axis of which one index is taken) and where it lies at each step. Without
            a shape the block is the whole array.
        array: of which the blocks are a part.

    Raises:
        ValueError: the kernel moves parts of the array by itself, or chooses blocks by something else than the grid or
            by elements, so that the grid does not tell how much is moved.
    """
    if spec.memory_space not in (None, pltpu.VMEM, pltpu.SMEM):
        raise ValueError(
            f"what a kernel moves by itself from or to {spec.memory_space} does not follow from its grid; "
            "give the operand blocks"
        )
    shape = array.shape if spec.block_shape is None else spec.block_shape
    if not all(size is None or isinstance(size, int | np.integer | pl.Squeezed | pl.Blocked) for size in shape):
        raise ValueError(f"block shape {shape} is counted by elements; give sizes, or None for a single index")
    sizes = [_size(size) for size in shape]
    if spec.memory_space is not pltpu.SMEM:  # which has no tiles
        sizes = _padded(sizes, array.dtype)
    return fetches(grid, spec) * math.prod(sizes) * array.dtype.itemsize


def fetches(grid: Sequence[int], spec: pl.BlockSpec) -> int:
    """How often a kernel moves a block: once for each run of steps that have the same one.

    The index map is called once, with the steps' indices int32 [steps]; arithmetic and functions of jnp take them.
    """
    steps = math.prod(grid)
    if spec.index_map is None or steps <= 1:
        return min(steps, 1)
    with jax.ensure_compile_time_eval():
        found = spec.index_map(*(axis.ravel() for axis in np.indices(tuple(grid), np.int32)))
        places = [np.broadcast_to(place, steps) for place in (found if isinstance(found, tuple | list) else (found,))]
    return 1 + int(np.any([place[1:] != place[:-1] for place in places], axis=0).sum())


def _size(size: Any) -> int:
    if isinstance(size, pl.Blocked):
        return int(size.block_size)
    return 1 if size is None or isinstance(size, pl.Squeezed) else int(size)


def _padded(sizes: Sequence[int], dtype: Any) -> list[int]:
    """The sizes of a block whose last two axes are filled up to whole tiles."""
    rows = SUBLANES * max(4 // dtype.itemsize, 1)
    *others, height, width = (1, 1, *sizes)
    return [*others, -(-height // rows) * rows, -(-width // LANES) * LANES]
