"""Labelled pictures in memory, and settings of training on them."""

import numpy as np

from lseg_jax.settings import Training
from vlseg.data.examples import Example

SIDE = 32
"""Of views."""

SETTINGS = Training(
    steps=60,
    batch_size=4,
    learning_rate=0.0025,
    optimizer="adamw",
    clip_norm=1.0,
    crop_size=SIDE,
    base_size=40,
    margin=0.1,
)


class Listed:
    """A data set in memory: pictures whose colours say the label, in an order of their own."""

    def __init__(self, count, names, ignore_label=255, seed=0):
        self.names, self.ignore_label, self.examples = names, ignore_label, []
        rng = np.random.default_rng(seed)
        colours = np.eye(3)[rng.permutation(3)] * 200
        for number in range(count):
            label = rng.integers(0, len(names), (3, 3)).repeat(13, 0).repeat(16, 1).astype(np.int32)
            image = colours[label].astype(np.uint8)
            label[:2] = ignore_label
            self.examples.append(Example(image, label, str(number)))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]

    def __iter__(self):
        return iter(self.examples)


TWO = [Listed(3, ("a", "b", "c"), seed=1), Listed(2, ("d", "e"), ignore_label=7, seed=5)]
