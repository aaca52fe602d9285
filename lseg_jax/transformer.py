"""The pre-norm transformer layer that CLIP's text encoder and the vision transformer share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlseg.nn.attention import KeyBlock, QueryBlock, attend, causal_bias
from vlseg.nn.layer_norm import LayerNorm
from vlseg.sharding import axis_sharded, batch_sharded

Activation = Callable[[jax.Array], jax.Array]


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), CLIP's approximation of the GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """The GELU without approximation."""
    return jax.nn.gelu(x, approximate=False)


class QueryKeyValue(nn.Module):
    """Queries, keys and values of all heads, whose weights are one matrix, as in `torch.nn.MultiheadAttention`."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, n, D] -> [3, B, H, n, D / H]."""
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, 3 * width))
        bias = self.param("bias", nn.initializers.zeros, (3 * width,))
        # Heads lie between the three and their dimensions, where a sharding of the whole matrix cannot reach them.
        apart = 3, self.heads, width // self.heads
        kernel = axis_sharded(kernel.astype(self.dtype).reshape(width, *apart), 2, "heads")
        bias = axis_sharded(bias.astype(self.dtype).reshape(apart), 1, "heads")
        y = jnp.einsum("bnd,dthe->bnthe", x, kernel) + bias
        return y.transpose(2, 0, 3, 1, 4)


class Layer(nn.Module):
    """Self-attention and a feed-forward of four times the width, each with a norm before and a sum after.

    Layers run under `nn.scan`: one compiled body, parameters stacked along a leading axis.
    """

    heads: int
    activation: Activation
    epsilon: float
    causal: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """[B, n, D] -> ([B, n, D], None)."""
        dtype = jnp.dtype(self.dtype)
        batch, length, width = x.shape
        y = LayerNorm(self.epsilon, dtype, name="attention_norm")(x)
        query, key, value = QueryKeyValue(self.heads, dtype, name="qkv")(y)
        whole = slice(0, length)
        bias = None
        if self.causal:
            bias = jnp.broadcast_to(causal_bias(whole, length), (1, self.heads, length, length))
        query *= (width // self.heads) ** -0.5
        y = attend(query, key, value, [QueryBlock(whole, [KeyBlock(whole, bias)])], None)
        y = y.transpose(0, 2, 1, 3).reshape(batch, length, width)
        x = batch_sharded(x + nn.Dense(width, dtype=dtype, name="out")(y))
        y = LayerNorm(self.epsilon, dtype, name="ffn_norm")(x)
        y = self.activation(nn.Dense(4 * width, dtype=dtype, name="fc1")(y))
        return batch_sharded(x + nn.Dense(width, dtype=dtype, name="fc2")(y)), None


def layers(
    length: int,
    heads: int,
    activation: Activation,
    epsilon: float,
    dtype: str,
    name: str,
    *,
    causal: bool = False,
    remat: bool = False,
) -> nn.Module:
    """`length` layers as one scanned module: (x, None) -> (x, None); `remat` computes them again for the gradient."""
    layer = nn.remat(Layer, prevent_cse=False) if remat else Layer
    scanned = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=length)
    return scanned(heads, activation, epsilon, causal, dtype, name=name)
