"""Inference as jitted pure functions, in a few static shapes whatever the images (alinlab/ifseg, evaluation).

An image is resized, padded to the next bucket and masked; the valid part of every result equals that of the unpadded
image. What becomes of the logits is in `ifseg_jax.postprocess`.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax.backbone import grid_size
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.positions import Grid
from ifseg_jax.postprocess import best_categories, knn_average
from ifseg_jax.prompt import WordEmbeddings

ASPECTS = (Fraction(1), Fraction(4, 3), Fraction(3, 2), Fraction(2))
"""Long side by short side of padded grids: squares, the usual formats of photographs, and 2, 4, 8, ... for others."""


@functools.partial(jax.jit, static_argnames="config")
def image_features(config: OFAConfig, variables: Any, images: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """Trunk features float32 [B, h, w, C] of images uint8 [B, H, W, 3], or float32 in [-1, 1]."""
    model: Any = OFA(config)
    features = model.apply(variables, scaled(images), sizes, method=OFA.image_features)
    return features.astype(jnp.float32)


def scaled(images: jax.Array) -> jax.Array:
    """Pixels in [-1, 1], float32: uint8 is scaled, floats are taken as they are."""
    return images.astype(jnp.float32) / 127.5 - 1.0 if images.dtype == jnp.uint8 else images


class Averaging(NamedTuple):
    """Rounds of averaging probabilities over the k nearest neighbours, none of them for 0 iterations."""

    k: int
    iterations: int


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
    cells = grid_size(sizes, config)
    logits = model.apply(variables, embeddings, words.projected, words.prompt, words.bos, cells, method=OFA.segment)
    return Prediction(logits, features, cells)


@functools.partial(jax.jit, static_argnames=("config", "averaging"))
def probabilities(
    config: OFAConfig,
    averaging: tuple[Averaging, ...],
    variables: Any,
    words: WordEmbeddings,
    images: jax.Array,
    sizes: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """Probabilities float32 [B, h, w, M] of every token on the padded grid, for each of several ways to average them.

    In one program, since a folder's pictures need one for each padded size. Arguments as for `predict`.
    """
    prediction = predict(config, variables, words, images, sizes)
    return tuple(averaged(prediction, way) for way in averaging)


def label_maps(
    config: OFAConfig, averaging: Averaging, variables: Any, words: WordEmbeddings, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Averaged probabilities float32 [B, h, w, M] of images without padding, and label maps int32 [B, H, W] of them.

    A pixel of which no category is a number has the label -1.
    """
    batch, height, width, _ = images.shape
    probabilities = averaged(predict(config, variables, words, images), averaging)
    sizes = jnp.broadcast_to(jnp.asarray([height, width], jnp.int32), (batch, 2))
    best, highest = best_categories(probabilities, None, sizes, 1, height, width)
    return probabilities, jnp.where(jnp.isfinite(highest), best, -1)[..., 0]


def averaged(prediction: Prediction, averaging: Averaging) -> jax.Array:
    """Probabilities float32 [B, h, w, M] on the padded grid, averaged over neighbours (Eq. 18)."""
    probabilities = jax.nn.softmax(prediction.logits, axis=-1)
    if not averaging.iterations:
        return probabilities
    batch, rows, columns, categories = probabilities.shape
    mask = cell_mask(prediction.cells, rows, columns)
    features = prediction.features.reshape(batch, rows * columns, -1)
    flat = probabilities.reshape(batch, rows * columns, categories)
    return knn_average(flat, features, averaging.k, averaging.iterations, mask).reshape(probabilities.shape)


@functools.partial(jax.jit, static_argnames="config")
def artificial_logits(config: OFAConfig, variables: Any, words: WordEmbeddings, grids: jax.Array) -> jax.Array:
    """Logits float32 [B, h, w, M] of artificial images: int [B, h, w] category ids in the place of image tokens."""
    model: Any = OFA(config.artificial)
    cells = words.categories[grids]
    return model.apply(variables, cells, words.projected, words.prompt, words.bos, method=OFA.segment)


def cell_mask(cells: jax.Array | None, rows: int, columns: int) -> jax.Array | None:
    """bool [B, rows * columns], True at valid cells; None when nothing is padded. `cells`: int32 [B, 2] or None."""
    return Grid(rows, columns, cells).valid()


def bucket_side(pixels: int, stride: int, short_side: int) -> int:
    """Padded length of a side of `pixels`: the short side's times one of `ASPECTS`.

    Resized images have a short side of `short_side` pixels, or less where they are very long, so that images of all
    sizes share few programs.
    """
    cells, short = -(-pixels // stride), -(-short_side // stride)
    aspects = itertools.chain(ASPECTS, (ASPECTS[-1] * 2**power for power in itertools.count(1)))
    buckets = (math.ceil(short * aspect) for aspect in aspects)
    return next(bucket for bucket in buckets if bucket >= cells) * stride


def pad_images(images: Sequence[np.ndarray], stride: int, short_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Stacks images uint8 [h, w, 3] of one bucket: uint8 [B, H, W, 3] and their sizes int32 [B, 2]."""
    sizes = np.asarray([image.shape[:2] for image in images], np.int32)
    height, width = (bucket_side(int(side), stride, short_side) for side in sizes.max(axis=0))
    batch = np.zeros((len(images), height, width, 3), np.uint8)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return batch, sizes
