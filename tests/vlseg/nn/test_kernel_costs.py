"""Oracle: the pipeline of a kernel, step by step."""

import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from vlseg import sharding
from vlseg.nn import kernel_costs


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


MAPS = {
    "each": lambda i, j: (i, j),
    "rows": lambda i, j: (i, 0),
    "columns": lambda i, j: (j, 0),
    "one": lambda i, j: (0, 0),
    "shared": lambda i, j: (i // 2, j % 2),
    "late": lambda i, j: (jnp.where(i == 1, j, 0), 0),
    "single": lambda i, j: j // 3,
}


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    grid=strategies.tuples(strategies.integers(1, 4), strategies.integers(1, 5)),
    name=strategies.sampled_from(sorted(MAPS)),
)
def test_fetches_are_those_of_the_pipeline(grid, name):
    kept, count = None, 0
    for step in itertools.product(*map(range, grid)):
        place = np.asarray(MAPS[name](*step)).tolist()
        count += place != kept
        kept = place
    assert kernel_costs.fetches(grid, pl.BlockSpec((8, 128), MAPS[name])) == count


@pytest.mark.parametrize(
    ("block", "whole", "size"),
    [
        ((8, 128), array(64, 128), 4 * 8 * 128),
        ((5, 100), array(64, 100), 4 * 8 * 128),
        ((2, 256, 64), array(4, 1237, 64, dtype=jnp.bfloat16), 2 * 2 * 256 * 128),
        # Rows of narrow numbers share a word.
        ((9, 128), array(9, 128, dtype=jnp.bfloat16), 2 * 16 * 128),
        ((9, 128), array(9, 128, dtype=jnp.int8), 32 * 128),
        ((None, 256, 128), array(4, 512, 128), 4 * 256 * 128),
        ((pl.squeezed, 256, 128), array(4, 512, 128), 4 * 256 * 128),
        ((pl.Blocked(3), 256, 128), array(6, 512, 128), 4 * 3 * 256 * 128),
        ((200,), array(1000), 4 * 8 * 256),
        (None, array(3, 7, 130), 4 * 3 * 8 * 256),
    ],
)
def test_a_block_takes_whole_tiles(block, whole, size):
    spec = pl.BlockSpec(block, lambda i: (0,) * len(whole.shape))
    assert kernel_costs.moved_bytes((4,), spec, whole) == size
    moving = pl.BlockSpec(block, lambda i: (i, *[0] * (len(whole.shape) - 1)))
    assert kernel_costs.moved_bytes((4,), moving, whole) == 4 * size


def test_an_operand_without_blocks_is_fetched_once():
    assert kernel_costs.moved_bytes((4, 5), pl.BlockSpec(), array(16, 128)) == 4 * 16 * 128
    numbers = pl.BlockSpec(memory_space=pltpu.SMEM)
    assert kernel_costs.moved_bytes((4, 5), numbers, array(3, dtype=jnp.int32)) == 12
    assert kernel_costs.moved_bytes((4, 0), pl.BlockSpec((8, 128), lambda i, j: (i, j)), array(16, 128)) == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (pl.BlockSpec(memory_space=pl.ANY), "does not follow from its grid"),
        (pl.BlockSpec(memory_space=pltpu.HBM), "does not follow from its grid"),
        (pl.BlockSpec((pl.Element(8), 128), lambda i: (i, 0)), "counted by elements"),
    ],
)
def test_what_the_grid_does_not_tell_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        kernel_costs.moved_bytes((4,), spec, array(64, 128))


SPECS = [
    pl.BlockSpec((2, 256, 128), lambda h, b, i: (b, i, h)),
    pl.BlockSpec((2, 1237, 128), lambda h, b, i: (b, 0, h)),
    pl.BlockSpec((2, 256, 1237), lambda h, b, i: (h, i, 0)),
    pl.BlockSpec((2, 256, 1237), lambda h, b, i: (h, jnp.where(b == 3, i, 0), 0)),
]
ATTENTION = [array(8, 1237, 768, dtype=jnp.bfloat16)] * 2 + [array(12, 1237, 1237, dtype=jnp.bfloat16)] * 2


def test_an_attention_by_hand():
    """Six pairs of heads, four pairs of images, five blocks of 256 queries; 1237 keys."""
    grid, half = (6, 4, 5), 2
    rows = math.ceil(1237 / 16) * 16
    found = kernel_costs.cost_estimate(grid, SPECS, ATTENTION, flops=7, transcendentals=11)
    queries = 6 * 4 * 5 * (2 * 256 * 128)
    keys = 6 * 4 * (2 * rows * 128)
    bias = 6 * 4 * 5 * (2 * 256 * 1280)
    # The bias's gradient stays at its first block but for the last pair of images, whose first is that one still, and
    # then the next pair of heads begins.
    slope = 6 * 5 * (2 * 256 * 1280)
    assert found.bytes_accessed == half * (queries + keys + bias + slope)
    assert (found.flops, found.transcendentals) == (7, 11)


def test_it_is_known_while_a_program_is_traced():
    """Inside of jit and shard_map, too, where kernels are called."""
    seen = []

    def local(x):
        seen.append(kernel_costs.cost_estimate((6, 4, 5), SPECS, ATTENTION, flops=1).bytes_accessed)
        return x

    mesh = sharding.make_mesh("data=1", jax.devices()[:1])
    spec = PartitionSpec("data")
    with sharding.using(mesh):
        spread = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
        jax.jit(local).trace(jnp.ones(4))
        jax.jit(jax.grad(lambda x: jax.checkpoint(spread)(x).sum())).trace(jnp.ones(4))
    assert len(seen) >= 2
    assert set(seen) == {kernel_costs.cost_estimate((6, 4, 5), SPECS, ATTENTION, flops=1).bytes_accessed}
