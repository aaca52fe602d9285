"""LSeg in Flax linen: pixels and words in one embedding space (Li et al. 2022; isl-org/lang-seg).

Everything is a pure function of (variables, inputs). Arrays are [B, ...]; N is the number of labels, C the width of the
common space.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax.config import LSegConfig
from lseg_jax.dpt import Decoder, dense, doubled
from lseg_jax.encoders.base import normalized
from lseg_jax.head import LogitBlock

LOGIT_SCALE = 1 / 0.07
"""Inverse temperature of the correlation, a constant (Sec. 3, t = 0.07)."""

NARROW = 4
"""How many times fewer channels than the common space a decoder has for which no embedding is made in training."""

SMALLEST = 1e-24
"""Of the squared length of an embedding, which rounding may take below 0."""


def similarities(pixels: jax.Array, labels: jax.Array) -> jax.Array:
    """Scaled dot products [B, h, w, N] of pixels [B, h, w, C] and labels [N, C] or, by image, [B, N, C]."""
    equation = "bhwc,nc->bhwn" if labels.ndim == 2 else "bhwc,bnc->bhwn"
    return jnp.einsum(equation, pixels, LOGIT_SCALE * labels)


class LSegNet(nn.Module):
    """Image encoder, text encoder, and the correlation of every pixel with every label."""

    config: LSegConfig

    def setup(self) -> None:
        config = self.config
        if not config.text.trained_apart:
            self.text = config.text.module()
        self.image = config.image.module(config.dtype, config.remat)
        self.reassemble = config.image.reassembly(config.dtype)
        self.decoder = Decoder(config.features, config.dtype)
        self.projection = dense(config.text.features, config.features, jnp.dtype(config.dtype))
        if config.block != "none":
            self.block = LogitBlock(config.block, config.block_depth, config.activation)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Label embeddings: int [N, context] -> float32 [N, C], l2-normalised."""
        return normalized(self.text(tokens))

    def encode_pixels(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Pixel embeddings: float [B, H, W, 3] -> float32 [B, H / 2, W / 2, C], l2-normalised.

        H and W are multiples of 32. `train` normalises by the batch and updates the decoder's running statistics.
        """
        return normalized(doubled(self.features(images, train=train)))

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """What pixel embeddings are the doubled and normalised version of: float32 [B, H / 4, W / 4, C]."""
        return self.projection(self.decoded(images, train=train)).astype(jnp.float32)

    def levels(self, images: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """Maps at a quarter, an eighth, a 16th and a 32nd of the resolution, as the decoder takes them."""
        return self.config.image.levels(self.image, self.reassemble, images, train=train)

    def cell_logits(self, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        """Logits before the last upsampling (Sec. 3, word-pixel correlation and spatial regularization).

        Args:
            pixels: [B, h, w, C] from `encode_pixels`.
            labels: [N, C] from `encode_text`, or [B, N, C] for label sets that differ by image.

        Returns:
            float32 [B, h, w, N].
        """
        return self.regularized(similarities(pixels, labels))

    def regularized(self, logits: jax.Array) -> jax.Array:
        """Logits [B, h, w, N] after the block, if there is one."""
        return logits if self.config.block == "none" else self.block(logits)

    def image_cells(self, images: jax.Array, labels: jax.Array, *, train: bool = False) -> jax.Array:
        """`cell_logits` of images, float [B, H, W, 3] -> float32 [B, H / 2, W / 2, N].

        Doubling and correlation commute, and before it there are a quarter of the pixels; the embeddings are only
        needed for their lengths then. Where the decoder is narrow beside the common space, not even for those.
        """
        return self.decoded_cells(self.decoded(images, train=train), labels)

    def decoded(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """What the projection to the common space is applied to: [B, H, W, 3] -> [B, H / 4, W / 4, features]."""
        return self.decoder(self.levels(images, train=train), train=train)

    def decoded_cells(self, decoded: jax.Array, labels: jax.Array) -> jax.Array:
        """`image_cells` of what `decoded` gives: the part that depends on the labels."""
        if NARROW * self.config.features <= self.config.text.features:
            return self.regularized(self._narrow_cells(decoded.astype(jnp.float32), labels))
        features = self.projection(decoded).astype(jnp.float32)
        lengths = jnp.linalg.norm(doubled(features), axis=-1, keepdims=True)
        return self.regularized(doubled(similarities(features, labels)) / lengths)

    def _narrow_cells(self, decoded: jax.Array, labels: jax.Array) -> jax.Array:
        """The similarities of [B, h, w, F] before projection, [B, 2 h, 2 w, N]; no embedding is made.

        With the projection x -> xK + b, dot products with a label l are xKl + bl, and squared lengths are xKK'x + 2xKb
        + bb, where x has F numbers and embeddings have C.
        """
        projected: Any = self.projection
        projected(decoded[:1, :1, :1])  # makes its parameters where they are fresh
        kernel, bias = (projected.variables["params"][name] for name in ("kernel", "bias"))
        exact = functools.partial(jnp.einsum, precision="highest")
        along = exact("fc,...nc->...fn", kernel, LOGIT_SCALE * labels)
        products = exact("bhwf,fn->bhwn" if labels.ndim == 2 else "bhwf,bfn->bhwn", decoded, along)
        offsets = exact("c,...nc->...n", bias, LOGIT_SCALE * labels)
        products += offsets if labels.ndim == 2 else offsets[:, None, None]
        wide = doubled(decoded)
        turned = exact("bhwf,fg->bhwg", wide, exact("fc,gc->fg", kernel, kernel)) + 2 * exact("fc,c->f", kernel, bias)
        squares = jnp.sum(turned * wide, axis=-1, keepdims=True) + jnp.sum(bias**2)
        return doubled(products) * jax.lax.rsqrt(jnp.maximum(squares, SMALLEST))

    def segment(self, images: jax.Array, labels: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [B, H, W, N] of images float [B, H, W, 3] for label embeddings, see `cell_logits`."""
        return doubled(self.image_cells(images, labels, train=train))

    def __call__(self, images: jax.Array, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [B, H, W, N] of images float [B, H, W, 3] for tokenised labels int [N, context]."""
        return self.segment(images, self.encode_text(tokens), train=train)
