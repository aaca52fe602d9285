"""Scenes of the tiny world as a data set of images and labels."""

import dataclasses
import functools
import itertools
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
        return next(self._examples(np.asarray([index])))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, self.count, _CHUNK):
            yield from itertools.islice(self._examples(np.arange(start, start + _CHUNK)), self.count - start)

    def _examples(self, indices: np.ndarray) -> Iterator[Example]:
        images, labels = _render(self.split, self.seed, self.size, indices)
        for index, image, label in zip(indices, images, labels, strict=True):
            yield Example(image, label, f"scene_{index:05d}")


def _render(split: str, seed: int, size: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keys = jax.vmap(functools.partial(jax.random.fold_in, split_key(split, seed)))(indices)
    scenes = _scenes(keys, size)
    images = np.clip(np.round((np.asarray(scenes.image) + 1.0) * 127.5), 0, 255).astype(np.uint8)
    return images, np.asarray(scenes.label)


_scenes = jax.jit(lambda keys, size: jax.vmap(lambda key: scene(key, size))(keys), static_argnums=1)
