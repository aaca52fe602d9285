"""Scenes of the tiny world as a data set of images and labels."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from vlseg.data.folder import Example
from vlseg.data.tiny_world.names import NAMES
from vlseg.data.tiny_world.world import scene, split_key

_CHUNK = 50


@dataclasses.dataclass(frozen=True)
class TinyWorldDataset:
    """The first `count` scenes of a split, [size, size] pixels each, made as they are asked for.

    split: "train", "validation" or "test"; scenes of different splits or seeds are different.
    """

    split: str = "test"
    count: int = 500
    seed: int = 0
    size: int = 64
    names: tuple[str, ...] = NAMES
    ignore_label: int = 255

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        """Image uint8 [size, size, 3], label int32 [size, size], name "scene_INDEX"."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        images, labels = _chunk(self.split, self.seed, self.size, index // _CHUNK)
        return Example(images[index % _CHUNK], labels[index % _CHUNK], f"scene_{index:05d}")

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(self.count))


@functools.lru_cache(maxsize=2)
def _chunk(split: str, seed: int, size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    base = split_key(split, seed)
    keys = jax.vmap(functools.partial(jax.random.fold_in, base))(np.arange(number * _CHUNK, (number + 1) * _CHUNK))
    scenes = _scenes(keys, size)
    images = np.clip(np.round((np.asarray(scenes.image) + 1.0) * 127.5), 0, 255).astype(np.uint8)
    return images, np.asarray(scenes.label)


_scenes = jax.jit(lambda keys, size: jax.vmap(lambda key: scene(key, size))(keys), static_argnums=1)
