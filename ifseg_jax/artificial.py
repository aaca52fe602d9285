"""Artificial images: random maps of category words (IFSeg, Sec. 2.3), drawn on the device."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlseg.errors import ConfigError
from vlseg.nn.resize import resize_nearest_indices


class ArtificialBatch(NamedTuple):
    """grids: int32 [B, h, w], the category that stands at every image token.
    targets: int32 [B, H, W], the same maps at pixel resolution.
    """

    grids: jax.Array
    targets: jax.Array


def resize_map(seed_map: jax.Array, map_size: tuple[jax.Array, jax.Array], height: int, width: int) -> jax.Array:
    """Nearest resize of the leading (u, v) part of int [S, S] to int [height, width]; source floor(i * u / height)."""
    rows = resize_nearest_indices(map_size[0], height)
    columns = resize_nearest_indices(map_size[1], width)
    return seed_map[rows[:, None], columns[None, :]]


MAX_SIDE = 2**14


def sides(artificial_image_type: str) -> tuple[int, int] | None:
    """The range of a word map's height and width, from the first to before the second; None for "norand_k".

    Raises:
        ConfigError: it is none of "norand_k", "rand_k" (which is rand_k-1-33) and "rand_k-L-R", 1 <= L < R <= MAX_SIDE.
    """
    if artificial_image_type == "norand_k":
        return None
    found = re.fullmatch(r"rand_k(?:-(\d+)-(\d+))?", artificial_image_type)
    first, end = (int(side or usual) for side, usual in zip(found.groups(), (1, 33), strict=True)) if found else (0, 0)
    if not 1 <= first < end <= MAX_SIDE:
        raise ConfigError(
            f"artificial_image_type {artificial_image_type!r} is none of rand_k, norand_k and rand_k-L-R "
            f"(1 <= L < R <= {MAX_SIDE})"
        )
    return first, end


def artificial_batch(
    key: jax.Array, batch: int, categories: int, grid: int, pixels: int, artificial_image_type: str = "rand_k"
) -> ArtificialBatch:
    """Draws word maps (Eq. 16-17).

    Per example: u, v uniform on {L, ..., R - 1}; a u x v map of categories, uniform with replacement; nearest
    resize of that one map to `grid` x `grid` tokens and to `pixels` x `pixels` targets. With "norand_k" the map is
    `grid` x `grid`, so every token has a category of its own. (The official code has this type and fails on it: it
    gives the loss a target for each token, which expects one for each pixel.)

    Args:
        key: a `jax.random` key; equal keys give equal batches.
        batch, categories, grid, pixels: B, M, h = w, H = W.
        artificial_image_type: see `sides`; the paper's S is R - 1, with L = 1.
    """
    drawn = sides(artificial_image_type)
    largest = drawn[1] - 1 if drawn else grid

    def one(key: jax.Array) -> ArtificialBatch:
        size_key, map_key = jax.random.split(key)
        size = jax.random.randint(size_key, (2,), *drawn) if drawn else jnp.array([grid, grid])
        seed_map = jax.random.randint(map_key, (largest, largest), 0, categories)
        u, v = size
        return ArtificialBatch(resize_map(seed_map, (u, v), grid, grid), resize_map(seed_map, (u, v), pixels, pixels))

    return jax.vmap(one)(jax.random.split(key, batch))
