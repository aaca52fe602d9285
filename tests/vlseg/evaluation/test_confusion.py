import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.errors import VocabularyError
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import ConfusionCounts, Count, compute, zeros

C = 5
update = jax.jit(confusion.update, static_argnames="ignore_label")
merge = jax.jit(confusion.merge)


def oracle(pairs, num_classes, ignore_label=255):
    """Scores by the definition, class by class over all pixels of a list of (prediction, label)."""
    prediction = np.concatenate([p.reshape(-1) for p, _ in pairs])
    label = np.concatenate([t.reshape(-1) for _, t in pairs])
    prediction, label = prediction[label != ignore_label], label[label != ignore_label]
    iou, accuracy = [], []
    for c in range(num_classes):
        inter, union = np.sum((prediction == c) & (label == c)), np.sum((prediction == c) | (label == c))
        iou.append(inter / union if union else np.nan)
        accuracy.append(inter / np.sum(label == c) if np.sum(label == c) else np.nan)
    return np.nanmean(iou), np.nanmean(accuracy), np.mean(prediction == label) if len(label) else np.nan, iou, accuracy


def random_pair(seed, shape=(2, 6, 7)):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 3, 255], shape, p=[0.4, 0.2, 0.2, 0.1, 0.1]).astype(np.int32)
    prediction = np.where(rng.random(shape) < 0.6, np.minimum(label, C - 1), rng.integers(0, C, shape))
    return prediction.astype(np.int32), label


def values(state):
    return [[int(low) + (int(high) << 32) for low, high in zip(*count, strict=True)] for count in state]


def counts(numbers):
    """A state whose three counts are the given Python integers."""
    return ConfusionCounts(
        *(
            Count(jnp.array([n % 2**32 for n in row], jnp.uint32), jnp.array([n >> 32 for n in row], jnp.uint32))
            for row in numbers
        )
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_scores_are_those_of_the_definition(seeds):
    pairs = [random_pair(seed) for seed in seeds]
    state = zeros(C)
    for prediction, label in pairs:
        state = update(state, prediction, label)
    metrics = compute(state)
    miou, macc, aacc, iou, accuracy = oracle(pairs, C)
    np.testing.assert_allclose([metrics.miou, metrics.macc, metrics.aacc], [miou, macc, aacc], rtol=1e-14)
    np.testing.assert_allclose(metrics.iou, iou, rtol=1e-14)
    np.testing.assert_allclose(metrics.accuracy, accuracy, rtol=1e-14)


def test_a_case_by_hand():
    prediction = jnp.array([[0, 0, 1], [1, 2, 2]])
    label = jnp.array([[0, 1, 1], [255, 255, 2]])
    metrics = compute(update(zeros(4), prediction, label))
    assert metrics.iou[:3] == (1 / 2, 1 / 2, 1)
    assert math.isnan(metrics.iou[3])
    table = metrics.to_csv(["a", "b, or c", "d", "e"]).splitlines()
    assert table == ["category,IoU,Acc,pixels", "a,0.5,1.0,1", '"b, or c",0.5,0.5,2', "d,1.0,1.0,1", "e,,,0"]
    assert metrics.miou == pytest.approx(2 / 3)
    assert metrics.macc == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert metrics.aacc == 3 / 4
    assert metrics.label_pixels == (1, 2, 1, 0)


def test_a_class_only_predicted_counts_for_miou_but_not_for_macc():
    metrics = compute(update(zeros(3), jnp.array([0, 1]), jnp.array([0, 0])))
    assert metrics.iou[:2] == (1 / 2, 0)
    assert metrics.miou == 1 / 4
    assert metrics.macc == 1 / 2
    assert math.isnan(metrics.accuracy[1])


def test_nothing_seen_is_nan_without_warnings(recwarn):
    for state in (zeros(3), update(zeros(3), jnp.array([1, 2]), jnp.array([255, 255]))):
        metrics = compute(state)
        assert all(math.isnan(x) for x in (metrics.miou, metrics.macc, metrics.aacc, *metrics.iou))
    assert not recwarn


def test_another_ignore_label_and_ids_outside():
    state = update(zeros(3), jnp.array([0, 0, 9, -1, 2]), jnp.array([0, 1, 2, 2, 7]), ignore_label=1)
    assert values(state) == [[1, 0, 0], [1, 0, 0], [1, 0, 2]]
    assert values(update(zeros(3), jnp.array([0, 1]), jnp.array([-1, 3]), ignore_label=-1)) == [[0] * 3] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint16])
