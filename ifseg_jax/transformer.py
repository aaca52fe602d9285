"""Transformer blocks of OFA (OFA-Sys/OFA): pre-norm, with extra norms inside, per-head scales and position biases."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ifseg_jax.config import OFAConfig
from vlseg.nn.broadcast import broadcast_batch
from vlseg.nn.drop_path import DropPath

LAYER_NORM_EPSILON = 1e-5
MASKED = -1e9
"""Score of a pair that must not attend; finite so that rows without any valid key stay finite."""


class KeyBlock(NamedTuple):
    """A range of keys that some queries attend to.

    keys: static range of the key sequence.
    bias: makes an additive bias broadcastable to [B, H, queries, keys], or None. A function, so that a backward pass
        that recomputes attention recomputes the bias too instead of keeping it.
    """

    keys: slice
    bias: Callable[[], jax.Array] | None = None


class QueryBlock(NamedTuple):
    """A range of queries with all the key blocks that it attends to, under one softmax."""

    queries: slice
    keys: Sequence[KeyBlock]


class PositionPair(NamedTuple):
    """Projected position embeddings [b, n, D] of queries (already scaled) and [b, m, D] of keys."""

    queries: jax.Array
    keys: jax.Array


def layer_norm(config: OFAConfig, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm as PyTorch computes it: epsilon 1e-5, two-pass variance, statistics in float32."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, dtype=jnp.dtype(config.dtype), name=name)


def dense(config: OFAConfig, features: int, name: str | None = None) -> nn.Dense:
    """Linear layer in the computation dtype, Xavier-uniform as in OFA."""
    initializer = nn.initializers.xavier_uniform()
    return nn.Dense(features, dtype=jnp.dtype(config.dtype), kernel_init=initializer, name=name)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, n, D] -> [B, H, n, D / H]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def attend(
    query: jax.Array, keys: Sequence[jax.Array], values: Sequence[jax.Array], biases: Sequence[jax.Array | None]
) -> jax.Array:
    """Attention of one block of queries to several blocks of keys under a common softmax.

    Args:
        query: [B, H, n, E]. keys: arrays [B, H, m_i, E]. values: arrays [B, H, m_i, d].
        biases: per key block, broadcastable to [B, H, n, m_i], or None.

    Returns:
        [B, H, n, d], in the dtype of the values. Scores and softmax are float32.
    """
    scores = []
    for key, bias in zip(keys, biases, strict=True):
        score = jnp.einsum("bhne,bhme->bhnm", query, key, preferred_element_type=jnp.float32)
        scores.append(score if bias is None else score + broadcast_batch(bias, score.shape[0]))
    peak = functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
    weights = [jnp.exp(score - jax.lax.stop_gradient(peak)) for score in scores]
    total = sum(jnp.sum(weight, axis=-1, keepdims=True) for weight in weights)
    output = sum(
        jnp.einsum("bhnm,bhmd->bhnd", weight.astype(value.dtype), value, preferred_element_type=jnp.float32)
        for weight, value in zip(weights, values, strict=True)
    )
    return (output / total).astype(values[0].dtype)


class Attention(nn.Module):
    """Multi-head attention with position biases and a learned scale per head.

    The absolute position bias (2 * d)**-0.5 * pos_q . pos_k is computed as d extra dimensions of queries and keys: a
    128-lane matrix unit multiplies 64 + 64 dimensions in the time of 64, and no [H, n, m] array is kept.
    """

    config: OFAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        position: PositionPair,
        blocks: Sequence[QueryBlock],
        key_mask: jax.Array | None,
    ) -> jax.Array:
        """Attends from `x` [B, n, D] to `memory` [B, m, D]; `key_mask` bool [B, m] is False at padding."""
        config = self.config
        heads = config.heads
        scale = (2 * config.width // heads) ** -0.5
        query = dense(config, config.width, "query")(x) * scale
        key = dense(config, config.width, "key")(memory)
        value = split_heads(dense(config, config.width, "value")(memory), heads)
        head_scale = self.param("head_scale", nn.initializers.ones, (heads,))

        def with_position(content: jax.Array, extra: jax.Array) -> jax.Array:
            extra = broadcast_batch(extra.astype(content.dtype), content.shape[0])
            return jnp.concatenate([split_heads(content, heads), split_heads(extra, heads)], axis=-1)

        query, key = with_position(query, position.queries), with_position(key, position.keys)
        mask_bias = None if key_mask is None else jnp.where(key_mask, 0.0, MASKED)[:, None, None, :]

        def attend_block(block: QueryBlock, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            biases = []
            for keys in block.keys:
                bias = None if keys.bias is None else keys.bias()
                if mask_bias is not None:
                    mask = mask_bias[..., keys.keys]
                    bias = mask if bias is None else bias + mask
                biases.append(bias)
            slices = [keys.keys for keys in block.keys]
            return attend(query, [key[:, :, s] for s in slices], [value[:, :, s] for s in slices], biases)

        outputs = []
        for block in blocks:
            function = functools.partial(attend_block, block)
            if config.remat == "attention":
                function = jax.checkpoint(function)
            outputs.append(function(query[:, :, block.queries], key, value))
        output = jnp.concatenate(outputs, axis=2) * head_scale[:, None, None].astype(value.dtype)
        batch, _, length, _ = output.shape
        output = output.transpose(0, 2, 1, 3).reshape(batch, length, config.width)
        return dense(config, config.width, "out")(output)


class FeedForward(nn.Module):
    """Linear, exact GELU, LayerNorm, linear."""

    config: OFAConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, n, D] -> [B, n, D]."""
        x = nn.gelu(dense(self.config, self.config.ffn_width, "fc1")(x), approximate=False)
        x = layer_norm(self.config, "norm")(x)
        return dense(self.config, self.config.width, "fc2")(x)


