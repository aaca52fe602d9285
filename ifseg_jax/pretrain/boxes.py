"""What pre-training on photographs is told of a label map: which words are in it, and boxes around their parts.

Nothing else of a label map leaves this module: no mask takes part in pre-training.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

LEAST = 3e-4
"""Share of a picture below which a connected part has no box, unless it is the word's largest."""

MOST = 6
"""Boxes of a word in a picture: those of its largest connected parts."""

BACKGROUND = "background"
"""The word, if a data set has it, for what is outside all boxes of other words."""


class Boxes(NamedTuple):
    """Boxes of the words in a picture.

    words: int [n], indices into the names. corners: float32 [n, 4], left, top, right, bottom as shares of the picture.
    """

    words: np.ndarray
    corners: np.ndarray

    def mirrored(self) -> "Boxes":
        """Those of the picture seen in a mirror."""
        left, top, right, bottom = self.corners.T
        return Boxes(self.words, np.stack([1 - right, top, 1 - left, bottom], axis=1))

    @property
    def areas(self) -> np.ndarray:
        """Shares of the picture, float32 [n]."""
        return (self.corners[:, 2] - self.corners[:, 0]) * (self.corners[:, 3] - self.corners[:, 1])

    def among(self, chosen: np.ndarray) -> "Boxes":
        """Those that a mask bool [n] or indices choose."""
        return Boxes(self.words[chosen], self.corners[chosen])


def boxes_of(label: np.ndarray, names: int) -> Boxes:
    """The tight boxes of the connected parts of every word.

    Args:
        label: int [H, W]; values that are none of 0 to `names` - 1 do not count.
        names: number of the words.

    Returns:
        Of each word, in order, boxes of at most `MOST` parts, the largest first.
    """
    height, width = label.shape
    words, corners = [], []
    for word in np.unique(label):
        if not 0 <= word < names:
            continue
        parts, count = ndimage.label(label == word)
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-areas, kind="stable")[:MOST]
        places = ndimage.find_objects(parts)
        for rank, part in enumerate(order):
            if rank and areas[part] < LEAST * label.size:
                break
            rows, columns = places[part]
            words.append(word)
            corners.append((columns.start / width, rows.start / height, columns.stop / width, rows.stop / height))
    return Boxes(np.asarray(words, np.int64), np.asarray(corners, np.float32).reshape(-1, 4))
