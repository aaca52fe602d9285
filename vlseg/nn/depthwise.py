"""Depthwise convolution, padded as in TensorFlow, that is fast on CPUs, too.

On CPUs XLA runs a grouped convolution channel by channel, and its gradients slower still. A sum over the taps of the
kernel of shifted views is the same function; it and its gradients below run at the speed of memory. Accelerators keep
the convolution.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax import lax

from vlseg.nn.layers import strided_views

FAN_OUT: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=(), out_axis=(0, 1))
"""Fresh depthwise kernels (Tan and Le 2019): every output channel has kernel * kernel weights."""


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of this length so that ceil(length / stride) windows fit; one more after if odd."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def same_windows(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """The kernel * kernel strided views of `x` [B, H, W, C] that the windows see, zero padded, row by row."""
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    return strided_views(_padded(x, kernel, stride), kernel, stride, rows, columns)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves every channel with a kernel of its own.

    Args:
        x: float [B, H, W, C].
        kernel: [k, k, C], of the same dtype.
        stride: of the windows.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C].
    """
    return _depthwise(x, kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_summed, stride=stride), default=functools.partial(_grouped, stride=stride)
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    def grouped(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_grouped, stride=stride), x, kernel)[1](gradient)

    def summed(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            _input_gradient(gradient, kernel, stride, (x.shape[1], x.shape[2])),
            _kernel_gradient(x, gradient, kernel.shape[0], stride).astype(kernel.dtype),
        )

    return lax.platform_dependent(*saved, gradient, cpu=summed, default=grouped)


_depthwise.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel[:, :, None], (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


def _summed(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    weights = kernel.reshape(-1, kernel.shape[-1])
    views = same_windows(x, kernel.shape[0], stride)
    return functools.reduce(jnp.add, (view * weight for view, weight in zip(views, weights, strict=True)))


def _padded(x: jax.Array, kernel: int, stride: int) -> jax.Array:
    sides = [same_padding(side, kernel, stride) for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *sides, (0, 0)))


def _input_gradient(gradient: jax.Array, kernel: jax.Array, stride: int, size: tuple[int, int]) -> jax.Array:
    """The gradient of [B, H, W, C]: for each of the stride * stride phases of its pixels, the taps that reach it."""
    taps = kernel.shape[0]
    before = [same_padding(side, taps, stride)[0] for side in size]
    rows, columns = (-(-side // stride) for side in size)
    around = jnp.pad(gradient, ((0, 0), (taps, taps), (taps, taps), (0, 0)))

    def reached(phase: int, padding: int) -> list[tuple[int, int]]:
        """Taps that see pixels of this phase along a side, and how far the window's place is from the pixel's."""
        places = [(tap, phase + padding - tap) for tap in range(taps)]
        return [(tap, distance // stride) for tap, distance in places if distance % stride == 0]

    def phase(vertical: int, horizontal: int) -> jax.Array:
        terms = [
            around[:, taps + down : taps + down + rows, taps + right : taps + right + columns] * kernel[i, j]
            for i, down in reached(vertical, before[0])
            for j, right in reached(horizontal, before[1])
        ]
        nothing = jnp.zeros((len(gradient), rows, columns, gradient.shape[-1]), gradient.dtype)
        return functools.reduce(jnp.add, terms, nothing)

    if stride == 1:
        return phase(0, 0)
    lines = [jnp.stack([phase(i, j) for j in range(stride)], axis=3) for i in range(stride)]
    whole = jnp.stack(lines, axis=2).reshape(len(gradient), stride * rows, stride * columns, -1)
    return whole[:, : size[0], : size[1]]


def _kernel_gradient(x: jax.Array, gradient: jax.Array, taps: int, stride: int) -> jax.Array:
    """The gradient of [k, k, C], a row of windows at a time, while it is in the cache; float32, of float64 float64."""
    padded = _padded(x, taps, stride)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        seen = lax.dynamic_slice_in_dim(padded, row * stride, taps, 1)
        along = lax.dynamic_slice_in_dim(gradient, row, 1, 1).astype(wide)
        products = [
            jnp.sum(view.astype(wide) * along, (0, 1, 2))
            for view in strided_views(seen, taps, stride, 1, gradient.shape[2])
        ]
        return total + jnp.stack(products).reshape(total.shape), None

    start = jnp.zeros((taps, taps, x.shape[-1]), wide)
    return lax.scan(add, start, jnp.arange(gradient.shape[1]))[0]


class Depthwise(nn.Module):
    """A depthwise convolution without bias."""

    kernel: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        kernel = self.param("kernel", FAN_OUT, shape).astype(self.dtype)
        return depthwise(x.astype(self.dtype), kernel[:, :, 0], self.stride)
