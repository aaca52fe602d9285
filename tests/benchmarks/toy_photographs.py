"""Features of photographs that a head can learn from."""

import numpy as np

from benchmarks.clothing_features import HEIGHT, LABEL_STRIDE, WIDTH, Features


def toy(photographs=3, seed=0, names=("a", "b", "c", "d")):
    """Features whose finest level has the label of each of its cells in one channel and noise in another."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (photographs, HEIGHT // 32, WIDTH // 32)).astype(np.uint8)
    labels = coarse.repeat(32 // LABEL_STRIDE, axis=1).repeat(32 // LABEL_STRIDE, axis=2)
    levels = []
    for stride in (4, 8, 16, 32):
        cells = coarse.repeat(32 // stride, axis=1).repeat(32 // stride, axis=2)
        level = np.stack([cells, rng.normal(size=cells.shape)], axis=-1).astype(np.float16)
        levels.append(np.stack([level, level[:, :, ::-1]], axis=1))
    return Features(names, tuple(levels), labels, "toy")
