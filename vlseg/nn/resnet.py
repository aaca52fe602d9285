"""ResNet backbone (He et al. 2016, v1.5: the stride sits in the 3x3 convolution), NHWC."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlseg.nn.layers import BatchNorm, Convolution, halve, max_pool, zero_outside

STEM_STRIDE = 4


def trunk_stride(stages: Sequence[int]) -> int:
    """Pixels per output token of a backbone with these stages: 4 for one stage, doubled by each further one."""
    return STEM_STRIDE * 2 ** (len(stages) - 1)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; the output has 4 x `width` channels."""

    width: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: jax.Array | None, *, train: bool) -> jax.Array:
        """[B, H, W, C] and its valid size -> [B, ceil(H / stride), ceil(W / stride), 4 * width]."""
        shortcut = x
        y = Convolution(self.width, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, name="bn1")(y, train=train))
        y = zero_outside(y, size)
        y = Convolution(self.width, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(BatchNorm(self.dtype, name="bn2")(y, train=train))
        y = Convolution(4 * self.width, 1, dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(self.dtype, name="bn3")(y, train=train)
        if self.stride != 1 or x.shape[-1] != 4 * self.width:
            shortcut = Convolution(4 * self.width, 1, self.stride, dtype=self.dtype, name="downsample_conv")(x)
            shortcut = BatchNorm(self.dtype, name="downsample_bn")(shortcut, train=train)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """Stem and bottleneck stages of a ResNet.

    Attributes:
        stages: blocks per stage, e.g. (3, 4, 23) for ResNet-101 up to layer3, (3, 4, 23, 3) for all of it.
        width: channels of the stem; stage i has 4 * width * 2**i output channels.
        dtype: of the computation; parameters stay float32.
    """

    stages: Sequence[int]
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: jax.Array | None = None, *, train: bool = False) -> list[jax.Array]:
        """Runs the backbone.

        Args:
            x: float [B, H, W, 3], normalised; zero where padded.
            size: int32 [B, 2], valid height and width of each image, or None when nothing is padded. The valid part
                of every output equals the output of the unpadded image.
            train: normalise by batch statistics and update the running ones.

        Returns:
            One array per stage, [B, ceil(H / s), ceil(W / s), C] with s = 4, 8, 16, ...
        """
        x = zero_outside(x.astype(self.dtype), size)
        x = Convolution(self.width, 7, 2, dtype=self.dtype, as_patches=train, name="conv1")(x)
        x = nn.relu(BatchNorm(self.dtype, name="bn1")(x, train=train))
        size = halve(size)
        x = zero_outside(x, size)
        x = max_pool(x)
        size = halve(size)
        outputs = []
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer = Bottleneck(self.width * 2**stage, stride, self.dtype, name=f"layer{stage + 1}_{block}")
                x = layer(x, size, train=train)
                size = halve(size) if stride == 2 else size
            outputs.append(x)
        return outputs


def flops(stages: Sequence[int], width: int, rows: int, columns: int) -> int:
    """Operations of a backbone with these stages and channels of the stem on an image: two per multiply-add."""
    h, w = -(-rows // 2), -(-columns // 2)
    total = 2 * 49 * 3 * width * h * w
    h, w, channels = -(-h // 2), -(-w // 2), width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        for block in range(blocks):
            total += 2 * channels * inner * h * w
            if stage > 0 and block == 0:
                h, w = -(-h // 2), -(-w // 2)
            total += 2 * (9 + 4) * inner**2 * h * w
            total += 2 * channels * 4 * inner * h * w if block == 0 else 0
            channels = 4 * inner
    return total