class Residual(nn.Module):
    """Dropout and stochastic depth on a branch, then the sum with its input."""

    config: OFAConfig
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array, deterministic: bool) -> jax.Array:
        """x + drop_path(dropout(branch)), all [B, n, D]."""
        branch = nn.Dropout(self.config.dropout)(branch, deterministic=deterministic)
        return x + DropPath(self.drop_path)(branch, deterministic=deterministic)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    config: OFAConfig
    drop_path: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: PositionPair,
        blocks: Sequence[QueryBlock],
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """[B, n, D] -> [B, n, D]."""
        config = self.config
        y = layer_norm(config, "attention_norm")(x)
        y = Attention(config, name="attention")(y, y, position, blocks, mask)
        y = layer_norm(config, "attention_output_norm")(y)
        x = Residual(config, self.drop_path)(x, y, deterministic)
        y = FeedForward(config, name="ffn")(layer_norm(config, "ffn_norm")(x))
        return Residual(config, self.drop_path)(x, y, deterministic)


class Memory(NamedTuple):
    """What the decoder's cross-attention sees: tokens [B, m, D] and their mask [B, m] or None."""

    tokens: jax.Array
    mask: jax.Array | None


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    config: OFAConfig
    drop_path: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: Memory,
        self_position: PositionPair,
        cross_position: PositionPair,
        self_blocks: Sequence[QueryBlock],
        cross_blocks: Sequence[QueryBlock],
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """[B, n, D] -> [B, n, D]."""
        config = self.config
        y = layer_norm(config, "attention_norm")(x)
        y = Attention(config, name="attention")(y, y, self_position, self_blocks, mask)
        y = layer_norm(config, "attention_output_norm")(y)
        x = Residual(config, self.drop_path)(x, y, deterministic)
        y = layer_norm(config, "cross_attention_norm")(x)
        y = Attention(config, name="cross_attention")(y, memory.tokens, cross_position, cross_blocks, memory.mask)
        y = layer_norm(config, "cross_attention_output_norm")(y)
        x = Residual(config, self.drop_path)(x, y, deterministic)
        y = FeedForward(config, name="ffn")(layer_norm(config, "ffn_norm")(x))
        return Residual(config, self.drop_path)(x, y, deterministic)


def layer_class(layer: type[nn.Module], config: OFAConfig, static_argnums: tuple[int, ...]) -> Any:
    """`layer`, rematerialised as a whole when the configuration says so. Argument 0 is the module itself."""
    if config.remat != "layer":
        return layer
    return nn.remat(layer, static_argnums=static_argnums)
