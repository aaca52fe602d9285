"""Transformer blocks of OFA (OFA-Sys/OFA): pre-norm, with extra norms inside, per-head scales and position biases."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ifseg_jax import positions
from ifseg_jax.config import OFAConfig
from ifseg_jax.positions import RelativeAxes
from vlseg.nn import attention
from vlseg.nn.attention import MASKED, KeyBlock, QueryBlock, attend, causal_bias
from vlseg.nn.broadcast import broadcast_batch
from vlseg.nn.drop_path import DropPath
from vlseg.nn.layer_norm import LayerNorm
from vlseg.sharding import batch_sharded

PRODUCT = "product"
"""Name under which a recomputation policy finds the results of linear layers."""

KEPT = {
    "layer": (),
    "attention": (attention.OUTPUT,),
    "elementwise": (attention.OUTPUT, PRODUCT),
}
"""What each `remat` keeps for the backward pass besides the input of each layer; "none" keeps all."""


class PositionPair(NamedTuple):
    """Projected position embeddings [b, n, D] of queries (already scaled) and [b, m, D] of keys."""

    queries: jax.Array
    keys: jax.Array


def layer_norm(config: OFAConfig, name: str | None = None) -> LayerNorm:
    """LayerNorm in the computation dtype."""
    return LayerNorm(dtype=jnp.dtype(config.dtype), name=name)


def dense(config: OFAConfig, features: int, name: str | None = None) -> nn.Dense:
    """Linear layer in the computation dtype, Xavier-uniform as in OFA."""
    initializer = nn.initializers.xavier_uniform()
    return nn.Dense(features, dtype=jnp.dtype(config.dtype), kernel_init=initializer, name=name)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, n, D] -> [B, H, n, D / H]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


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
        query = checkpoint_name(dense(config, config.width, "query")(x), PRODUCT) * scale
        key = checkpoint_name(dense(config, config.width, "key")(memory), PRODUCT)
        value = split_heads(checkpoint_name(dense(config, config.width, "value")(memory), PRODUCT), heads)
        head_scale = self.param("head_scale", nn.initializers.ones, (heads,))

        def with_position(content: jax.Array, extra: jax.Array) -> jax.Array:
            extra = broadcast_batch(extra.astype(content.dtype), content.shape[0])
            return jnp.concatenate([split_heads(content, heads), split_heads(extra, heads)], axis=-1)

        query, key = with_position(query, position.queries), with_position(key, position.keys)
        mask = None if key_mask is None else jnp.where(key_mask, 0.0, MASKED)[:, None, None, :]

        output = attend(query, key, value, blocks, mask) * head_scale[:, None, None].astype(value.dtype)
        batch, _, length, _ = output.shape
        output = output.transpose(0, 2, 1, 3).reshape(batch, length, config.width)
        return checkpoint_name(dense(config, config.width, "out")(output), PRODUCT)


class FeedForward(nn.Module):
    """Linear, exact GELU, LayerNorm, linear."""

    config: OFAConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, n, D] -> [B, n, D]."""
        x = checkpoint_name(dense(self.config, self.config.ffn_width, "fc1")(x), PRODUCT)
        x = nn.gelu(x, approximate=False)
        x = layer_norm(self.config, "norm")(x)
        return dense(self.config, self.config.width, "fc2")(x)


class Residual(nn.Module):
    """Dropout and stochastic depth on a branch, then the sum with its input."""

    config: OFAConfig

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array, drop_path: jax.Array, deterministic: bool) -> jax.Array:
        """x + drop_path(dropout(branch)), all [B, n, D]; `drop_path` is this layer's rate."""
        branch = nn.Dropout(self.config.dropout)(branch, deterministic=deterministic)
        return batch_sharded(x + DropPath()(branch, drop_path, deterministic=deterministic))


class EncoderContext(NamedTuple):
    """What every encoder layer shares. The grid is empty for words alone.

    position: projected position embeddings of all tokens.
    axes: how relative positions of the trained grid map to this one, or None without cells.
    mask: bool [B, N + T], False at padding, or None.
    """

    position: PositionPair
    axes: RelativeAxes | None
    mask: jax.Array | None


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, with the layer's own tables of relative positions.

    Layers run under `nn.scan`: one compiled body, parameters stacked along a leading axis.
    """

    config: OFAConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: EncoderContext, drop_path: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        config = self.config
        zeros = nn.initializers.zeros
        token_table = self.param("token_table", zeros, (2 * config.token_bucket - 1, config.heads))
        image_table = self.param("image_table", zeros, ((2 * config.image_bucket - 1) ** 2 + 3, config.heads))
        blocks = encoder_blocks(config, context.axes, token_table, image_table, x.shape[1])
        y = layer_norm(config, "attention_norm")(x)
        y = Attention(config, name="attention")(y, y, context.position, blocks, context.mask)
        y = layer_norm(config, "attention_output_norm")(y)
        x = Residual(config)(x, y, drop_path, deterministic)
        y = FeedForward(config, name="ffn")(layer_norm(config, "ffn_norm")(x))
        return Residual(config)(x, y, drop_path, deterministic), None


class DecoderContext(NamedTuple):
    """What every decoder layer shares.

    memory: encoder output [B, m, D]; memory_mask: bool [B, m] or None.
    self_position, cross_position: projected position embeddings.
    axes: as in `EncoderContext` for spatially conditioned decoding; None when decoding words.
    mask: bool [B, n], False at padding, or None.
    """

    memory: jax.Array
    memory_mask: jax.Array | None
    self_position: PositionPair
    cross_position: PositionPair
    axes: RelativeAxes | None
    mask: jax.Array | None


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, with the layer's own tables of relative positions."""

    config: OFAConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: DecoderContext, drop_path: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        config = self.config
        zeros = nn.initializers.zeros
        token_table = self.param("token_table", zeros, (2 * config.token_bucket - 1, config.heads))
        image_table = self.param("image_table", zeros, ((2 * config.image_bucket - 1) ** 2 + 3, config.heads))
        cell_table = self.param("cell_table", zeros, ((2 * config.segmentation_grid - 1) ** 2 + 3, config.heads))
        if context.axes is None:
            blocks = word_blocks(config, token_table, x.shape[1])
        elif config.decoder_positions == "encoder_image":
            offsets = positions.offsets_table(image_table, config.image_bucket, config.image_grid)
            blocks = cell_blocks(config, context.axes, offsets, image_table[-2])
        else:
            offsets = positions.offsets_table(cell_table, config.segmentation_grid, config.segmentation_grid)
            blocks = cell_blocks(config, context.axes, offsets, cell_table[-2])
        y = layer_norm(config, "attention_norm")(x)
        y = Attention(config, name="attention")(y, y, context.self_position, blocks, context.mask)
        y = layer_norm(config, "attention_output_norm")(y)
        x = Residual(config)(x, y, drop_path, deterministic)
        y = layer_norm(config, "cross_attention_norm")(x)
        blocks = all_to_all(x.shape[1], context.memory.shape[1], config.query_blocks)
        y = Attention(config, name="cross_attention")(
            y, context.memory, context.cross_position, blocks, context.memory_mask
        )
        y = layer_norm(config, "cross_attention_output_norm")(y)
        x = Residual(config)(x, y, drop_path, deterministic)
        y = FeedForward(config, name="ffn")(layer_norm(config, "ffn_norm")(x))
        return Residual(config)(x, y, drop_path, deterministic), None


