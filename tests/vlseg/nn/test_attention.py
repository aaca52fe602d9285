"""Oracle: attention over all pairs at once with one dense bias, differentiated automatically."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vlseg.nn import attention
from vlseg.nn.attention import KeyBlock, QueryBlock
from vlseg.nn.multi_head import Pattern, multi_head_attention

HEADS, QUERIES, KEYS, WIDTH = 2, 6, 8, 4
FAR = -1e9


@pytest.fixture(params=["together", "one by one"], autouse=True)
def heads(request, monkeypatch):
    """Whether this CPU takes the heads of these few scores one after another."""
    if request.param == "one by one":
        monkeypatch.setattr(attention, "CACHED_SCORES", 0)
    return request.param


def inputs(batch, dtype=jnp.float32):
    rng = np.random.default_rng(batch)
    shapes = ((QUERIES, WIDTH), (KEYS, WIDTH), (KEYS, WIDTH + 1))
    return [jnp.asarray(rng.standard_normal((batch, HEADS, *shape)), dtype) for shape in shapes]


def biases(rows):
    """One for a 6-D view of 4 queries and 6 keys, one constant per head, one plain."""
    rng = np.random.default_rng(9)
    shapes = ((rows, HEADS, 2, 2, 2, 3), (1, HEADS, 1, 1), (1, HEADS, 2, 5))
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def in_blocks(biases):
    grid, constant, plain = biases
    return [
        QueryBlock(slice(0, 4), [KeyBlock(slice(0, 6), grid), KeyBlock(slice(6, 8), constant)]),
        QueryBlock(slice(4, 6), [KeyBlock(slice(2, 7), plain)]),
    ]


class InBlocks(Pattern):
    def blocks(self, tables, fixed):
        return in_blocks(tables)


class AllPairs(Pattern):
    def blocks(self, tables, fixed):
        return [QueryBlock(slice(0, QUERIES), [KeyBlock(slice(0, KEYS))])]


def attend(query, key, value, biases, mask):
    """[B, H, n, E] and so on, as the oracle takes them; `biases` are None for all pairs without any."""
    arrays = (rearrange(x, "b h n e -> b n (h e)") for x in (query, key, value))
    key_mask = None if mask is None else mask[:, 0, 0] == 0
    pattern = AllPairs() if biases is None else InBlocks()
    output = multi_head_attention(pattern, HEADS, *arrays, tables=biases, key_mask=key_mask)
    return rearrange(output, "b n (h d) -> b h n d", h=HEADS)


def dense(query, key, value, biases, mask):
    grid, constant, plain = biases
    batch = query.shape[0]
    grid = jnp.repeat(grid.reshape(-1, HEADS, 4, 6), batch // len(grid), axis=0)
    constant = jnp.broadcast_to(constant, (batch, HEADS, 4, 2))
    plain = jnp.pad(plain, ((0, 0), (0, 0), (0, 0), (2, 1)), constant_values=2 * FAR)
    plain = jnp.broadcast_to(plain, (batch, HEADS, 2, 8))
    bias = jnp.concatenate([jnp.concatenate([grid, constant], axis=-1), plain], axis=-2)
    scores = jnp.einsum("bhne,bhme->bhnm", query, key) + bias
    weights = jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value)


def masks(batch):
    valid = np.arange(KEYS) < np.arange(4, 4 + batch)[:, None]
    return jnp.where(valid, 0.0, FAR)[:, None, None, :]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 1), (3, 3), (4, 2)])
def test_values_and_gradients(batch, rows, masked):
    mask = masks(batch) if masked else None
    weight = jnp.asarray(np.random.default_rng(5).standard_normal((batch, HEADS, QUERIES, WIDTH + 1)), jnp.float32)

    def ours(query, key, value, biases):
        return attend(query, key, value, biases, mask)

    def theirs(query, key, value, biases):
        return dense(query, key, value, biases, mask)

    arguments = (*inputs(batch), biases(rows))
    np.testing.assert_allclose(jax.jit(ours)(*arguments), theirs(*arguments), rtol=1e-5, atol=1e-5)

    def gradients(function):
        return jax.jit(jax.grad(lambda *arguments: jnp.sum(function(*arguments) * weight), argnums=(0, 1, 2, 3)))(
            *arguments
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients(ours), gradients(theirs)
    )


def test_scores_far_from_zero_do_not_overflow():
    query, key, value = inputs(1)

    def total(query):
        return jnp.sum(attend(query * 1e4, key, value, None, None))

    assert np.isfinite(total(query)) and np.isfinite(jax.grad(total)(query)).all()


def test_low_precision_keeps_types():
    query, key, value = inputs(2, jnp.bfloat16)
    added = biases(1)
    output, pull = jax.vjp(lambda *x: attend(*x, added, None), query, key, value)
    assert output.dtype == jnp.bfloat16
    assert [x.dtype for x in pull(output)] == [jnp.bfloat16] * 3
    exact = attend(*(x.astype(jnp.float32) for x in (query, key, value)), added, None)
    np.testing.assert_allclose(output.astype(jnp.float32), exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_take_all_heads_at_once(platform, heads):
    def output(query, key, value):
        return attend(query, key, value, biases(1), None)

    text = jax.jit(output).trace(*inputs(1)).lower(lowering_platforms=(platform,)).as_text()
    assert ("while" in text) == (platform == "cpu" and heads == "one by one")


def test_batches_of_any_size_are_one_program():
    (batch,) = jax.export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in inputs(1)]

    def output(query, key, value):
        return attend(query, key, value, biases(1), None)

    program = jax.export.export(jax.jit(output))(*shapes)
    np.testing.assert_allclose(program.call(*inputs(3)), output(*inputs(3)), rtol=1e-5, atol=1e-5)
