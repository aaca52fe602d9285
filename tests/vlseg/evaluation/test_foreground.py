"""mIoU and FB-IoU against HSNet's way of summing, written out in NumPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.evaluation import foreground
from vlseg.evaluation.confusion import Count

CLASSES = 6


def plain(episodes, class_ids):
    """HSNet: a buffer of [background or foreground, class], and IoU of classes without a union is 0."""
    intersection, union = np.zeros((2, CLASSES)), np.zeros((2, CLASSES))
    for predicted, mask, class_id in episodes:
        predicted = np.where(mask == 255, 255, predicted)
        for side in (0, 1):
            both = ((predicted == side) & (mask == side)).sum()
            intersection[side, class_id] += both
            union[side, class_id] += (predicted == side).sum() + (mask == side).sum() - both
    asked = list(class_ids)
    miou = (intersection / np.maximum(union, 1))[1, asked].mean()
    with np.errstate(invalid="ignore"):
        sides = intersection[:, asked].sum(axis=1) / union[:, asked].sum(axis=1)
    return miou, sides.mean()


def drawn(seed, count, ignored=0.1):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (count, 5, 7))
    masks[rng.random(masks.shape) < ignored] = 255
    predicted = rng.integers(0, 2, masks.shape)
    return predicted, masks, rng.integers(0, CLASSES, count)


update = jax.jit(foreground.update)


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sets(st.integers(0, CLASSES - 1), min_size=1).map(sorted),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_as_hsnet_sums(seed, count, class_ids, ignored):
    predicted, masks, classes = drawn(seed, count, ignored)
    state = update(foreground.zeros(CLASSES), predicted, masks, classes)
    metrics = foreground.compute(state, class_ids)
    miou, fb_iou = plain(zip(predicted, masks, classes, strict=True), class_ids)
    assert metrics.miou == pytest.approx(miou, abs=1e-12)
    assert metrics.fb_iou == pytest.approx(fb_iou, abs=1e-12, nan_ok=True)
    assert np.mean(metrics.iou) == pytest.approx(miou)


def test_batches_and_hosts_make_no_difference():
    predicted, masks, classes = drawn(0, 12)
    whole = update(foreground.zeros(CLASSES), predicted, masks, classes)
    parts = [update(foreground.zeros(CLASSES), *(a[i : i + 4] for a in (predicted, masks, classes))) for i in (8, 0, 4)]
    for ours, expected in zip(
        jax.tree.leaves(functools.reduce(foreground.merge, parts)), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_more_pixels_than_32_bits_hold():
    full = jnp.full(2 * CLASSES, 2**32 - 5, jnp.uint32)
    state = foreground.ForegroundCounts(Count(full, jnp.zeros_like(full)), Count(full, jnp.zeros_like(full)))
    ones, classes = np.ones((2, 5, 7), int), np.array([3, 3])
    state = update(state, np.zeros_like(ones), ones, classes)
    metrics = foreground.compute(state, [3])
    assert metrics.iou[0] == (2**32 - 5) / (2**32 - 5 + 70)


def test_summaries():
    metrics = foreground.ForegroundMetrics(0.5, math.nan, (0.25, 0.75))
    assert metrics.summary() == "mIoU 50.00, FB-IoU nan"
    assert metrics.to_dict(["cat", "dog"]) == {"mIoU": 0.5, "FB-IoU": None, "IoU": {"cat": 0.25, "dog": 0.75}}
