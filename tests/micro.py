"""A micro model of each kind, and the one rule by which the tests draw parameters; scripts of tests/scale use it."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax import checkpoint
from ifseg_jax.config import OFAConfig
from lseg_jax.config import LSegConfig, TextConfig, ViTConfig
from vlseg.checkpoints import directory
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.checkpoints.rules import unflatten

WORDS = checkpoint.BUNDLED_MODELS["tiny"] / checkpoint.WORDS_FILE
"""The words of the tiny world, which the micro IFSeg knows."""

SIZES = {"width": 32, "ffn_width": 64, "heads": 8, "encoder_layers": 2, "decoder_layers": 2}
GRIDS = {"image_grid": 5, "segmentation_grid": 5, "image_bucket": 9, "token_bucket": 16, "max_positions": 64}
IFSEG = OFAConfig(
    **SIZES, **GRIDS, resnet_stages=(1, 1), resnet_width=8, vocabulary_size=len(WORDS.read_text().split()) + 4,
    remat="none", query_blocks=2,
)  # fmt: skip
"""8 pixels a token, trained on 5 x 5 of them; eight heads, for the widest mesh."""

# One head each, as the official names have no place for the number and it is read off the width.
TEXT = TextConfig(width=64, heads=1, layers=2, features=24, context=40, vocabulary=64)
IMAGE = ViTConfig(patch=16, width=64, heads=1, layers=4, grid=3, reassembled=(8, 12, 16, 20))
LSEG = LSegConfig(TEXT, IMAGE, features=16)

SPREADS = {"bias": 0.02, "mean": 0.02, "patch_bias": 0.02, "positions": 0.1, "class_token": 0.2}
CENTRE = np.zeros((3, 3, 1, 1))
CENTRE[1, 1] = 0.7


def parameter(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that follow from a parameter's path and shape, none of them 0 or 1: nothing is missed unnoticed.

    Patches count for much and biases for little, so that the pixels of an image differ in their best label.
    """
    noise = np.clip(np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape), -3, 3)
    kind = path.rsplit("/", 1)[-1]
    if kind in ("scale", "head_scale", "variance"):
        found = 1 + 0.1 * noise
    elif path == "params/block/kernel":
        found = CENTRE + 0.1 * noise
    elif kind in ("kernel", "patch_kernel", "projection"):
        found = (10 if kind == "patch_kernel" else 1) * np.prod(shape[:-1]) ** -0.5 * noise
    else:
        found = SPREADS.get(kind, 0.5) * noise
    return found.astype(np.float32)


def save_ifseg(path: Path, config: OFAConfig = IFSEG, words: str = WORDS.read_text(), **settings: Any) -> None:
    """The micro IFSeg as a directory that `ifseg_jax.load` and every command read."""
    arrays = jax.tree.map(np.asarray, variables(checkpoint.parameter_shapes(config)))
    stored = Stored(config, Weights(arrays), settings, others={checkpoint.WORDS_FILE: words.encode()})
    directory.write(path, checkpoint.FORMAT, stored)


def variables(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Variables of these shapes by path. Their memory may be given away; nothing is compiled for them."""
    return unflatten({path: jnp.asarray(parameter(path, shape)) for path, shape in shapes.items()})
