"""The kernel of attention, run by XLA. Oracle: all scores at once, differentiated automatically."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import positions
from vlseg.nn import fused_attention, fused_kernels
from vlseg.nn.attention import MASKED
from vlseg.nn.fused_attention import Arrays, GridBias

MEMORY = 48 * 2**20
HEAD = fused_kernels.HEAD


class Drawn:
    """Normal draws, one after another."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        return jnp.asarray(self.rng.standard_normal(shape), jnp.float32)


def dense(query, key, value, pair, bias, mask):
    batch, rows, width = query.shape
    heads = width // HEAD

    def split(x):
        return jnp.repeat(x.reshape(x.shape[0], -1, heads, HEAD).swapaxes(1, 2), batch // x.shape[0], axis=0)

    def product(x, y):
        return jnp.einsum("bhne,bhme->bhnm", split(x), split(y), precision="highest")

    scores = product(query, key)
    scores = scores if pair is None else scores + product(*pair)
    scores = scores if bias is None else scores + jnp.repeat(bias, batch // bias.shape[0], axis=0)
    weights = jax.nn.softmax(scores if mask is None else scores + mask[:, None], axis=-1)
    output = jnp.einsum("bhnm,bhmd->bhnd", weights, split(value), precision="highest")
    return output.swapaxes(1, 2).reshape(batch, rows, width)


def with_gradients(function, *arguments):
    *inputs, gradient = arguments
    output, pull = jax.vjp(function, *inputs)
    return output, pull(gradient)


@jax.jit
def by_kernel(*arguments):
    *inputs, gradient = arguments
    inputs = Arrays(*inputs)
    output = fused_attention.forward(inputs, memory=MEMORY, interpret=True)
    return output, fused_attention.backward(inputs, gradient, memory=MEMORY, interpret=True)


def mask_of(drawn, batch, keys):
    hidden = drawn.rng.random((batch, 1, keys)) < 0.3
    hidden[:, :, 0] = False
    return jnp.where(hidden, MASKED, 0.0).astype(jnp.float32)


def assert_close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Gradients of single numbers are small differences of long sums.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()) + 1e-6)


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "pairs", "bias", "masked"),
    [
        (2, 37, 53, 2, 1, (1, 2), True),
        (4, 300, 261, 4, 2, (1, 4), True),  # groups of images that share positions, two images a step
        (3, 300, 41, 2, 3, (3, 2), False),  # an odd number of images, each with biases of its own
        (2, 77, 77, 2, None, (1, 1), False),
        (4, 520, 41, 2, None, None, True),
        (6, 5, 3, 2, 2, (2, 2), True),
    ],
)
def test_values_and_gradients(batch, queries, keys, heads, pairs, bias, masked):
    drawn, width = Drawn(batch + queries), heads * HEAD
    query, key, value = drawn(batch, queries, width) * 0.1, drawn(batch, keys, width), drawn(batch, keys, width)
    pair = None if pairs is None else (drawn(pairs, queries, width) * 0.1, drawn(pairs, keys, width))
    added = None if bias is None else drawn(*bias, queries, keys)
    mask = mask_of(drawn, batch, keys) if masked else None
    gradient = drawn(batch, queries, width)
    arguments = (query, key, value, pair, added, mask)
    expected, expected_slopes = jax.jit(functools.partial(with_gradients, dense))(*arguments, gradient)
    expected_slopes = expected_slopes[:5]
    found, slopes = by_kernel(*arguments, gradient)
    if bias is not None and bias[1] == 1:  # no gradient
        assert not slopes[4].any()
        slopes, expected_slopes = slopes[:4], expected_slopes[:4]
    assert_close((found, slopes), (expected, expected_slopes))


def tables(offsets):
    return positions.kernel_tables(offsets, positions.relative_axes(positions.Grid(32, 32), 32))


def of_cells(offsets):
    """The bias between cells from its definition: [H, 1024, 1024]."""
    row, column = np.divmod(np.arange(1024), 32)
    return jnp.moveaxis(offsets[row[:, None] - row + 31, column[:, None] - column + 31], -1, 0)


