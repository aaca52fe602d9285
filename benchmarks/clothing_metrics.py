"""Scores of the comparisons on the clothing data set, from counts of pixels; and their tables."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Precision and recall of finding some pixels by a score below a threshold, float64 [T] each.

    A threshold below which no pixel is has no precision (nan). base: the precision of taking all pixels.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    base: float

    @property
    def f1(self) -> np.ndarray:
        """Harmonic means, nan where there is no precision."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total != 0)

    @property
    def best(self) -> int:
        """Index of the best F1."""
        return int(np.nanargmax(self.f1))

    @property
    def area(self) -> float:
        """Average precision: the sum of precision times the recall that each threshold adds."""
        gained = np.diff(self.recall, prepend=0.0)
        return float(np.sum(np.where(gained > 0, self.precision, 0.0) * gained))


def curve(counts: np.ndarray, edges: np.ndarray) -> Curve:
    """The curve of scores that were counted in bins.

    Args:
        counts: int [2, K], pixels to be found, and pixels not to be found, by bin of their score.
        edges: float [K + 1] of the bins. The thresholds are all but the first.
    """
    found, wrong = np.cumsum(counts, axis=1).astype(np.float64)
    taken = found + wrong
    precision = np.divide(found, taken, out=np.full_like(taken, np.nan), where=taken > 0)
    return Curve(edges[1:], precision, found / found[-1], float(found[-1] / taken[-1]))


def passing(counts: np.ndarray, edges: np.ndarray, threshold: float) -> np.ndarray:
    """The share of pixels [...] whose score is at least a threshold, of counts [..., K] by bin of their score.

    The threshold counts as the nearest edge of a bin. nan where there is no pixel.
    """
    place = int(np.argmin(np.abs(edges - threshold)))
    total = counts.sum(axis=-1)
    above = counts[..., place:].sum(axis=-1)
    return np.divide(above, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def ratio(part: float, whole: float) -> float:
    """The quotient, nan if there is nothing to divide by."""
    return part / whole if whole else math.nan


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation over seeds; "-" of no value."""
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        return "-"
    deviation = f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else ""
    return f"{statistics.mean(kept):.{digits}f}{deviation}"


def cell(value: Any) -> str:
    """A cell of a table: numbers with one decimal, "-" for nan."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.1f}"
    return str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
