"""ResNet trunk (He et al. 2016, v1.5: the stride sits in the 3x3 convolution), NHWC."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_NORM_EPSILON = 1e-5
STEM_STRIDE = 4


def trunk_stride(stages: Sequence[int]) -> int:
    """Pixels per output cell of a trunk with these stages: 4 for one stage, doubled by each further one."""
    return STEM_STRIDE * 2 ** (len(stages) - 1)


def zero_outside(x: jax.Array, size: jax.Array | None) -> jax.Array:
    """Zeroes the cells of `x` [B, H, W, C] at and beyond `size` int [B, 2] (height, width); None leaves `x` alone.

    A padded image then looks to the next convolution exactly like an unpadded one with its zero border.
    """
    if size is None:
        return x
    rows = jnp.arange(x.shape[1])[None, :] < size[:, :1]
    columns = jnp.arange(x.shape[2])[None, :] < size[:, 1:]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, jnp.zeros_like(x))


def halve(size: jax.Array | None) -> jax.Array | None:
    """Size int [B, 2] after a stride-2 layer with "same" padding: ceil(size / 2)."""
    return None if size is None else (size + 1) // 2


def shifted_windows(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """The kernel * kernel strided views of `x` [B, H, W, C] that a "same" window sees, zero padded, row by row."""
    _, height, width, _ = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    pad = kernel // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pooling of stride 2 of values >= 0: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    Zero padding then pools like -inf padding. A maximum of shifted views differentiates without a scatter.
    """
    return functools.reduce(jnp.maximum, shifted_windows(x, 3, 2))


class Convolution(nn.Module):
    """Convolution without bias, padded by half its kernel as in PyTorch; 1x1 kernels run as a matrix product.

    `as_patches` lays the windows out and multiplies once, for the few-channel stem, whose weight gradient as a
    convolution is slow.
    """

    features: int
    kernel: int
    stride: int = 1
    dtype: Any = jnp.float32
    as_patches: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        weight = self.param("kernel", initializer, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("bhwc,cd->bhwd", x, weight[0, 0])
        if self.as_patches:
            patches = jnp.concatenate(shifted_windows(x, self.kernel, self.stride), axis=-1)
            return jnp.einsum("bhwp,pd->bhwd", patches, weight.reshape(-1, self.features))
        pad = self.kernel // 2
        return jax.lax.conv_general_dilated(
            x, weight, (self.stride, self.stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class BatchNorm(nn.Module):
    """Batch normalisation over valid cells, with PyTorch's names and running-average rule (momentum 0.1).

    The statistics live in the collection "batch_stats". Under `jit` with a sharded batch axis the means are over the
    global batch, so statistics are synchronised by construction.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> the same shape. `train` normalises by the batch and updates the running statistics."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        variance = self.variable("batch_stats", "variance", jnp.ones, (channels,))
        if not train:
            factor = scale * jax.lax.rsqrt(variance.value + BATCH_NORM_EPSILON)
            return x * factor.astype(self.dtype) + (bias - mean.value * factor).astype(self.dtype)
        batch_mean = jnp.mean(x.astype(jnp.float32), axis=(0, 1, 2))
        batch_variance = jnp.mean(jnp.square(x.astype(jnp.float32) - batch_mean), axis=(0, 1, 2))
        if not self.is_initializing():
            count = x.size // channels
            unbiased = batch_variance * (count / max(count - 1, 1))
            mean.value = 0.9 * mean.value + 0.1 * jax.lax.stop_gradient(batch_mean)
            variance.value = 0.9 * variance.value + 0.1 * jax.lax.stop_gradient(unbiased)
        factor = scale * jax.lax.rsqrt(batch_variance + BATCH_NORM_EPSILON)
        return x * factor.astype(self.dtype) + (bias - batch_mean * factor).astype(self.dtype)


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
        """Runs the trunk.

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
