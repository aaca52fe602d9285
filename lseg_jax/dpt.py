"""DPT: tokens back into maps at four scales, and their fusion (Ranftl et al. 2021; isl-org/lang-seg)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vlseg.nn.initializers import KERNEL, TRANSPOSED, uniform
from vlseg.nn.layers import BatchNorm, Convolution
from vlseg.nn.resize import resize_bilinear
from vlseg.sharding import batch_sharded

SCALES: dict[int, tuple[float, ...]] = {8: (2, 1, 0.5, 0.25), 16: (4, 2, 1, 0.5), 32: (8, 4, 2, 1)}
"""Resampling of each level by patch size: levels are at 1/4, 1/8, 1/16 and 1/32 of the image."""

REASSEMBLY_AXES = ((r"/reassemble_\d+/.*kernel$", ("embed",)),)
DECODER_AXES = ((r"/decoder/.*kernel$", ("embed",)),)
"""Of the parameters of either part, see `lseg_jax.encoders.base.Axes`."""


def dense(features: int, channels: int, dtype: Any, name: str | None = None) -> nn.Dense:
    """A linear layer from so many channels, which starts as PyTorch's."""
    return nn.Dense(features, dtype=dtype, kernel_init=KERNEL, bias_init=uniform(channels), name=name)


class Reassemble(nn.Module):
    """Tokens of one depth as a map ("project" readout: the class token joins every other one)."""

    features: int
    scale: float
    dtype: str

    @nn.compact
    def __call__(self, tokens: jax.Array, rows: int, columns: int) -> jax.Array:
        """[B, 1 + rows * columns, D] -> [B, rows * scale, columns * scale, features]."""
        dtype = jnp.dtype(self.dtype)
        x = jax.nn.gelu(Readout(dtype, name="readout")(tokens), approximate=False)
        x = dense(self.features, x.shape[-1], dtype, "project")(x)
        x = rearrange(x, "b (h w) c -> b h w c", h=rows, w=columns)
        if self.scale == 1:
            return x
        if self.scale < 1:
            stride = round(1 / self.scale)
            convolution = nn.Conv(
                self.features,
                (3, 3),
                (stride, stride),
                padding=1,
                dtype=dtype,
                kernel_init=KERNEL,
                bias_init=uniform(9 * self.features),
                name="resample",
            )
            return convolution(x)
        return Enlarge(self.features, round(self.scale), self.dtype, name="resample")(x)


class Readout(nn.Module):
    """A linear map of every token joined with the class token, whose share is computed once for all."""

    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, 1 + n, D] -> [B, n, D]."""
        width = tokens.shape[-1]
        kernel = self.param("kernel", KERNEL, (2 * width, width)).astype(self.dtype)
        bias = self.param("bias", uniform(2 * width), (width,)).astype(self.dtype)
        tokens = tokens.astype(self.dtype)
        return tokens[:, 1:] @ kernel[:width] + (tokens[:, :1] @ kernel[width:] + bias)


class Enlarge(nn.Module):
    """Transposed convolution whose stride is its kernel: every cell becomes a square of its own."""

    features: int
    factor: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h * factor, w * factor, features]."""
        shape = (self.factor, self.factor, x.shape[-1], self.features)
        kernel = self.param("kernel", TRANSPOSED, shape).astype(x.dtype)
        bias = self.param("bias", uniform(self.factor**2 * self.features), (self.features,)).astype(x.dtype)
        x = jnp.einsum("bhwc,yxcd->bhywxd", x, kernel) + bias
        return rearrange(x, "b h y w x d -> b (h y) (w x) d")


def reassembly_flops(width: int, channels: Sequence[int], patch: int, rows: int, columns: int) -> int:
    """Readout, projection and resampling of all levels from `rows` x `columns` tokens of this width."""
    tokens = rows * columns
    total = 0
    for features, scale in zip(channels, SCALES[patch], strict=True):
        total += 2 * (2 * width**2 + width * features) * tokens
        if scale > 1:
            total += 2 * round(scale) ** 2 * features**2 * tokens
        elif scale < 1:
            stride = round(1 / scale)
            total += 2 * 9 * features**2 * -(-rows // stride) * -(-columns // stride)
    return total


class ResidualUnit(nn.Module):
    """Twice ReLU, 3x3 convolution and batch norm, and the sum with the input."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, h, w, C] -> the same shape."""
        dtype = jnp.dtype(self.dtype)
        y = x
        for number in (1, 2):
            y = Convolution(self.features, 3, dtype=dtype, kernel_init=KERNEL, name=f"conv{number}")(jax.nn.relu(y))
            y = BatchNorm(dtype, name=f"bn{number}")(y, train=train)
        return x + y


def doubled(x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, 2h, 2w, C], bilinear with aligned corners."""
    return resize_bilinear(x, 2 * x.shape[1], 2 * x.shape[2], align_corners=True)


class Fusion(nn.Module):
    """Adds a level to the coarser ones and refines."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, level: jax.Array | None, *, train: bool) -> jax.Array:
        """[B, h, w, C] -> the same shape, to be doubled; `level` [B, h, w, C] is None for the coarsest."""
        if level is not None:
            x = x + ResidualUnit(self.features, self.dtype, name="skip_unit")(level, train=train)
        x = ResidualUnit(self.features, self.dtype, name="unit")(x, train=train)
        return batch_sharded(dense(self.features, self.features, jnp.dtype(self.dtype), "out")(x))


class Decoder(nn.Module):
    """Four levels, finest first, into one map at the resolution of the finest.

    Officially every fusion doubles the resolution before its 1x1 convolution, the last one too. A 1x1 convolution and
    an interpolation commute, and before it there are a quarter of the pixels.
    """

    features: int
    dtype: str

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], *, train: bool = False) -> jax.Array:
        """[B, H / 4, W / 4, C1] ... [B, H / 32, W / 32, C4] -> [B, H / 4, W / 4, features]."""
        dtype = jnp.dtype(self.dtype)
        x = None
        for number in range(len(levels), 0, -1):
            convolution = Convolution(self.features, 3, dtype=dtype, kernel_init=KERNEL, name=f"level{number}")
            level = convolution(levels[number - 1])
            fusion = Fusion(self.features, self.dtype, name=f"fusion{number}")
            x = fusion(level, None, train=train) if x is None else fusion(doubled(x), level, train=train)
        assert x is not None
        return x
