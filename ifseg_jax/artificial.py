"""Artificial images: random maps of category words (IFSeg, Sec. 2.3), drawn on the device."""

from typing import NamedTuple

import jax

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


def artificial_batch(
    key: jax.Array, batch: int, categories: int, grid: int, pixels: int, max_side: int = 32
) -> ArtificialBatch:
    """Draws word maps (Eq. 16-17).

    Per example: u, v uniform on {1, ..., max_side}; a u x v map of categories, uniform with replacement; nearest
    resize of that one map to `grid` x `grid` tokens and to `pixels` x `pixels` targets.

    Args:
        key: a `jax.random` key; equal keys give equal batches.
        batch, categories, grid, pixels: B, M, h = w, H = W.
        max_side: S of the paper.
    """

    def one(key: jax.Array) -> ArtificialBatch:
        size_key, map_key = jax.random.split(key)
        u, v = jax.random.randint(size_key, (2,), 1, max_side + 1)
        seed_map = jax.random.randint(map_key, (max_side, max_side), 0, categories)
        return ArtificialBatch(resize_map(seed_map, (u, v), grid, grid), resize_map(seed_map, (u, v), pixels, pixels))

    return jax.vmap(one)(jax.random.split(key, batch))
