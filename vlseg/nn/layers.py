"""Layers as PyTorch computes them, images in NHWC: convolution, pooling, normalization, stochastic depth.

Images that are padded to a static size come with their valid sizes, see `zero_outside`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Initializer

EPSILON = 1e-5
"""What normalizations add to the variance."""

RESNET: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Fresh convolutions of torchvision's ResNets (He et al. 2015)."""


def shifted_windows(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """The kernel * kernel strided views of `x` [B, H, W, C] that a "same" window sees, zero padded, row by row."""
    _, height, width, _ = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    pad = kernel // 2
    return strided_views(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), kernel, stride, rows, columns)


def strided_views(padded: jax.Array, kernel: int, stride: int, rows: int, columns: int) -> list[jax.Array]:
    """What each of kernel * kernel taps sees from rows x columns places, [B, rows, columns, C] each, row by row."""
    return [
        padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pooling of stride 2 of values >= 0: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    Zero padding then pools like -inf padding. A maximum of shifted views differentiates without a scatter.
    """
    return functools.reduce(jnp.maximum, shifted_windows(x, 3, 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """[B, H, W, C] and [k, k, C, D] -> [B, ceil(H / stride), ceil(W / stride), D], padded by half the kernel.

    The kernel's gradient on CPUs is a sum of products of a few rows at a time: XLA's convolution of its own takes two
    to three times as long.
    """
    return _convolution(x, kernel, stride)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolution_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(x, kernel, stride), (x, kernel)


def _convolution_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    plain = functools.partial(_convolution, stride=stride)
    (x_gradient,) = jax.vjp(lambda x: plain(x, kernel), x)[1](gradient)

    def convolved(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](gradient)[0]

    if stride > 1 or kernel.shape[0] == 1:
        return x_gradient, convolved(x, gradient)
    summed = functools.partial(_kernel_gradient, size=kernel.shape[0])
    return x_gradient, jax.lax.platform_dependent(x, gradient, cpu=summed, default=convolved)


convolution.defvjp(_convolution_forward, _convolution_backward)

_ROWS = 8  # at a time: their views fit the cache


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] and [B, H, W, D] -> [size, size, C, D]."""
    images, height, width, channels = x.shape
    rows = min(_ROWS, height)
    blocks, pad = -(-height // rows), size // 2
    x = jnp.pad(x, ((0, 0), (pad, pad + blocks * rows - height), (pad, pad), (0, 0)))
    gradient = jnp.pad(gradient, ((0, 0), (0, blocks * rows - height), (0, 0), (0, 0)))

    def add(total: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        seen = jax.lax.dynamic_slice_in_dim(x, block * rows, rows + 2 * pad, 1)
        along = jax.lax.dynamic_slice_in_dim(gradient, block * rows, rows, 1).reshape(images * rows * width, -1)
        products = [view.reshape(-1, channels).T @ along for view in strided_views(seen, size, 1, rows, width)]
        return total + jnp.stack(products).astype(jnp.float32), None

    start = jnp.zeros((size * size, channels, gradient.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add, start, jnp.arange(blocks))
    return total.reshape(size, size, channels, -1).astype(x.dtype)


class Convolution(nn.Module):
    """Convolution without bias, padded by half its kernel as in PyTorch; 1x1 kernels run as a matrix product.

    `as_patches` lays the windows out and multiplies once, for the few-channel stem, whose weight gradient as a
    convolution is slow. Fresh kernels are torchvision's for ResNets unless there is another `kernel_init`.
    """

    features: int
    kernel: int
    stride: int = 1
    dtype: Any = jnp.float32
    as_patches: bool = False
    kernel_init: Initializer = RESNET

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("bhwc,cd->bhwd", x, weight[0, 0])
        if self.as_patches:
            patches = jnp.concatenate(shifted_windows(x, self.kernel, self.stride), axis=-1)
            return jnp.einsum("bhwp,pd->bhwd", patches, rearrange(weight, "i j c d -> (i j c) d"))
        return convolution(x, weight, self.stride)


class BatchNorm(nn.Module):
    """Batch normalization over all of a batch, with PyTorch's names and running-average rule (momentum 0.1).

    The statistics live in the collection "batch_stats". Under `jit` with a sharded batch axis the means are over the
    global batch, so statistics are synchronised by construction.
    """

    dtype: Any = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> the same shape. `train` normalises by the batch and updates the running statistics."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        variance = self.variable("batch_stats", "variance", jnp.ones, (channels,))
        used_mean, used_variance = mean.value, variance.value
        if train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            used_mean = jnp.mean(wide, axis=(0, 1, 2))
            used_variance = jnp.mean(jnp.square(wide - used_mean), axis=(0, 1, 2))
            if not self.is_initializing():
                count = x.size // channels
                unbiased = used_variance * (count / max(count - 1, 1))
                mean.value = 0.9 * mean.value + 0.1 * jax.lax.stop_gradient(used_mean)
                variance.value = 0.9 * variance.value + 0.1 * jax.lax.stop_gradient(unbiased)
        factor = scale * jax.lax.rsqrt(used_variance + self.epsilon)
        return x * factor.astype(self.dtype) + (bias - used_mean * factor).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016) over the last axis as PyTorch computes it, with two passes for the variance.

    The same function and parameters as flax's, with a backward pass of its own, because XLA's gradient of that one
    takes five times as long on CPUs: it makes one reduction per parameter and statistic over arrays that it computes
    again for each. On CPUs its sums are matrix products, elsewhere plain sums.
    """

    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> the same shape in `dtype`. Statistics are float32."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return _normalize(x, scale, bias, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True) + epsilon)
    return (wide - mean) * (inverse * scale) + bias, (x, mean, inverse, scale)


def _normalize_backward(epsilon: float, saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jax.lax.platform_dependent(*saved, gradient, cpu=_gradients_by_products, default=_gradients_by_sums)


def _gradients_by_products(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of x, scale and bias; products run at the speed of a CPU's memory."""
    normal = (x.astype(jnp.float32) - mean) * inverse
    total = jnp.einsum("...d,d->...", gradient, scale, precision="highest")[..., None]
    along = jnp.einsum("...d,...d->...", gradient * scale, normal, precision="highest")[..., None]
    slope = inverse * (gradient * scale - (total + normal * along) / x.shape[-1])
    rows, rows_normal = (rearrange(array, "... d -> (...) d") for array in (gradient, normal))
    scale_gradient = jnp.einsum("nd,nd->d", rows, rows_normal, precision="highest")
    bias_gradient = jnp.einsum("n,nd->d", jnp.ones(rows.shape[:1]), rows, precision="highest")
    return slope.astype(x.dtype), scale_gradient, bias_gradient


def _gradients_by_sums(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same by plain sums.

    The barrier keeps rows' sums [..., 1] arrays of their own. Without it XLA for TPUs joins a sum with its broadcast in
    one windowed sum, and writes float32 [..., D] to memory.
    """
    normal = (x.astype(jnp.float32) - mean) * inverse
    scaled = gradient * scale
    total = jnp.sum(scaled, axis=-1, keepdims=True)
    along = jnp.sum(scaled * normal, axis=-1, keepdims=True)
    total, along = jax.lax.optimization_barrier((total, along))
    slope = inverse * (scaled - (total + normal * along) / x.shape[-1])
    others = tuple(range(x.ndim - 1))
    return slope.astype(x.dtype), jnp.sum(gradient * normal, axis=others), jnp.sum(gradient, axis=others)


_normalize.defvjp(_normalize_forward, _normalize_backward)


class DropPath(nn.Module):
    """Drops the residual branch of whole examples (stochastic depth, Huang et al. 2016), scaling the survivors."""

    @nn.compact
    def __call__(self, x: jax.Array, rate: float | jax.Array, *, deterministic: bool) -> jax.Array:
        """`x` float [B, ...] -> the same shape and dtype.

        `rate` in [0, 1) is the probability that an example loses this branch; it may be traced. Uses the rng stream
        "dropout" unless `deterministic`.
        """
        if deterministic:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, shape)
        return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros_like(x))


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
