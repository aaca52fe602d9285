"""The pre-norm transformer layer that CLIP's text encoder and the vision transformer share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.linen.initializers import zeros
from flax.typing import Initializer

from vlseg.errors import CheckpointError, ConfigError
from vlseg.nn.attention import KeyBlock, QueryBlock, causal_bias
from vlseg.nn.fused_attention import Bias
from vlseg.nn.initializers import uniform
from vlseg.nn.layers import LayerNorm
from vlseg.nn.multi_head import Pattern, multi_head_attention
from vlseg.sharding import axis_sharded, batch_sharded

Activation = Callable[[jax.Array], jax.Array]

HEAD_WIDTH = 64
"""Channels of a head in all of CLIP's and timm's transformers, whose shapes do not tell."""

AXES = (
    (r"/layers(_\d+)?/qkv/kernel$", ("embed", None)),
    (r"/layers(_\d+)?/out/kernel$", ("heads", "embed")),
    (r"/layers(_\d+)?/fc1/kernel$", ("embed", "mlp")),
    (r"/layers(_\d+)?/fc1/bias$", ("mlp",)),
    (r"/layers(_\d+)?/fc2/kernel$", ("mlp", "embed")),
)
"""Of the parameters of `layers`, see `lseg_jax.encoders.base.Axes`."""


def check_heads(width: int, heads: int) -> None:
    """Raises ConfigError unless the heads divide the width."""
    if width % heads:
        raise ConfigError(f"width {width} is not a multiple of heads {heads}")


def usual_heads(width: int) -> int:
    """How many heads a transformer of this width has by `HEAD_WIDTH`; CheckpointError if that does not divide it."""
    if width > HEAD_WIDTH and width % HEAD_WIDTH:
        raise CheckpointError(f"heads of {HEAD_WIDTH} channels do not make up a width of {width}")
    return max(1, width // HEAD_WIDTH)


def layer_flops(width: int, tokens: int) -> int:
    """Query, key, value and output maps, attention among all tokens, and a feed-forward of four times the width."""
    return 2 * 12 * width**2 * tokens + 2 * 2 * width * tokens**2


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), CLIP's approximation of the GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


exact_gelu = functools.partial(jax.nn.gelu, approximate=False)


class Fresh(NamedTuple):
    """How the layers of a transformer start.

    qkv, out, fc1, fc2: the kernels of queries, keys and values, of attention's output, and of the feed-forward.
    uniform_biases: whether the biases of the feed-forward are PyTorch's (`vlseg.nn.initializers`); all others are 0.
    """

    qkv: Initializer
    out: Initializer
    fc1: Initializer
    fc2: Initializer
    uniform_biases: bool = False

    def bias(self, inputs: int) -> Initializer:
        """Of a layer of the feed-forward with so many inputs."""
        return uniform(inputs) if self.uniform_biases else zeros


class QueryKeyValue(nn.Module):
    """Queries, keys and values of all heads, whose weights are one matrix, as in `torch.nn.MultiheadAttention`."""

    heads: int
    dtype: jnp.dtype
    fresh: Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, n, D] -> [3, B, n, D]."""
        width = x.shape[-1]
        kernel = self.param("kernel", self.fresh, (width, 3 * width))
        bias = self.param("bias", zeros, (3 * width,))
        # Heads lie between the three and their dimensions, where a sharding of the whole matrix cannot reach them.
        parts = {"t": 3, "h": self.heads}
        kernel = axis_sharded(rearrange(kernel.astype(self.dtype), "d (t h e) -> d t h e", **parts), 2, "heads")
        bias = axis_sharded(rearrange(bias.astype(self.dtype), "(t h e) -> t h e", **parts), 1, "heads")
        y = jnp.einsum("bnd,dthe->bnthe", x, kernel) + bias
        return rearrange(y, "b n t h e -> t b n (h e)")


@dataclass(frozen=True)
class SelfPattern(Pattern):
    """Among `length` elements in `heads` heads: each attends to all or, if causal, to itself and those before it."""

    length: int
    heads: int
    causal: bool = False

    def blocks(self, tables: None, fixed: None) -> list[QueryBlock]:
        """See `Pattern`."""
        whole = slice(0, self.length)
        bias = self._bias()
        if bias is not None:
            bias = jnp.broadcast_to(bias, (1, self.heads, *bias.shape[2:]))
        return [QueryBlock(whole, [KeyBlock(whole, bias)])]

    def fused(self, tables: None, fixed: None, keys: int) -> Bias:
        """See `Pattern`."""
        return self._bias()

    def _bias(self) -> jax.Array | None:
        """[1, 1, length, length]."""
        return causal_bias(slice(0, self.length), self.length)[None, None] if self.causal else None


class Layer(nn.Module):
    """Self-attention and a feed-forward of four times the width, each with a norm before and a sum after.

    Layers run under `nn.scan`: one compiled body, parameters stacked along a leading axis.
    """

    heads: int
    activation: Activation
    epsilon: float
    causal: bool
    dtype: str
    fresh: Fresh

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        dtype, fresh = jnp.dtype(self.dtype), self.fresh
        length, width = x.shape[1:]
        y = LayerNorm(self.epsilon, dtype, name="attention_norm")(x)
        query, key, value = QueryKeyValue(self.heads, dtype, fresh.qkv, name="qkv")(y)
        pattern = SelfPattern(length, self.heads, self.causal)
        y = multi_head_attention(pattern, self.heads, query * (width // self.heads) ** -0.5, key, value)
        x = batch_sharded(x + nn.Dense(width, dtype=dtype, kernel_init=fresh.out, name="out")(y))
        y = LayerNorm(self.epsilon, dtype, name="ffn_norm")(x)
        first = nn.Dense(4 * width, dtype=dtype, kernel_init=fresh.fc1, bias_init=fresh.bias(width), name="fc1")
        last = nn.Dense(width, dtype=dtype, kernel_init=fresh.fc2, bias_init=fresh.bias(4 * width), name="fc2")
        return batch_sharded(x + last(self.activation(first(y)))), None


def layers(
    length: int,
    heads: int,
    activation: Activation,
    epsilon: float,
    dtype: str,
    name: str,
    fresh: Fresh,
    *,
    causal: bool = False,
    remat: bool = False,
) -> nn.Module:
    """`length` layers as one scanned module: (x, None) -> (x, None); `remat` computes them again for the gradient."""
    layer = nn.remat(Layer, prevent_cse=False) if remat else Layer
    scanned = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=length)
    return scanned(heads, activation, epsilon, causal, dtype, fresh, name=name)
