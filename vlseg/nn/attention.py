"""Attention in blocks of queries and keys, with additive biases, and its gradients: `vlseg.nn.multi_head` calls it.

Only queries, keys, values, biases, the output and one number per row are kept for the backward pass; scores and weights
are computed again (Dao et al. 2022, Sec. 3.1 and Appendix B.2), which costs one more product and saves [H, n, m].
Biases may be for groups of consecutive examples; the gradient of such a broadcast is a matrix product.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

OUTPUT = "attention"
"""Name under which a recomputation policy finds the output and the rows' normalizers."""

MASKED = -1e9
"""Score of a pair that must not attend; finite so that rows without any valid key stay finite."""

CACHED_SCORES = 2**22
"""More scores of an image than this do not fit the caches of a CPU, which then computes one head after another."""


class KeyBlock(NamedTuple):
    """A range of keys that some queries attend to.

    keys: static range of the key sequence.
    bias: added to the scores, float32 [G, H, queries or 1, keys or 1], also with queries and keys split into several
        axes; or None. G divides B: each is for a group of consecutive examples.
    """

    keys: slice
    bias: jax.Array | None = None


class QueryBlock(NamedTuple):
    """A range of queries with all the key blocks that it attends to, under one softmax."""

    queries: slice
    keys: Sequence[KeyBlock]


Ranges = tuple[tuple[int, int], tuple[tuple[int, int], ...]]
"""Bounds of the queries and of each range of keys of a block, without its biases."""


def taken_apart(blocks: Sequence[QueryBlock]) -> tuple[tuple[Ranges, ...], list[list[jax.Array | None]]]:
    """Bounds of all blocks, and their biases."""

    def bounds(part: slice) -> tuple[int, int]:
        return part.start, part.stop

    ranges = tuple((bounds(block.queries), tuple(bounds(part.keys) for part in block.keys)) for block in blocks)
    return ranges, [[part.bias for part in block.keys] for block in blocks]


def laid_out(blocks: Sequence[QueryBlock], keys: int) -> jax.Array | None:
    """One bias for all pairs of queries and keys, MASKED for those in no block: float32 [G, H or 1, n, keys].

    None if every query attends to every key without a bias.
    """
    plain = all(part.bias is None for block in blocks for part in block.keys)
    if plain and all(sum(part.keys.stop - part.keys.start for part in block.keys) == keys for block in blocks):
        return None
    shapes = [part.bias.shape[:2] for block in blocks for part in block.keys if part.bias is not None]
    leading = (max((groups for groups, _ in shapes), default=1), max((heads for _, heads in shapes), default=1))
    rows = []
    for block in blocks:
        height, seen, pieces = block.queries.stop - block.queries.start, 0, []
        for part in sorted(block.keys, key=lambda part: part.keys.start):
            width = part.keys.stop - part.keys.start
            pieces.append(jnp.full((*leading, height, part.keys.start - seen), MASKED))
            pieces.append(_whole(part.bias, leading, height, width))
            seen = part.keys.stop
        pieces.append(jnp.full((*leading, height, keys - seen), MASKED))
        rows.append(jnp.concatenate([piece for piece in pieces if piece.shape[-1]], axis=-1))
    return jnp.concatenate(rows, axis=-2)


def _whole(bias: jax.Array | None, leading: tuple[int, int], height: int, width: int) -> jax.Array:
    """A bias of a block with all its axes: [G, H, height, width]."""
    if bias is None:
        return jnp.zeros((*leading, height, width))
    if bias.ndim > 4:
        bias = bias.reshape(*bias.shape[:2], height, width)
    return jnp.broadcast_to(broadcast_batch(bias, leading[0]), (*leading, height, width))


def causal_bias(queries: slice, keys: int) -> jax.Array:
    """MASKED where the key comes after the query, else 0: float32 [queries, keys]."""
    return jnp.where(jnp.arange(queries.start, queries.stop)[:, None] >= jnp.arange(keys), 0.0, MASKED)