def test_integer_types(dtype):
    prediction, label = random_pair(0)
    expected = values(confusion.update(zeros(C), prediction, label))  # not compiled as a whole
    assert values(update(zeros(C), prediction.astype(dtype), label.astype(dtype))) == expected


@pytest.mark.parametrize("histogram", [confusion.histogram_by_scatter, confusion.histogram_by_comparison])
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_both_histograms(histogram, size):
    ids = np.random.default_rng(size).integers(-3, 9, size).astype(np.int32)
    result = jax.jit(histogram, static_argnums=1)(ids, 6)
    assert result.dtype == jnp.uint32
    np.testing.assert_array_equal(result, [(ids == c).sum() for c in range(6)])


def test_the_comparison_compiles_into_the_update_for_accelerators():
    lowered = jax.jit(update).trace(zeros(C), *map(jnp.asarray, random_pair(0)))
    assert "scatter" in lowered.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("tpu", "cuda"):
        assert "scatter" not in lowered.lower(lowering_platforms=(platform,)).as_text()


big = st.integers(0, 2**62)
rows = st.lists(st.tuples(big, big), min_size=3, max_size=3)


@settings(deadline=None)
@given(rows, rows, rows)
def test_merge_adds_exactly_in_any_grouping(a, b, c):
    a, b, c = map(counts, (a, b, c))
    expected = np.sum([np.array(values(state), object) for state in (a, b, c)], axis=0).tolist()
    assert values(merge(merge(a, b), c)) == values(merge(a, merge(b, c))) == values(merge(c, merge(b, a))) == expected


@pytest.mark.parametrize("start", [2**32 - 6, 2**32 - 5, 2**32 - 1, 2**33 - 3, 10**12, 2**53])
def test_counts_carry_past_32_bits(start):
    state = counts([[start] * 2] * 3)
    for _ in range(3):
        state = update(state, jnp.zeros(5, jnp.int32), jnp.zeros(5, jnp.int32))
    assert values(state) == [[start + 15, start]] * 3


def test_scores_of_huge_counts_are_exact():
    metrics = compute(counts([[10**12, 1], [3 * 10**12, 1], [2 * 10**12, 10**12]]))
    assert metrics.iou == (1 / 4, 1e-12)
    assert metrics.aacc == (10**12 + 1) / (3 * 10**12)
    assert metrics.label_pixels == (2 * 10**12, 10**12)


def test_updates_in_parts_equal_one_update():
    prediction, label = random_pair(4, (8, 9, 9))
    whole = update(zeros(C), prediction, label)
    halves = merge(update(zeros(C), prediction[:3], label[:3]), update(zeros(C), prediction[3:], label[3:]))
    assert values(halves) == values(whole)


def test_state_is_a_pytree_that_scans_and_sums_over_devices():
    prediction, label = random_pair(5, (4, 9, 9))
    scanned, _ = jax.lax.scan(lambda s, x: (update(s, *x), None), zeros(C), (prediction, label))
    assert values(scanned) == values(update(zeros(C), prediction, label))
    assert all(leaf.dtype == jnp.uint32 and leaf.shape == (C,) for leaf in jax.tree.leaves(scanned))


def test_table_is_aligned():
    metrics = compute(update(zeros(4), jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 1, 255])))
    lines = metrics.table(["a", "a much longer name", "sky", "café"]).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[0].split() == ["category", "IoU", "Acc", "pixels"]
    assert lines[2].split() == ["a", "50.00", "100.00", "1"]
    assert lines[4].split() == ["sky", "-", "-", "0"]
    assert lines[-3:] == ["mIoU 50.00", "mAcc 75.00", "aAcc 66.67"]


def test_dict_is_json_without_nan():
    metrics = compute(update(zeros(3), jnp.array([0, 0, 1]), jnp.array([0, 1, 1])))
    text = json.dumps(metrics.to_dict(["cat", "dog", "cow"]), allow_nan=False)
    assert json.loads(text) == {
        "mIoU": 0.5,
        "mAcc": 0.75,
        "aAcc": pytest.approx(2 / 3),
        "IoU": {"cat": 0.5, "dog": 0.5, "cow": None},
        "Acc": {"cat": 1.0, "dog": 0.5, "cow": None},
    }


def test_wrong_number_of_names():
    metrics = compute(zeros(3))
    for function in (metrics.table, metrics.to_dict):
        with pytest.raises(VocabularyError, match="2 names for the scores of 3 classes"):
            function(["cat", "dog"])


def test_counting_on_the_host_is_the_same():
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(-2, C + 3, (2, 40, 50))
    for expected, found in zip(
        values(confusion.update(zeros(C), prediction, label, -1)),
        values(confusion.merge(zeros(C), confusion.count(prediction, label, C))),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