def stack(layer: type[nn.Module], config: OFAConfig, length: int, name: str | None = None) -> nn.Module:
    """`length` layers as one scanned module: (x, context, drop path rates [length], deterministic) -> (x, None)."""
    if config.remat != "none":
        policy = jax.checkpoint_policies.save_only_these_names(*KEPT[config.remat])
        layer = nn.remat(layer, prevent_cse=False, static_argnums=(4,), policy=policy)
    scanned = nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0, nn.broadcast),
        length=length,
    )
    return scanned(config, name=name)


def row_blocks(rows: int, blocks: int) -> list[slice]:
    """Splits `rows` into at most `blocks` nearly equal ranges."""
    edges = np.unique(np.linspace(0, rows, min(blocks, rows) + 1).astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def all_to_all(queries: int, keys: int, blocks: int) -> list[QueryBlock]:
    """Every query attends to every key without a relative bias, in blocks of queries."""
    return [QueryBlock(block, [KeyBlock(slice(0, keys))]) for block in row_blocks(queries, blocks)]


def encoder_blocks(
    config: OFAConfig, axes: RelativeAxes | None, token_table: jax.Array, image_table: jax.Array, length: int
) -> list[QueryBlock]:
    """Everything attends to everything, with relative biases among cells and among words.

    `length` is N + T; cells come first.
    """
    buckets = positions.token_buckets(config.token_bucket, config.max_positions)
    cells = axes.cells if axes else 0
    words = slice(cells, length)
    to_words = [KeyBlock(words, positions.token_bias(token_table, buckets, length - cells))]
    if axes is None:
        return [QueryBlock(words, to_words)]
    offsets = positions.offsets_table(image_table, config.image_bucket, config.image_grid)
    image_keys, columns = slice(0, cells), axes.columns.shape[1]
    result = []
    for rows in row_blocks(axes.rows.shape[1], config.query_blocks):
        bias = positions.relative_bias(offsets, axes, rows)
        queries = slice(rows.start * columns, rows.stop * columns)
        result.append(QueryBlock(queries, [KeyBlock(image_keys, bias), KeyBlock(words)]))
    return [*result, QueryBlock(words, [KeyBlock(image_keys), *to_words])]


def word_blocks(config: OFAConfig, token_table: jax.Array, length: int) -> list[QueryBlock]:
    """Causal self-attention over `length` words."""
    buckets = positions.token_buckets(config.token_bucket, config.max_positions)
    whole = slice(0, length)
    bias = positions.token_bias(token_table, buckets, length) + causal_bias(whole, length)
    return [QueryBlock(whole, [KeyBlock(whole, bias)])]


def cell_blocks(config: OFAConfig, axes: RelativeAxes, offsets: jax.Array, start_bias: jax.Array) -> list[QueryBlock]:
    """Causal self-attention over <s> and the cells: elements 0 and 1 + cell.

    A block of grid rows sees only the rows up to its own, so about half of the scores are never computed.
    `start_bias` [H] is the bias of every cell towards <s>.
    """
    columns = axes.columns.shape[1]
    start = start_bias.reshape(1, -1, 1, 1)
    blocks = [QueryBlock(slice(0, 1), [KeyBlock(slice(0, 1))])]
    for rows in row_blocks(axes.rows.shape[1], config.query_blocks):
        relative = positions.relative_bias(offsets, axes, rows, slice(0, rows.stop))
        causal = causal_bias(slice(rows.start * columns, rows.stop * columns), rows.stop * columns)
        bias = relative + causal.reshape(relative.shape[2:])
        keys = [KeyBlock(slice(0, 1), start), KeyBlock(slice(1, 1 + rows.stop * columns), bias)]
        blocks.append(QueryBlock(slice(1 + rows.start * columns, 1 + rows.stop * columns), keys))
    return blocks
