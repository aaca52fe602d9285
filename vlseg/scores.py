"""The scores of all labels at all pixels of one image, of which what is asked for is computed."""

import abc
from typing import ClassVar

import numpy as np

from vlseg.evaluation.crf import CRF, refine

NO_LABEL = -1
"""The label of pixels whose scores are not numbers."""


class Scores(abc.ABC):
    """The scores of all N labels at all pixels [H, W] of one image.

    Models override what they can give without having all scores at once.

    Attributes:
        kind: what `top` gives, "probabilities", or "similarities" of pixel and label.
    """

    kind: ClassVar[str] = "probabilities"

    @abc.abstractmethod
    def probabilities(self) -> np.ndarray:
        """float32 [H, W, N]."""

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best labels of every pixel, best first; of equal ones the first comes first.

        Returns:
            int32 [H, W, count] and their scores float32 [H, W, count], see `kind`. A score that is not a number is no
            label's: -1.
        """
        return _best(self.probabilities(), count)

    def most_probable(self, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best label of every pixel int32 [H, W], and its probability among all labels float32 [H, W].

        Args:
            among: int [n], ascending: the labels that a pixel may have, and among which its probability is meant.
        """
        probabilities = self.probabilities()
        if among is None:
            labels, highest = _best(probabilities, 1)
            return labels[..., 0], highest[..., 0]
        allowed = probabilities[..., among]
        labels, highest = _best(allowed, 1)
        return chosen(among, labels[..., 0]), highest[..., 0] / allowed.sum(axis=-1)

    def label_map(self) -> np.ndarray:
        """The best label of every pixel, int32 [H, W]."""
        return self.top(1)[0][..., 0]


def _best(probabilities: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """See `Scores.top`; on the host, where nothing is compiled for the size of an image."""
    shape = (*probabilities.shape[:2], count)
    labels, scores = np.empty(shape, np.int32), np.empty(shape, np.float32)
    for row, best, highest in zip(probabilities, labels, scores, strict=True):
        best[:] = row.argmax(-1)[:, None] if count == 1 else np.argsort(-row, axis=-1, kind="stable")[:, :count]
        highest[:] = np.take_along_axis(row, best, axis=-1)
    labels[np.isnan(scores)] = NO_LABEL
    return labels, scores


def chosen(among: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The labels int32 [...] at some places in `among`, int [n]; `NO_LABEL` where the place is that."""
    return np.append(among, NO_LABEL).astype(np.int32)[places]


class RefinedScores(Scores):
    """Scores whose probabilities a dense CRF has refined: all is made of these, `top` too.

    The best labels are kept once they are found. The probabilities are not, because they are large.
    """

    def __init__(self, scores: Scores, image: np.ndarray, settings: CRF) -> None:
        """Takes the scores of an image uint8 [H, W, 3]; nothing is computed before it is asked for."""
        self._scores, self._image, self._settings = scores, image, settings
        self._top: tuple[np.ndarray, np.ndarray] | None = None

    def probabilities(self) -> np.ndarray:
        return refine(self._scores.probabilities(), self._image, self._settings)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        if self._top is None or self._top[0].shape[-1] < count:
            self._top = super().top(count)
        labels, scores = self._top
        return labels[..., :count], scores[..., :count]

    def most_probable(self, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        if among is not None:
            return super().most_probable(among)
        labels, probabilities = self.top(1)
        return labels[..., 0], probabilities[..., 0]
