"""Fresh parameters as PyTorch's linear layers and convolutions start.

Both kernels and biases are uniform between -1 / sqrt(n) and 1 / sqrt(n), where n is the number of inputs of an output:
of a convolution, channels * height * width of the kernel.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

KERNEL: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Of [..., in, out]."""

TRANSPOSED: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
"""Of a transposed convolution [height, width, in, out]: PyTorch takes its output channels for its inputs."""


def uniform(inputs: int) -> Initializer:
    """Of a bias, whose shape does not tell the inputs of an output."""
    bound = inputs**-0.5

    def initialize(key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
