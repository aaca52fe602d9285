"""What an evaluation shows beside scores: which class was taken for which, and how every picture did.

A picture's mIoU is that of `vlseg.evaluation.confusion` over it alone: the mean over the classes that occur in its
label or its prediction. Pictures are sorted by it, the worst first; then by the share of right pixels, then by place.

Memory does not grow with the pictures but for a line each: of the worst ones the predictions are kept, compressed, and
photographs and labels are read again when they are drawn.
"""

import base64
import bisect
import json
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import distributed
from vlseg.errors import ConfigError
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import Count

WORST = 10
"""Pictures that are kept to be drawn."""

MAX_CLASSES = 2000
"""Of a matrix, which is counted anew for every picture."""


class PictureScore(NamedTuple):
    """Scores of one picture in [0, 1], nan where no pixel of it counts.

    place: in the data set. name: there. pixels: that count.
    """

    place: int
    name: str
    miou: float
    aacc: float
    pixels: int

    @property
    def order(self) -> tuple[bool, float, float, int]:
        """What pictures are sorted by."""
        undefined = math.isnan(self.miou)
        return (undefined, *((0.0, 0.0) if undefined else (self.miou, self.aacc)), self.place)


class Findings(NamedTuple):
    """A whole evaluation.

    matrix: int64 [S, S + 1], pixels by label and prediction, of which the last column is none of the classes.
    scores: of all pictures, the worst first.
    worst: of the first of them the predictions int32 [H, W], in [0, S], of which S is none of the classes.
    """

    matrix: NDArray[np.int64]
    scores: tuple[PictureScore, ...]
    worst: tuple[NDArray[np.int32], ...]


class Report:
    """Takes in the pictures of one process."""

    def __init__(self, classes: int, worst: int = WORST) -> None:
        """Of no picture yet.

        Args:
            classes: S, that are scored. worst: pictures to be kept.

        Raises:
            ConfigError: there are too many classes.
        """
        if classes > MAX_CLASSES:
            raise ConfigError(
                f"a report has a matrix of at most {MAX_CLASSES:,} classes, and {classes:,} are scored: leave --report "
                "out, or choose some with --score_labels"
            )
        self._classes, self._most = classes, worst
        self._matrix = np.zeros((classes, classes + 1), np.int64)
        self._scores: list[PictureScore] = []
        self._kept: list[tuple[PictureScore, _Packed]] = []

    def add(self, place: int, name: str, prediction: NDArray[np.int32], label: NDArray[np.int32]) -> None:
        """Takes in a picture.

        Args:
            place: in the data set. name: there.
            prediction, label: [H, W]; pixels whose label is outside of [0, S) do not count, and predictions outside are
                none of the classes.
        """
        matrix = confusion.matrix(prediction, label, self._classes)
        metrics = confusion.compute(confusion.of_matrix(matrix))
        score = PictureScore(place, name, metrics.miou, metrics.aacc, int(matrix.sum()))
        self._matrix += matrix
        self._scores.append(score)
        worse_than_one = len(self._kept) < self._most or score.order < self._kept[-1][0].order
        if score.pixels and worse_than_one:
            rank = bisect.bisect([kept.order for kept, _ in self._kept], score.order)
            self._kept.insert(rank, (score, _packed(prediction, self._classes)))
            del self._kept[self._most :]

    def of_all(self) -> Findings:
        """What all processes have taken in; all call this together and get the same."""
        low, high = (self._matrix & 0xFFFFFFFF).astype(np.uint32), (self._matrix >> 32).astype(np.uint32)
        count = distributed.merged(Count(low.ravel(), high.ravel()), confusion.add)
        matrix = np.array(confusion.to_ints(count), np.int64).reshape(self._matrix.shape)
        lines = distributed.of_all([json.dumps(score) for score in self._scores])
        scores = sorted((PictureScore(*json.loads(line)) for line in lines), key=lambda score: score.order)
        worst = [score for score in scores[: self._most] if score.pixels]
        # Whose it is sends a prediction, so that there are `worst` in all, however many processes there are.
        own = [json.dumps([score.place, *packed.as_text()]) for score, packed in self._kept if score in worst]
        packed = {place: _Packed.of_text(*rest) for place, *rest in map(json.loads, distributed.of_all(own))}
        return Findings(matrix, tuple(scores), tuple(packed[score.place].unpacked() for score in worst))


class _Packed(NamedTuple):
    """A label map, compressed."""

    shape: Sequence[int]
    content: bytes

    def unpacked(self) -> NDArray[np.int32]:
        return np.frombuffer(zlib.decompress(self.content), np.uint16).reshape(self.shape).astype(np.int32)

    def as_text(self) -> tuple[Sequence[int], str]:
        return self.shape, base64.b64encode(self.content).decode()

    @classmethod
    def of_text(cls, shape: Sequence[int], text: str) -> "_Packed":
        return cls(shape, base64.b64decode(text))


def _packed(prediction: NDArray[np.int32], classes: int) -> _Packed:
    known = (prediction >= 0) & (prediction < classes)
    return _Packed(prediction.shape, zlib.compress(np.where(known, prediction, classes).astype(np.uint16).tobytes(), 1))
