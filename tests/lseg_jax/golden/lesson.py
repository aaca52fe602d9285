"""What the recorded training of LSeg is given: sizes, pictures, targets and label embeddings. Needs NumPy alone."""

from typing import NamedTuple

import numpy as np

from tests import golden_weights

SIZES = {"width": 16, "heads": 2, "layers": 4, "grid": 3, "reassembled": (4, 6, 8, 10), "features": 8}


class Case(NamedTuple):
    """A block, and the seed of pictures and targets.

    Seeds are such that the rounding of the authors' constants to float32 moves no value over the kink of an activation,
    which would change the gradient at once, and with it all that is learned later.
    """

    block: str
    depth: int
    activation: str
    seed: int


CASES = (Case("none", 0, "lrelu", 3), Case("depthwise", 2, "tanh", 3), Case("bottleneck", 2, "lrelu", 0))

EPOCHS, UPDATES, BATCHES, PROCESSES, PARTS, SIDE, LABELS = 3, 10, 2, 2, 2, 64, 4
"""UPDATES: of an epoch. PARTS: batches that are accumulated."""

RATE = 0.0007
"""Of the encoder, at the start."""


def examples(update: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [4, S, S, 3] and targets int32 [4, S, S], -1 where a pixel does not count: the fewer the later.

    The first accumulated batch has the even ones.
    """
    rng = np.random.default_rng([seed, update])
    count = PROCESSES * PARTS
    targets = rng.integers(0, LABELS, (count, 2, 2)).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2).astype(np.int32)
    colours = np.random.default_rng(99).integers(0, 200, (LABELS, 3))
    images = colours[targets] + rng.integers(0, 56, (*targets.shape, 3))
    for number in range(count):
        targets[number, : number * SIDE // 5] = -1
    return images.astype(np.uint8), targets


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`golden_weights.tensor` with two changes that keep rounding small beside updates.

    Blocks let logits through, so that the loss falls smoothly. Scales of layer norms are halved, because float32 has
    fewer digits after the point of what is near 1 than their small updates take.
    """
    values = golden_weights.tensor(name, shape)
    if shape == (1, 1, 3, 3):
        values *= np.float32(0.2)
        values[..., 1, 1] += np.float32(1)
    if name.endswith(("norm1.weight", "norm2.weight")):
        values *= np.float32(0.5)
    return values


def label_embeddings() -> np.ndarray:
    """float32 [N, 512], as a text encoder gives them."""
    return golden_weights.tensor("labels", (LABELS, 512))
