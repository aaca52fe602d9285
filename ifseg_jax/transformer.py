"""Transformer blocks of OFA (OFA-Sys/OFA): pre-norm, with extra norms inside, per-head scales and position biases."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ifseg_jax import positions
from ifseg_jax.config import INITIAL_DEVIATION, OFAConfig
from ifseg_jax.positions import RelativeAxes
from vlseg.nn import attention, fused_kernels
from vlseg.nn.attention import KeyBlock, QueryBlock, broadcast_batch, causal_bias
from vlseg.nn.fused_attention import Bias, GridBias
from vlseg.nn.layers import DropPath, LayerNorm
from vlseg.nn.multi_head import Pattern, multi_head_attention
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


class Pairs(NamedTuple):
    """Which elements attend to which, and the tables and axes that the biases of their scores are made of."""

    pattern: Pattern
    tables: tuple[jax.Array, ...] = ()
    axes: RelativeAxes | None = None


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


class Attention(nn.Module):
    """Multi-head attention with position biases and a learned scale per head.

    The absolute position bias is (2 * d)**-0.5 * pos_q . pos_k, and content is scaled alike.
    """

    config: OFAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        position: PositionPair,
        pairs: Pairs,
        key_mask: jax.Array | None,
    ) -> jax.Array:
        """Attends from `x` [B, n, D] to `memory` [B, m, D]; `key_mask` bool [B, m] is False at padding."""
        config = self.config
        query = checkpoint_name(dense(config, config.width, "query")(x), PRODUCT) * score_scale(config)
        key = checkpoint_name(dense(config, config.width, "key")(memory), PRODUCT)
        value = checkpoint_name(dense(config, config.width, "value")(memory), PRODUCT)
        head_scale = self.param("head_scale", nn.initializers.ones, (config.heads,))
        pattern, tables, axes = pairs
        output = multi_head_attention(
            pattern,
            config.heads,
            query,
            key,
            value,
            positions=(position.queries, position.keys),
            tables=tables,
            fixed=axes,
            key_mask=key_mask,
        )
        output *= jnp.repeat(head_scale, config.width // config.heads).astype(output.dtype)
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
        pairs: Pairs,
        key_mask: jax.Array | None,
        drop_path: jax.Array,
        deterministic: bool,
    ) -> jax.Array:
        """The attention branch, see `Attention`, added to `x`; without `memory`, self-attention."""
        y = layer_norm(self.config, f"{name}_norm")(x)
        y = Attention(self.config, name=name)(y, y if memory is None else memory, position, pairs, key_mask)
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
        pairs = Pairs(EncoderPattern(config, x.shape[1]), (token_table, image_table), context.axes)
        x = self.attention("attention", x, None, context.position, pairs, context.mask, drop_path, deterministic)
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
            pairs = Pairs(WordPattern(config, x.shape[1]), (token_table,))
        else:
            table = image_table if config.decoder_positions == "encoder_image" else cell_table
            pairs = Pairs(CellPattern(config), (table,), context.axes)
        memory, how = context.memory, (drop_path, deterministic)
        x = self.attention("attention", x, None, context.self_position, pairs, context.mask, *how)
        pairs = Pairs(CrossPattern(x.shape[1], memory.shape[1], config.query_blocks))
        x = self.attention("cross_attention", x, memory, context.cross_position, pairs, context.memory_mask, *how)
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


@dataclass(frozen=True)
class EncoderPattern(Pattern):
    """Everything attends to everything, with relative biases among cells and among words. Cells come first.

    Tables: of words and of cells. length: N + T. Without axes there are no cells.
    """

    config: OFAConfig
    length: int

    def blocks(self, tables: Any, fixed: RelativeAxes | None) -> list[QueryBlock]:
        """See `Pattern`."""
        config, axes, (_, image_table) = self.config, fixed, tables
        cells = axes.cells if axes else 0
        words = slice(cells, self.length)
        to_words = [KeyBlock(words, self._word_bias(tables, cells))]
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

    def fused(self, tables: Any, fixed: RelativeAxes | None, keys: int) -> Bias:
        """See `Pattern`."""
        config, axes = self.config, fixed
        if axes is None or not fills_kernel(axes) or self.length == axes.cells:
            return super().fused(tables, fixed, keys)
        offsets = positions.offsets_table(tables[1], config.image_bucket, config.image_grid)
        even, odd = positions.kernel_tables(offsets, axes)
        corner = broadcast_batch(self._word_bias(tables, axes.cells), even.shape[0])
        return GridBias(even, odd, None, None, corner)

    def _word_bias(self, tables: Any, cells: int) -> jax.Array:
        buckets = positions.token_buckets(self.config.token_bucket, self.config.max_positions)
        return positions.token_bias(tables[0], buckets, self.length - cells)


@dataclass(frozen=True)
class WordPattern(Pattern):
    """Causal self-attention over `length` words. Tables: of words."""

    config: OFAConfig
    length: int

    def blocks(self, tables: Any, fixed: None) -> list[QueryBlock]:
        """See `Pattern`."""
        buckets = positions.token_buckets(self.config.token_bucket, self.config.max_positions)
        whole = slice(0, self.length)
        bias = positions.token_bias(tables[0], buckets, self.length) + causal_bias(whole, self.length)
        return [QueryBlock(whole, [KeyBlock(whole, bias)])]


@dataclass(frozen=True)
class CellPattern(Pattern):
    """Self-attention over the cells and <s>, elements N and 0 ... N - 1: causal unless `config.full_context_alignment`.

    A block of grid rows then sees only the rows up to its own, so about half of the scores are never computed. Its
    table is of cells, with the biases of <s> towards every cell, of every cell towards <s>, and of <s> towards itself
    as the last three rows.
    """

    config: OFAConfig

    def blocks(self, tables: Any, fixed: RelativeAxes) -> list[QueryBlock]:
        """See `Pattern`."""
        (table,), axes, config = tables, fixed, self.config
        offsets, (to_cells, to_start, alone) = self._offsets(table), table[-3:, None, :, None, None]
        cells, columns = axes.cells, axes.columns.shape[1]
        start = slice(cells, cells + 1)
        blocks = []
        for rows in row_blocks(axes.rows.shape[1], config.query_blocks):
            queries = slice(rows.start * columns, rows.stop * columns)
            if config.full_context_alignment:
                seen, bias = cells, positions.relative_bias(offsets, axes, rows)
            else:
                seen, relative = queries.stop, positions.relative_bias(offsets, axes, rows, slice(0, rows.stop))
                bias = relative + causal_bias(queries, seen).reshape(relative.shape[2:])
            blocks.append(QueryBlock(queries, [KeyBlock(slice(0, seen), bias), KeyBlock(start, to_start)]))
        start_keys = [KeyBlock(start)]  # the bias of the only key that there is does not matter
        if config.full_context_alignment:
            start_keys = [KeyBlock(slice(0, cells), to_cells), KeyBlock(start, alone)]
        return [*blocks, QueryBlock(start, start_keys)]

    def fused(self, tables: Any, fixed: RelativeAxes, keys: int) -> Bias:
        """See `Pattern`."""
        if not fills_kernel(fixed):
            return super().fused(tables, fixed, keys)
        even, odd = positions.kernel_tables(self._offsets(tables[0]), fixed)
        edges = (broadcast_batch(edge, even.shape[0]) for edge in tables[0][-3:, None, :, None, None])
        to_cells, to_start, alone = edges
        causal = not self.config.full_context_alignment
        return GridBias(even, odd, to_start, None if causal else to_cells, alone, causal)

    def _offsets(self, table: jax.Array) -> jax.Array:
        config = self.config
        sides = (config.segmentation_grid, config.segmentation_grid)
        if config.decoder_positions == "encoder_image":
            sides = (config.image_bucket, config.image_grid)
        return positions.offsets_table(table, *sides)


@dataclass(frozen=True)
class CrossPattern(Pattern):
    """Every query attends to every key, in at most `blocks_of_queries` blocks."""

    queries: int
    keys: int
    blocks_of_queries: int

    def blocks(self, tables: Any, fixed: None) -> list[QueryBlock]:
        """See `Pattern`."""
        every_key = [KeyBlock(slice(0, self.keys))]
        return [QueryBlock(queries, every_key) for queries in row_blocks(self.queries, self.blocks_of_queries)]


def fills_kernel(axes: RelativeAxes) -> bool:
    """Whether the kernel makes the relative bias between cells itself: on a trained grid of its size."""
    return axes.trained and axes.rows.shape[1] == fused_kernels.SIDE
