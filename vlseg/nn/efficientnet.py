"""EfficientNet-Lite (Tan and Le 2019; tensorflow/tpu, efficientnet/lite), NHWC: an image encoder for phones and CPUs.

Inverted residuals without squeeze and excitation, ReLU6 instead of swish, and a stem of the same width in all sizes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlseg.nn.depthwise import Depthwise, same_windows
from vlseg.nn.layers import RESNET, BatchNorm, zero_outside

STEM = 32
"""Channels of the stem."""

EPSILON = 1e-3
"""What batch norms add to the variance."""

MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
"""Pixels in [0, 255] enter as (pixel - 127) / 128; these are for pixels in [0, 1]."""


class Scaling(NamedTuple):
    """A size of the network: factors of channels and of blocks a stage, and the side of the images of its training."""

    width: float
    depth: float
    resolution: int


VARIANTS = {
    "lite0": Scaling(1.0, 1.0, 224),
    "lite1": Scaling(1.0, 1.1, 240),
    "lite2": Scaling(1.1, 1.2, 260),
    "lite3": Scaling(1.2, 1.4, 280),
    "lite4": Scaling(1.4, 1.8, 300),
}


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_LEVELS = (1, 2, 4, 6)
"""The stages after which the stride is 4, 8, 16 and 32."""


class Block(NamedTuple):
    """An inverted residual: `inputs` channels are expanded to `inner`, convolved, and projected to `outputs`."""

    stage: int
    kernel: int
    stride: int
    inputs: int
    inner: int
    outputs: int


def rounded(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, at least 8 and at least nine tenths of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def blocks(variant: str) -> list[Block]:
    """The blocks of a size, in order; the first and the last stage have as many in all sizes."""
    width, depth, _ = VARIANTS[variant]
    inputs, found = STEM, []
    for number, stage in enumerate(_STAGES):
        scaled = number not in (0, len(_STAGES) - 1)
        repeats = -int(-stage.repeats * depth // 1) if scaled else stage.repeats
        outputs = rounded(stage.channels * width)
        for repeat in range(repeats):
            stride = stage.stride if repeat == 0 else 1
            found.append(Block(number, stage.kernel, stride, inputs, inputs * stage.expansion, outputs))
            inputs = outputs
    return found


def levels(variant: str) -> tuple[tuple[int, int], ...]:
    """Of the maps at strides 4, 8, 16 and 32: the last block that makes it, and its channels."""
    table = blocks(variant)
    last = {block.stage: number for number, block in enumerate(table)}
    return tuple((last[stage], table[last[stage]].outputs) for stage in _LEVELS)


class InvertedResidual(nn.Module):
    """Expansion by a 1x1 convolution, a depthwise one, and projection, with a shortcut where shapes allow it."""

    block: Block
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: jax.Array | None, *, train: bool) -> jax.Array:
        """[B, H, W, inputs] and its valid size -> [B, ceil(H / stride), ceil(W / stride), outputs]."""
        block, y = self.block, x
        if block.inner != block.inputs:
            y = self._pointwise(block.inner, "expand")(y)
            y = jax.nn.relu6(BatchNorm(self.dtype, EPSILON, name="expand_bn")(y, train=train))
        y = Depthwise(block.kernel, block.stride, self.dtype, name="depthwise")(zero_outside(y, size))
        y = jax.nn.relu6(BatchNorm(self.dtype, EPSILON, name="depthwise_bn")(y, train=train))
        y = self._pointwise(block.outputs, "project")(y)
        y = BatchNorm(self.dtype, EPSILON, name="project_bn")(y, train=train)
        return x + y if block.stride == 1 and block.inputs == block.outputs else y

    def _pointwise(self, channels: int, name: str) -> nn.Dense:
        return nn.Dense(channels, use_bias=False, dtype=self.dtype, kernel_init=RESNET, name=name)


class EfficientNet(nn.Module):
    """Stem and blocks of an EfficientNet-Lite, without the classifier and the convolution before it.

    Attributes:
        variant: a key of `VARIANTS`.
        dtype: of the computation; parameters stay float32.
    """

    variant: str = "lite0"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: jax.Array | None = None, *, train: bool = False) -> list[jax.Array]:
        """Runs the encoder.

        Args:
            x: float [B, H, W, 3], normalised by `MEAN` and `DEVIATION`; zero where padded.
            size: int32 [B, 2], valid height and width of each image, multiples of 32, or None when nothing is padded.
                The valid part of every output equals the output of the unpadded image.
            train: normalise by batch statistics and update the running ones.

        Returns:
            Maps at strides 4, 8, 16 and 32, [B, ceil(H / stride), ceil(W / stride), channels], see `levels`.
        """
        x = zero_outside(x.astype(self.dtype), size)
        kernel = self.param("stem", RESNET, (3, 3, x.shape[-1], STEM)).astype(self.dtype)
        # Few channels: laid out and multiplied once, which differentiates faster than a convolution.
        patches = jnp.concatenate(same_windows(x, 3, 2), axis=-1)
        x = jnp.einsum("bhwp,pd->bhwd", patches, kernel.reshape(-1, STEM))
        x = jax.nn.relu6(BatchNorm(self.dtype, EPSILON, name="stem_bn")(x, train=train))
        size = None if size is None else size // 2
        ends, outputs = {number for number, _ in levels(self.variant)}, []
        for number, block in enumerate(blocks(self.variant)):
            x = InvertedResidual(block, self.dtype, name=f"block{number}")(x, size, train=train)
            size = None if size is None else size // block.stride
            if number in ends:
                outputs.append(x)
        return outputs


def flops(variant: str, rows: int, columns: int) -> int:
    """Operations from an image of this size to its levels: two per multiply-add."""
    return sum(2 * weights * h * w for weights, h, w in _products(variant, rows, columns))


def _products(variant: str, rows: int, columns: int) -> Iterator[tuple[int, int, int]]:
    """Weights of each convolution, and the size of the map that they are used for."""
    h, w = -(-rows // 2), -(-columns // 2)
    yield 27 * STEM, h, w
    for block in blocks(variant):
        if block.inner != block.inputs:
            yield block.inputs * block.inner, h, w
        h, w = -(-h // block.stride), -(-w // block.stride)
        yield block.kernel**2 * block.inner + block.inner * block.outputs, h, w
