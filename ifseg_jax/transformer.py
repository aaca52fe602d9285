"""Transformer blocks of OFA (OFA-Sys/OFA): pre-norm, with extra norms inside, per-head scales and position biases."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from ifseg_jax import positions
from ifseg_jax.config import INITIAL_DEVIATION, OFAConfig
from ifseg_jax.positions import RelativeAxes
from vlseg.nn import attention
from vlseg.nn.attention import MASKED, KeyBlock, QueryBlock, attend, broadcast_batch, causal_bias
from vlseg.nn.layers import DropPath, LayerNorm
from vlseg.sharding import batch_sharded, for_each_shard

PRODUCT = "product"
"""Name under which a recomputation policy finds the results of linear layers."""

KEPT = {
    "layer": (),
    "attention": (attention.OUTPUT,),
    "elementwise": (attention.OUTPUT, PRODUCT),
}
"""What each `remat` keeps for the backward pass besides the input of each layer; "none" keeps all."""


INITIALIZER = nn.initializers.normal(INITIAL_DEVIATION)
"""Of fresh linear layers, embeddings and tables, as the official constructor draws all of them (alinlab/ifseg)."""


class PositionPair(NamedTuple):
    """Projected position embeddings [b, n, D] of queries (already scaled) and [b, m, D] of keys."""

    queries: jax.Array
    keys: jax.Array


def layer_norm(config: OFAConfig, name: str | None = None) -> LayerNorm:
    """LayerNorm in the computation dtype."""
    return LayerNorm(dtype=jnp.dtype(config.dtype), name=name)


def dense(config: OFAConfig, features: int, name: str | None = None) -> nn.Dense:
    """Linear layer in the computation dtype."""
    return nn.Dense(features, dtype=jnp.dtype(config.dtype), kernel_init=INITIALIZER, name=name)


def position_pair(
    config: OFAConfig, query: nn.Dense, key: nn.Dense, queries: jax.Array, keys: jax.Array
) -> PositionPair:
    """Projects position embeddings [b, n, D] of queries and [b, m, D] of keys."""
    return PositionPair(for_each_shard(query(queries) * score_scale(config)), for_each_shard(key(keys)))


def score_scale(config: OFAConfig) -> float:
    """What both summands of a score, content and position, are multiplied by."""
    return (2 * config.width // config.heads) ** -0.5


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, n, D] -> [B, H, n, D / H]."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


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
        query = checkpoint_name(dense(config, config.width, "query")(x), PRODUCT) * score_scale(config)
        key = checkpoint_name(dense(config, config.width, "key")(memory), PRODUCT)
        value = split_heads(checkpoint_name(dense(config, config.width, "value")(memory), PRODUCT), heads)
        head_scale = self.param("head_scale", nn.initializers.ones, (heads,))

        def with_position(content: jax.Array, extra: jax.Array) -> jax.Array:
            extra = broadcast_batch(extra.astype(content.dtype), content.shape[0])
            return jnp.concatenate([split_heads(content, heads), split_heads(extra, heads)], axis=-1)

        query, key = with_position(query, position.queries), with_position(key, position.keys)
        mask = None if key_mask is None else jnp.where(key_mask, 0.0, MASKED)[:, None, None, :]

        output = attend(query, key, value, blocks, mask) * head_scale[:, None, None].astype(value.dtype)
        return checkpoint_name(dense(config, config.width, "out")(rearrange(output, "b h n d -> b n (h d)")), PRODUCT)


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


class Layer(nn.Module):
    """What the layers of encoder and decoder share: tables of relative positions of their own, and branches.

    Layers run under `nn.scan`: one compiled body, parameters stacked along a leading axis.
    """

    config: OFAConfig

    def relative_table(self, name: str, rows: int) -> jax.Array:
        """A bias for each head: [rows, H]."""
        return self.param(name, INITIALIZER, (rows, self.config.heads))

    def token_table(self) -> jax.Array:
        """The table of 1-D offsets between words."""
        return self.relative_table("token_table", 2 * self.config.token_bucket - 1)

    def grid_table(self, name: str, side: int) -> jax.Array:
        """A table of 2-D offsets in a grid of `side` x `side`, and of three special pairs."""
        return self.relative_table(name, (2 * side - 1) ** 2 + 3)

    def attention(
        self,
        name: str,
        x: jax.Array,
        memory: jax.Array | None,
        position: PositionPair,
        blocks: Sequence[QueryBlock],
        key_mask: jax.Array | None,
        drop_path: jax.Array,
        deterministic: bool,
    ) -> jax.Array:
        """The attention branch, see `Attention`, added to `x`; without `memory`, self-attention."""
        y = layer_norm(self.config, f"{name}_norm")(x)
        y = Attention(self.config, name=name)(y, y if memory is None else memory, position, blocks, key_mask)
        y = layer_norm(self.config, f"{name}_output_norm")(y)
        return Residual(self.config)(x, y, drop_path, deterministic)

    def feed_forward(self, x: jax.Array, drop_path: jax.Array, deterministic: bool) -> jax.Array:
        """The feed-forward branch added to `x`."""
        y = FeedForward(self.config, name="ffn")(layer_norm(self.config, "ffn_norm")(x))
        return Residual(self.config)(x, y, drop_path, deterministic)


class EncoderContext(NamedTuple):
    """What every encoder layer shares. The grid is empty for words alone.

    position: projected position embeddings of all tokens.
    axes: how relative positions of the trained grid map to this one, or None without cells.
    mask: bool [B, N + T], False at padding, or None.
    """

    position: PositionPair
    axes: RelativeAxes | None
    mask: jax.Array | None


class EncoderLayer(Layer):
    """Self-attention and feed-forward."""

    @nn.compact
    def __call__(
        self, x: jax.Array, context: EncoderContext, drop_path: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        config = self.config
        token_table, image_table = self.token_table(), self.grid_table("image_table", config.image_bucket)
        blocks = encoder_blocks(config, context.axes, token_table, image_table, x.shape[1])
        x = self.attention("attention", x, None, context.position, blocks, context.mask, drop_path, deterministic)
        return self.feed_forward(x, drop_path, deterministic), None


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


class DecoderLayer(Layer):
    """Self-attention, cross-attention and feed-forward."""

    @nn.compact
    def __call__(
        self, x: jax.Array, context: DecoderContext, drop_path: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        config = self.config
        token_table, image_table = self.token_table(), self.grid_table("image_table", config.image_bucket)
        cell_table = self.grid_table("cell_table", config.segmentation_grid)
        if context.axes is None:
            blocks = word_blocks(config, token_table, x.shape[1])
        elif config.decoder_positions == "encoder_image":
            offsets = positions.offsets_table(image_table, config.image_bucket, config.image_grid)
            blocks = cell_blocks(config, context.axes, offsets, image_table[-3:])
        else:
            offsets = positions.offsets_table(cell_table, config.segmentation_grid, config.segmentation_grid)
            blocks = cell_blocks(config, context.axes, offsets, cell_table[-3:])
        memory, how = context.memory, (drop_path, deterministic)
        x = self.attention("attention", x, None, context.self_position, blocks, context.mask, *how)
        every_key = [KeyBlock(slice(0, memory.shape[1]))]
        blocks = [QueryBlock(queries, every_key) for queries in row_blocks(x.shape[1], config.query_blocks)]
        x = self.attention("cross_attention", x, memory, context.cross_position, blocks, context.memory_mask, *how)
        return self.feed_forward(x, *how), None


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


def cell_blocks(config: OFAConfig, axes: RelativeAxes, offsets: jax.Array, special: jax.Array) -> list[QueryBlock]:
    """Self-attention over <s> and the cells, elements 0 and 1 + cell: causal unless `config.full_context_alignment`.

    A block of grid rows then sees only the rows up to its own, so about half of the scores are never computed.
    `special` [3, H] are the biases of <s> towards every cell, of every cell towards <s>, and of <s> towards itself.
    """
    cells, columns = axes.cells, axes.columns.shape[1]
    to_cells, to_start, alone = special[:, None, :, None, None]
    start_keys = [KeyBlock(slice(0, 1))]  # the bias of the only key that there is does not matter
    if config.full_context_alignment:
        start_keys = [KeyBlock(slice(0, 1), alone), KeyBlock(slice(1, 1 + cells), to_cells)]
    blocks = [QueryBlock(slice(0, 1), start_keys)]
    for rows in row_blocks(axes.rows.shape[1], config.query_blocks):
        queries = slice(rows.start * columns, rows.stop * columns)
        if config.full_context_alignment:
            seen, bias = cells, positions.relative_bias(offsets, axes, rows)
        else:
            seen, relative = queries.stop, positions.relative_bias(offsets, axes, rows, slice(0, rows.stop))
            bias = relative + causal_bias(queries, seen).reshape(relative.shape[2:])
        keys = [KeyBlock(slice(0, 1), to_start), KeyBlock(slice(1, 1 + seen), bias)]
        blocks.append(QueryBlock(slice(1 + queries.start, 1 + queries.stop), keys))
    return blocks
