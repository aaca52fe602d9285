"""Inference as jitted pure functions, in a few static shapes whatever the images (alinlab/ifseg, evaluation).

An image is resized, padded to the next bucket and masked; the valid part of every result equals that of the unpadded
image. What becomes of the logits is in `ifseg_jax.postprocess`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA, grid_size
from ifseg_jax.positions import Grid
from ifseg_jax.prompt import WordEmbeddings

BUCKET_CELLS = (4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 43, 48, 56, 64, 80, 96, 112, 128)
"""Sides of padded grids in cells; 43 is the long side of a 4:3 image. Beyond the last, multiples of 32."""


@functools.partial(jax.jit, static_argnames="config")
def image_features(config: OFAConfig, variables: Any, images: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """Trunk features float32 [B, h, w, C] of images uint8 [B, H, W, 3], or float32 in [-1, 1]."""
    model: Any = OFA(config)
    features = model.apply(variables, scaled(images), sizes, method=OFA.image_features)
    return features.astype(jnp.float32)


def scaled(images: jax.Array) -> jax.Array:
    """Pixels in [-1, 1], float32: uint8 is scaled, floats are taken as they are."""
    return images.astype(jnp.float32) / 127.5 - 1.0 if images.dtype == jnp.uint8 else images


class Prediction(NamedTuple):
    """logits: float32 [B, h, w, M] on the padded grid. features: [B, h, w, C]. cells: int32 [B, 2] or None."""

    logits: jax.Array
    features: jax.Array
    cells: jax.Array | None


@functools.partial(jax.jit, static_argnames="config")
def predict(
    config: OFAConfig, variables: Any, words: WordEmbeddings, images: jax.Array, sizes: jax.Array | None = None
) -> Prediction:
    """Logits of every token of real images.

    Args:
        images: uint8 [B, H, W, 3], or float32 in [-1, 1].
        sizes: int32 [B, 2], valid height and width in pixels; None when nothing is padded.
    """
    model: Any = OFA(config)
    features = model.apply(variables, scaled(images), sizes, method=OFA.image_features)
    embeddings = model.apply(variables, features, method=OFA.image_embeddings)
    cells = grid_size(sizes, len(config.resnet_stages))
    logits = model.apply(variables, embeddings, words.projected, words.prompt, words.bos, cells, method=OFA.segment)
    return Prediction(logits, features, cells)


@functools.partial(jax.jit, static_argnames="config")
def artificial_logits(config: OFAConfig, variables: Any, words: WordEmbeddings, grids: jax.Array) -> jax.Array:
    """Logits float32 [B, h, w, M] of artificial images: int [B, h, w] category ids in the place of image tokens."""
    model: Any = OFA(config.artificial)
    cells = words.categories[grids]
    return model.apply(variables, cells, words.projected, words.prompt, words.bos, method=OFA.segment)


def cell_mask(cells: jax.Array | None, rows: int, columns: int) -> jax.Array | None:
    """bool [B, rows * columns], True at valid cells; None when nothing is padded. `cells`: int32 [B, 2] or None."""
    return Grid(rows, columns, cells).valid()


def bucket_side(pixels: int, stride: int) -> int:
    """Padded length of a side of `pixels`, from the static set of buckets."""
    cells = -(-pixels // stride)
    for bucket in BUCKET_CELLS:
        if cells <= bucket:
            return bucket * stride
    return -(-cells // 32) * 32 * stride


def pad_images(images: Sequence[np.ndarray], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Stacks images uint8 [h, w, 3] of one bucket: uint8 [B, H, W, 3] and their sizes int32 [B, 2]."""
    sizes = np.asarray([image.shape[:2] for image in images], np.int32)
    height, width = (bucket_side(int(side), stride) for side in sizes.max(axis=0))
    batch = np.zeros((len(images), height, width, 3), np.uint8)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return batch, sizes