def _over_heads(function: Callable[..., Any], query: jax.Array, key: jax.Array, *others: Any) -> Any:
    """`function` of query, key and other trees of [B, H, ...]; on CPUs one head after another if scores are many."""
    arrays = (query, key, *others)

    def one_by_one(*arrays: Any) -> Any:
        heads = jax.tree.map(lambda x: rearrange(x, "b h ... -> h b 1 ..."), arrays)
        results = jax.lax.map(lambda head: function(*head), heads)
        return jax.tree.map(lambda x: rearrange(x, "h b 1 ... -> b h ..."), results)

    if math.prod(query.shape[1:3]) * key.shape[2] <= CACHED_SCORES:
        return function(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=one_by_one, default=function)


def outputs(
    ranges: tuple[Ranges, ...], query: jax.Array, key: jax.Array, value: jax.Array, biases: Any, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention; pairs that are in no block do not attend.

    Args:
        ranges: in the order of their queries, which together are all n. biases: of them, see `taken_apart`.
        query: [B, H, n, E]. key: [B, H, m, E]. value: [B, H, m, d].
        mask: added to the scores, float32 [B or 1, 1, 1, m]; or None.

    Returns:
        [B, H, n, d] in the dtype of the values, from scores and softmax in float32; and the logarithm of each row's sum
        of exponentials, float32 [B, H, n, 1].
    """
    return _over_heads(functools.partial(_output, ranges, mask), query, key, value, biases)


def gradients(
    ranges: tuple[Ranges, ...],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    biases: Any,
    mask: jax.Array | None,
    output: jax.Array,
    normalizer: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Those of query, key, value and biases from that of the output, with what `outputs` returned."""
    function = functools.partial(_gradients, ranges, mask)
    return _over_heads(function, query, key, value, biases, output, normalizer, gradient)


def _output(
    ranges: tuple[Ranges, ...], mask: jax.Array | None, query: jax.Array, key: jax.Array, value: jax.Array, biases: Any
) -> tuple[jax.Array, jax.Array]:
    """Output [B, H, n, d] and the logarithm of each row's sum of exponentials [B, H, n, 1]."""
    outputs, normalizers = [], []
    for ((start, stop), parts), block_biases in zip(ranges, biases, strict=True):
        rows = query[:, :, start:stop]
        scores = [_score(rows, key, part, bias, mask) for part, bias in zip(parts, block_biases, strict=True)]
        peak = functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
        weights = [jnp.exp(score - peak) for score in scores]
        total = functools.reduce(jnp.add, [jnp.sum(weight, axis=-1, keepdims=True) for weight in weights])
        products = [
            jnp.einsum(
                "bhnm,bhmd->bhnd", weight.astype(value.dtype), value[:, :, a:b], preferred_element_type=jnp.float32
            )
            for weight, (a, b) in zip(weights, parts, strict=True)
        ]
        outputs.append((functools.reduce(jnp.add, products) / total).astype(value.dtype))
        normalizers.append(peak + jnp.log(total))
    return jnp.concatenate(outputs, axis=2), jnp.concatenate(normalizers, axis=2)


def _gradients(
    ranges: tuple[Ranges, ...],
    mask: jax.Array | None,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    biases: Any,
    output: jax.Array,
    normalizer: jax.Array,
    gradient: jax.Array,
) -> tuple:
    """Gradients of query, key, value and biases from that of the output."""
    common = jnp.einsum("bhnd,bhnd->bhn", gradient, output, preferred_element_type=jnp.float32)[..., None]
    query_gradients, bias_gradients = [], []
    # Transposed, so that the large factors of their products need not be.
    key_gradient, value_gradient = jnp.zeros(key.mT.shape, jnp.float32), jnp.zeros(value.mT.shape, jnp.float32)
    for ((start, stop), parts), block_biases in zip(ranges, biases, strict=True):
        rows, slope_out = query[:, :, start:stop], gradient[:, :, start:stop]
        row_gradient = jnp.zeros(rows.shape, jnp.float32)
        slopes = []
        for (a, b), bias in zip(parts, block_biases, strict=True):
            weight = jnp.exp(_score(rows, key, (a, b), bias, mask) - normalizer[:, :, start:stop])
            slope = jnp.einsum("bhnd,bhmd->bhnm", slope_out, value[:, :, a:b], preferred_element_type=jnp.float32)
            slope = weight * (slope - common[:, :, start:stop])
            slopes.append(None if bias is None else _like_bias(slope, bias))
            weight, slope = weight.astype(value.dtype), slope.astype(key.dtype)
            row_gradient += jnp.einsum("bhnm,bhme->bhne", slope, key[:, :, a:b], preferred_element_type=jnp.float32)
            key_part = jnp.einsum("bhne,bhnm->bhem", rows, slope, preferred_element_type=jnp.float32)
            value_part = jnp.einsum("bhnd,bhnm->bhdm", slope_out, weight, preferred_element_type=jnp.float32)
            key_gradient = key_gradient.at[..., a:b].add(key_part)
            value_gradient = value_gradient.at[..., a:b].add(value_part)
        query_gradients.append(row_gradient.astype(query.dtype))
        bias_gradients.append(slopes)
    query_gradient = jnp.concatenate(query_gradients, axis=2)
    return query_gradient, key_gradient.mT.astype(key.dtype), value_gradient.mT.astype(value.dtype), bias_gradients


def _score(
    rows: jax.Array, key: jax.Array, part: tuple[int, int], bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    """Scores float32 [B, H, n, m] of some queries and a range of the keys."""
    a, b = part
    score = jnp.einsum("bhne,bhme->bhnm", rows, key[:, :, a:b], preferred_element_type=jnp.float32)
    if bias is not None:
        shape = score.shape
        score = (_grouped(score, bias) + bias[:, None]).reshape(shape)
    return score if mask is None else score + mask[..., a:b]


def _grouped(score: jax.Array, bias: jax.Array) -> jax.Array:
    """Scores [B, H, n, m] with the axes of a bias [G, H, ...], which is for groups of the batch: [G, B / G, H, ...]."""
    axes = score.shape[2:] if bias.ndim == 4 else bias.shape[2:]
    return score.reshape(bias.shape[0], -1, score.shape[1], *axes)


def _like_bias(slope: jax.Array, bias: jax.Array) -> jax.Array:
    """The gradient of a bias from the gradient [B, H, n, m] of the scores."""
    slope = rearrange(_grouped(slope, bias), "g b ... -> (g b) ...")
    if bias.shape[0] != slope.shape[0]:
        slope = sum_batch(slope, bias.shape[0])
    axes = tuple(axis for axis in range(slope.ndim) if bias.shape[axis] == 1 and slope.shape[axis] != 1)
    return jnp.sum(slope, axis=axes, keepdims=True).astype(bias.dtype) if axes else slope.astype(bias.dtype)


def sum_batch(x: jax.Array, groups: int = 1) -> jax.Array:
    """Sums over groups of consecutive examples: [B, ...] -> [groups, ...].

    As a product with a row of ones it runs at the speed of memory on every backend; XLA's own reduction over a leading
    axis is a hundred times slower on CPUs.
    """
    # The other axes stay apart, so that one of them may be spread over devices.
    grouped = rearrange(x, "(g b) ... -> g b ...", g=groups)
    ones = jnp.ones((groups, 1, grouped.shape[1]), x.dtype)
    return jax.lax.dot_general(ones, grouped, (((2,), (1,)), ((0,), (0,))), precision="highest")[:, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast_batch(x: jax.Array, batch: int) -> jax.Array:
    """Repeats each of `x` [G, ...] for its group of consecutive examples: [batch, ...].

    G divides the batch; an array that already has `batch` rows is returned as it is. The gradient is `sum_batch`.
    """
    groups = x.shape[0]
    if groups == batch:
        return x
    repeated = jnp.broadcast_to(x[:, None], (groups, batch // groups, *x.shape[1:]))
    return rearrange(repeated, "g b ... -> (g b) ...")


def _broadcast_forward(x: jax.Array, batch: int) -> tuple[jax.Array, int]:
    return broadcast_batch(x, batch), x.shape[0]


def _broadcast_backward(batch: int, groups: int, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient if groups == batch else sum_batch(gradient, groups),)


broadcast_batch.defvjp(_broadcast_forward, _broadcast_backward)
