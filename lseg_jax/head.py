"""Spatial regularization of logits, the same for every label (Li et al. 2022, Sec. 3; isl-org/lang-seg)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlseg.nn.initializers import KERNEL, uniform
from vlseg.nn.layers import shifted_windows

ACTIVATIONS = {"relu": jax.nn.relu, "lrelu": jax.nn.leaky_relu, "tanh": jnp.tanh}


class LogitBlock(nn.Module):
    """One 3x3 convolution for every label alike, applied `depth` times.

    "depthwise" convolves each label's map; "bottleneck" also adds the maximum over labels to every one. All but the
    last repetition end in the activation. Labels may be any number in any order.
    """

    kind: str
    depth: int
    activation: str

    @nn.compact
    def __call__(self, logits: jax.Array) -> jax.Array:
        """[B, h, w, N] -> the same shape."""
        kernel = self.param("kernel", KERNEL, (3, 3, 1, 1))
        bias = self.param("bias", uniform(9), (1,))
        for repetition in range(self.depth):
            views = shifted_windows(logits, 3, 1)
            result = sum(view * weight for view, weight in zip(views, kernel.reshape(-1), strict=True)) + bias
            if self.kind == "bottleneck":
                result += jnp.max(logits, axis=-1, keepdims=True)
            logits = ACTIVATIONS[self.activation](result) if repetition < self.depth - 1 else result
        return logits