def test_the_bias_of_a_grid_is_made_exactly():
    offsets = Drawn(1)(63, 63, 2)
    (even,), (odd,) = tables(offsets)
    expected = np.asarray(of_cells(offsets))
    for head in range(2):
        for row in range(0, 32, 8):
            # pltpu.roll has no meaning outside of a kernel.
            found = in_kernel(fused_kernels.grid_bias, (256, 1024), even[head, row : row + 8], odd[head, row : row + 8])
            np.testing.assert_array_equal(found, expected[head, row * 32 : (row + 8) * 32])


def in_kernel(function, shape, *arrays):
    def body(*refs):
        *inputs, output = refs
        output[...] = function(*(ref[...] for ref in inputs))

    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.experimental.pallas.pallas_call(body, result, interpret=True)(*arrays)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "full context"])
def test_values_and_gradients_on_the_grid_of_the_kernel(kind):
    drawn, batch, heads = Drawn(3), 2, 2
    others, causal = 45 if kind == "encoder" else 1, kind == "decoder"
    length, width = 1024 + others, heads * HEAD
    query, key, value, gradient = (drawn(batch, length, width) for _ in range(4))
    query, pair = query * 0.1, (drawn(1, length, width) * 0.1, drawn(1, length, width))
    mask = mask_of(drawn, batch, length).at[:, :, 1024:].set(0.0)
    offsets, corner = drawn(63, 63, heads), drawn(1, heads, others, others)
    beside = None if kind == "encoder" else drawn(1, heads, 1, others)
    below = drawn(1, heads, 1, 1) if kind == "full context" else None

    def laid_out(offsets, beside, below, corner):
        cells = of_cells(offsets)[None]
        cells = jnp.where(jnp.tri(1024, dtype=bool), cells, MASKED) if causal else cells
        edge = MASKED if causal else 0.0 if below is None else below
        edge = jnp.broadcast_to(edge, (1, heads, others, 1024))
        beside = jnp.broadcast_to(0.0 if beside is None else beside, (1, heads, 1024, others))
        return jnp.concatenate([jnp.concatenate([cells, beside], -1), jnp.concatenate([edge, corner], -1)], -2)

    def laid_out_dense(query, key, value, pair, parts, mask):
        return dense(query, key, value, pair, laid_out(*parts), mask)

    parts = (offsets, beside, below, corner)
    expected = jax.jit(functools.partial(with_gradients, laid_out_dense))(
        query, key, value, pair, parts, mask, gradient
    )
    bias, pull_bias = jax.vjp(lambda offsets, *edges: GridBias(*tables(offsets), *edges, causal), *parts)
    found, (*slopes, of_bias) = by_kernel(query, key, value, pair, bias, mask, gradient)
    output, (*expected_slopes, _) = expected
    assert_close((found, (*slopes, pull_bias(of_bias))), (output, tuple(expected_slopes)))


def test_half_precision_keeps_types():
    drawn = Drawn(5)
    arrays = [drawn(2, 40, 128), drawn(2, 24, 128), drawn(2, 24, 128)]
    half = [x.astype(jnp.bfloat16) for x in arrays]
    bias = drawn(1, 2, 40, 24)
    found, slopes = by_kernel(*half, None, bias, None, half[0])
    assert [x.dtype for x in (found, *slopes[:3])] == [jnp.bfloat16] * 4 and slopes[4].dtype == jnp.float32
    exact = dense(*(x.astype(jnp.float32) for x in half), None, bias, None)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.03, atol=0.03)


def test_memory_decides_what_fits():
    def fits(length, memory, backward):
        x = jax.ShapeDtypeStruct((2, length, 768), jnp.bfloat16)
        bias = jax.ShapeDtypeStruct((1, 12, length, length), jnp.bfloat16)
        return fused_attention.fits(Arrays(x, x, x, (x, x), bias, None), memory=memory, backward=backward)

    assert fits(1237, MEMORY, backward=True) and fits(2000, MEMORY, backward=False)
    assert not fits(4000, MEMORY, backward=True) and not fits(1237, 2**20, backward=False)
