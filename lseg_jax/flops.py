"""Floating-point operations that the definition of the model asks for, however it is implemented.

Two per multiply-add, of convolutions, matrix products and attention only, each at the resolution where the official
code has it: a fusion's 1x1 convolution follows its interpolation. Interpolation, norms, activations and softmax count
nothing. Image encoders count their own.
"""

from lseg_jax.config import LSegConfig
from lseg_jax.encoders.base import STRIDES


def decoder(config: LSegConfig, height: int, width: int) -> int:
    """Convolutions of the levels, residual units and 1x1 convolutions."""
    features = config.features
    total = 0
    for stride, channels in zip(STRIDES, config.image.channels, strict=True):
        cells = height // stride * (width // stride)
        units = 1 if stride == STRIDES[-1] else 2
        total += 2 * 9 * features * (channels + 2 * units * features) * cells
        total += 2 * features**2 * 4 * cells
    return total


def head(config: LSegConfig, height: int, width: int, labels: int) -> int:
    """Projection to the common space, correlation with the labels, and all repetitions of the block."""
    cells = height // 2 * (width // 2)
    per_cell = (config.features + labels) * config.text.features + 9 * config.block_depth * labels
    return 2 * cells * per_cell


def training_step(config: LSegConfig, height: int, width: int, labels: int) -> int:
    """Forward and backward of one image: three times the forward products."""
    return 3 * inference(config, height, width, labels)


def inference(config: LSegConfig, height: int, width: int, labels: int) -> int:
    """One image of `height` x `width` pixels, both multiples of 32, from pixels to logits for encoded labels."""
    return config.image.flops(height, width) + decoder(config, height, width) + head(config, height, width, labels)
