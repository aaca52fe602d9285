"""LSeg in Flax linen: pixels and words in one embedding space (Li et al. 2022; isl-org/lang-seg).

Everything is a pure function of (variables, inputs). Arrays are [B, ...]; N is the number of labels, C the width of the
common space.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax.config import LSegConfig
from lseg_jax.dpt import Decoder, dense, doubled
from lseg_jax.encoders.base import normalized
from lseg_jax.head import LogitBlock

LOGIT_SCALE = 1 / 0.07
"""Inverse temperature of the correlation, a constant (Sec. 3, t = 0.07)."""


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
        levels = self.levels(images, train=train)
        return self.projection(self.decoder(levels, train=train)).astype(jnp.float32)

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
        needed for their lengths then.
        """
        features = self.features(images, train=train)
        lengths = jnp.linalg.norm(doubled(features), axis=-1, keepdims=True)
        return self.regularized(doubled(similarities(features, labels)) / lengths)

    def segment(self, images: jax.Array, labels: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [B, H, W, N] of images float [B, H, W, 3] for label embeddings, see `cell_logits`."""
        return doubled(self.image_cells(images, labels, train=train))

    def __call__(self, images: jax.Array, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [B, H, W, N] of images float [B, H, W, 3] for tokenised labels int [N, context]."""
        return self.segment(images, self.encode_text(tokens), train=train)
