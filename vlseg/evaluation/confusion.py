"""Intersection over union and accuracies of a whole data set, from pixel counts.

    state = zeros(num_classes)
    state = update(state, prediction, label)     # on the device, in or out of jit; or `merge` the states of several
    state = merge(state, count(prediction, label, num_classes))     # or on the host, where nothing is compiled
    print(compute(state).table(names))

Counts are exact up to 2**64 pixels without 64-bit mode: each is a pair of uint32.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlseg.errors import VocabularyError

HEADER = ("category", "IoU", "Acc", "pixels")


class Count(NamedTuple):
    """Counts [C] as low + 2**32 * high, both uint32 [C], of NumPy or JAX."""

    low: Any
    high: Any


class ConfusionCounts(NamedTuple):
    """Pixels per class over everything seen: where prediction and label agree, in predictions, in labels."""

    intersection: Count
    prediction: Count
    label: Count


@dataclass(frozen=True)
class SegmentationMetrics:
    """Scores in [0, 1], nan where nothing defines them.

    What takes names raises VocabularyError if they are not as many as the classes.

    Attributes:
        miou: mean of `iou` over the classes that occur in labels or in predictions.
        macc: mean of `accuracy` over the classes that occur in labels.
        aacc: the share of labelled pixels that are right.
        iou: per class, intersection / union over the data set.
        accuracy: per class, the share of its labelled pixels that are right.
        label_pixels: per class, its number of labelled pixels.
    """

    miou: float
    macc: float
    aacc: float
    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    label_pixels: tuple[int, ...]

    def table(self, names: Sequence[str]) -> str:
        """The scores in percent as aligned text, one line per class and three for the means; "-" where undefined."""
        rows = [HEADER]
        for name, iou, accuracy, pixels in self._rows(names):
            rows.append((name, _percent(iou), _percent(accuracy), f"{pixels:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{name:<{widths[0]}}  {iou:>{widths[1]}}  {accuracy:>{widths[2]}}  {pixels:>{widths[3]}}"
            for name, iou, accuracy, pixels in rows
        ]
        means = [f"{key} {_percent(value)}" for key, value in self._means().items()]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:], rule, *means])

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores for JSON: {"mIoU", "mAcc", "aAcc", "IoU": {name: score}, "Acc": {name: score}}, None for nan."""
        rows = self._rows(names)
        return {
            **{key: _or_none(value) for key, value in self._means().items()},
            "IoU": {name: _or_none(iou) for name, iou, _, _ in rows},
            "Acc": {name: _or_none(accuracy) for name, _, accuracy, _ in rows},
        }

    def to_csv(self, names: Sequence[str]) -> str:
        """The scores by class, in [0, 1] and empty where undefined: category, IoU, Acc, pixels."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        for name, iou, accuracy, pixels in self._rows(names):
            writer.writerow([name, *("" if math.isnan(value) else value for value in (iou, accuracy)), pixels])
        return text.getvalue()

    def _means(self) -> dict[str, float]:
        return {"mIoU": self.miou, "mAcc": self.macc, "aAcc": self.aacc}

    def _rows(self, names: Sequence[str]) -> list[tuple[str, float, float, int]]:
        if len(names) != len(self.iou):
            raise VocabularyError(f"{len(names)} names for the scores of {len(self.iou)} classes; pass one per class")
        return list(zip(names, self.iou, self.accuracy, self.label_pixels, strict=True))


def zeros(num_classes: int) -> ConfusionCounts:
    """Counts of nothing."""
    zero = np.zeros(num_classes, np.uint32)
    return ConfusionCounts(*[Count(zero, zero)] * 3)


def count(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> ConfusionCounts:
    """What `update` adds, counted on the host: images of many sizes need no program each.

    Args:
        prediction, label: as for `update`; pixels whose label is outside [0, num_classes) do not count.
    """
    counted = (label >= 0) & (label < num_classes)
    known = counted & (prediction >= 0) & (prediction < num_classes)
    return ConfusionCounts(
        *(
            _counted(np.bincount(ids, minlength=num_classes))
            for ids in (label[counted & (prediction == label)], prediction[known], label[counted])
        )
    )


_PIXELS = 2**20  # that `matrix` looks at together, since np.bincount makes int64 of what it is given


def matrix(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of one picture by label and prediction, counted on the host.

    Args:
        prediction, label: int [H, W], as for `count`.

    Returns:
        int64 [C, C + 1]: rows are labels and columns predictions, of which the last is none of the classes.
    """
    found = np.zeros(num_classes * (num_classes + 1), np.int64)
    rows = max(1, _PIXELS // max(1, label.shape[1]))
    for start in range(0, len(label), rows):
        ids, given = label[start : start + rows], prediction[start : start + rows]
        counted = (ids >= 0) & (ids < num_classes)
        ids, given = ids[counted].astype(np.int64), given[counted]
        column = np.where((given >= 0) & (given < num_classes), given, num_classes)
        found += np.bincount(ids * (num_classes + 1) + column, minlength=len(found))
    return found.reshape(num_classes, num_classes + 1)


def of_matrix(matrix: np.ndarray) -> ConfusionCounts:
    """The counts of a `matrix`, or of the sum of some: those that `count` makes of the same pixels."""
    columns = matrix[:, :-1]
    return ConfusionCounts(*map(_counted, (np.diagonal(columns), columns.sum(axis=0), matrix.sum(axis=1))))


def _counted(numbers: np.ndarray) -> Count:
    return Count((numbers & 0xFFFFFFFF).astype(np.uint32), (numbers >> 32).astype(np.uint32))


def update(state: ConfusionCounts, prediction: jax.Array, label: jax.Array, ignore_label: int = 255) -> ConfusionCounts:
    """The counts with the pixels of `prediction` and `label` added; pure and jittable.

    Args:
        state: the counts so far, of C classes.
        prediction: int [...], class ids. An id outside [0, C) is a wrong prediction of no class.
        label: int [...], the same shape, fewer than 2**31 pixels. Pixels labelled `ignore_label` or outside [0, C)
            count nowhere, neither as labels nor as predictions.
        ignore_label: the label of pixels that do not count.
    """
    num_classes = state.label.low.shape[0]
    prediction, label = prediction.reshape(-1).astype(jnp.int32), label.reshape(-1).astype(jnp.int32)
    counted = (label >= 0) & (label < num_classes) & (label != ignore_label)
    seen = ConfusionCounts(
        intersection=_histogram(jnp.where(counted & (prediction == label), label, -1), num_classes),
        prediction=_histogram(jnp.where(counted, prediction, -1), num_classes),
        label=_histogram(jnp.where(counted, label, -1), num_classes),
    )
    return merge(state, seen)


def merge(a: ConfusionCounts, b: ConfusionCounts) -> ConfusionCounts:
    """The counts of what `a` and `b` saw together."""
    return ConfusionCounts(*map(add, a, b))


def compute(state: ConfusionCounts) -> SegmentationMetrics:
    """The scores, computed on the host in exact integers and float64 (alinlab/ifseg, mmsegmentation)."""
    intersection, prediction, label = map(to_ints, jax.device_get(state))
    union = [p + t - i for i, p, t in zip(intersection, prediction, label, strict=True)]
    iou, accuracy = _ratios(intersection, union), _ratios(intersection, label)
    return SegmentationMetrics(
        miou=_mean(iou),
        macc=_mean(accuracy),
        aacc=_ratios([sum(intersection)], [sum(label)])[0],
        iou=iou,
        accuracy=accuracy,
        label_pixels=tuple(label),
    )


def histogram_by_scatter(ids: jax.Array, num_classes: int) -> jax.Array:
    """How often each of [0, num_classes) is in int32 [N]: uint32 [num_classes]. Fast where adding in place is cheap."""
    bins = jnp.where((ids >= 0) & (ids < num_classes), ids, num_classes)
    return jnp.zeros(num_classes + 1, jnp.uint32).at[bins].add(1)[:num_classes]


def histogram_by_comparison(ids: jax.Array, num_classes: int) -> jax.Array:
    """`histogram_by_scatter` as compare and sum, which accelerators fuse into one pass without conflicting writes."""
    return jnp.sum(jnp.arange(num_classes)[:, None] == ids[None, :], axis=1, dtype=jnp.uint32)


def _histogram(ids: jax.Array, num_classes: int) -> Count:
    low = jax.lax.platform_dependent(
        ids,
        # The CPU compiler would store all num_classes x N comparisons.
        cpu=lambda ids: histogram_by_scatter(ids, num_classes),
        default=lambda ids: histogram_by_comparison(ids, num_classes),
    )
    return Count(low, jnp.zeros_like(low))


def add(a: Count, b: Count) -> Count:
    """The sum."""
    low = a.low + b.low
    carry = (low < a.low).astype(jnp.uint32)
    return Count(low, a.high + b.high + carry)


def to_ints(count: Count) -> list[int]:
    """As Python's integers, which have no limit."""
    return [low + (high << 32) for low, high in zip(count.low.tolist(), count.high.tolist(), strict=True)]


def _ratios(parts: Sequence[int], wholes: Sequence[int]) -> tuple[float, ...]:
    return tuple(part / whole if whole else math.nan for part, whole in zip(parts, wholes, strict=True))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
