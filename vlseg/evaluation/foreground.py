"""mIoU and FB-IoU of one class against everything else, accumulated as HSNet does (juhongm999/hsnet).

Intersections and unions of class and rest are summed by the class that was asked for; mIoU is the mean of the classes'
IoU, FB-IoU the mean of the IoU of all class pixels and of all other pixels together. States are device arrays that
merge, exact up to 2**64 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlseg.data.examples import IGNORE_LABEL
from vlseg.evaluation.confusion import Count, add, to_ints


class ForegroundCounts(NamedTuple):
    """Pixels, each a count of shape [2 * C]: those of "others" by class, then those of the classes."""

    intersection: Count
    union: Count


@dataclass(frozen=True)
class ForegroundMetrics:
    """Scores in [0, 1].

    Attributes:
        miou: mean of `iou`.
        fb_iou: mean of the IoU of foreground and background; nan if there was no pixel.
        iou: by class, in the order of the classes asked for; 0 for a class that neither occurs nor is predicted.
    """

    miou: float
    fb_iou: float
    iou: tuple[float, ...]

    def summary(self) -> str:
        """The means in percent."""
        return f"mIoU {100 * self.miou:.2f}, FB-IoU {100 * self.fb_iou:.2f}"

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """For JSON, None for nan."""
        fb_iou = None if math.isnan(self.fb_iou) else self.fb_iou
        return {"mIoU": self.miou, "FB-IoU": fb_iou, "IoU": dict(zip(names, self.iou, strict=True))}


def zeros(num_classes: int) -> ForegroundCounts:
    """Counts of nothing, for a benchmark of so many classes."""
    zero = jnp.zeros(2 * num_classes, jnp.uint32)
    return ForegroundCounts(Count(zero, zero), Count(zero, zero))


def update(
    state: ForegroundCounts,
    prediction: jax.Array,
    mask: jax.Array,
    class_ids: jax.Array,
    ignore_label: int = IGNORE_LABEL,
) -> ForegroundCounts:
    """The counts with episodes added; pure and jittable.

    Args:
        state: the counts so far, of C classes.
        prediction: int or bool [B, H, W], 1 where the class is seen.
        mask: int [B, H, W], 1 where it is, 0 where it is not, `ignore_label` where that does not count.
        class_ids: int [B] in [0, C), the class that each episode asks for.
        ignore_label: see `mask`.
    """
    num_classes = state.union.low.shape[0] // 2
    counted = mask != ignore_label
    intersections, unions = [], []
    for side in (0, 1):
        predicted, true = (prediction == side) & counted, mask == side
        intersections.append(jnp.sum(predicted & true, axis=(1, 2), dtype=jnp.uint32))
        unions.append(jnp.sum(predicted | true, axis=(1, 2), dtype=jnp.uint32))
    places = jnp.concatenate([class_ids, num_classes + class_ids])

    def seen(counts: list[jax.Array]) -> Count:
        # One by one: a sum over episodes could be more than 32 bits hold, a single image cannot.
        def step(total: Count, item: tuple[jax.Array, jax.Array]) -> tuple[Count, None]:
            place, count = item
            low = jnp.zeros_like(total.low).at[place].set(count)
            return add(total, Count(low, jnp.zeros_like(low))), None

        total, _ = jax.lax.scan(step, zeros(num_classes).union, (places, jnp.concatenate(counts)))
        return total

    return merge(state, ForegroundCounts(seen(intersections), seen(unions)))


def merge(a: ForegroundCounts, b: ForegroundCounts) -> ForegroundCounts:
    """The counts of what `a` and `b` saw together."""
    return ForegroundCounts(*map(add, a, b))


def compute(state: ForegroundCounts, class_ids: Sequence[int]) -> ForegroundMetrics:
    """The scores over the classes of a fold, on the host in exact integers and float64."""
    intersection, union = map(to_ints, jax.device_get(state))
    num_classes = len(union) // 2
    iou = tuple(intersection[num_classes + c] / max(union[num_classes + c], 1) for c in class_ids)
    sides = []
    for start in (0, num_classes):
        whole = sum(union[start + c] for c in class_ids)
        sides.append(sum(intersection[start + c] for c in class_ids) / whole if whole else math.nan)
    return ForegroundMetrics(sum(iou) / len(iou), sum(sides) / 2, iou)
