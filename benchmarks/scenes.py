"""Scenes of the tiny world of which not all classes are labelled."""

from collections.abc import Sequence

import numpy as np

from vlseg.data.examples import Example, LazySequence
from vlseg.data.tiny_world import NAMES, TinyWorldDataset


class Without(LazySequence[Example]):
    """Scenes in which the `ignored` classes are not labelled and the others count from 0."""

    def __init__(self, scenes: TinyWorldDataset, ignored: Sequence[int]) -> None:
        kept = [index for index in range(len(NAMES)) if index not in ignored]
        self.names = tuple(NAMES[index] for index in kept)
        self.ignore_label = scenes.ignore_label
        self._scenes, self._renamed = scenes, np.full(len(NAMES), self.ignore_label, np.int32)
        self._renamed[kept] = np.arange(len(kept))

    def __len__(self) -> int:
        return len(self._scenes)

    def _read(self, index: int) -> Example:
        example = self._scenes[index]
        return example._replace(label=self._renamed[example.label])
