"""Batches of labelled pictures, their targets, and how frequent labels are in them."""

import dataclasses
import shutil

import numpy as np
import pytest

from lseg_jax.batches import classes_shown, count_labels, named_batches, pair_batches
from tests.lseg_jax.listed import SETTINGS, SIDE, TWO, Listed
from vlseg.data.examples import IGNORED
from vlseg.data.sources import open_dataset
from vlseg.errors import ImageError


def test_labels_are_counted_without_those_that_do_not_count():
    dataset = TWO[0]
    counted = np.zeros(len(dataset.names), int)
    for number in range(len(dataset)):
        for label in dataset[number].label.reshape(-1):
            if label != dataset.ignore_label:
                counted[label] += 1
    np.testing.assert_array_equal(count_labels(dataset), counted)


def test_labels_are_counted_without_the_pixels_of_photographs(folder, tmp_path):
    whole = open_dataset(str(folder))
    expected = sum(np.bincount(example.label[example.label != 255], minlength=len(whole.names)) for example in whole)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    for path in (damaged / "images").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    dataset = open_dataset(str(damaged))
    with pytest.raises(ImageError):
        dataset[0]
    for found in (whole, dataset):
        np.testing.assert_array_equal(count_labels(found), expected)
        assert classes_shown(found).shape == (4, len(whole.names)) and classes_shown(found).all()


def test_batches_of_several_data_sets():
    settings = dataclasses.replace(SETTINGS, batch_size=2)
    batches = named_batches(TWO, settings)
    seen = [int(number) for step in range(5) for number in batches(step).sets]
    assert sorted(seen) == [0] * 6 + [1] * 4  # two epochs of three and two
    for first, second in zip(batches(3), named_batches(TWO, settings)(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(batches(0).images, batches(5).images)
    for step in range(5):
        images, targets, sets = batches(step)
        assert images.shape == (2, SIDE, SIDE, 3) and images.dtype == np.uint8
        assert targets.shape == (2, SIDE, SIDE) and targets.dtype == np.int32 == sets.dtype
        for target, number in zip(targets, sets, strict=True):
            assert set(np.unique(target)) <= {IGNORED, *range(len(TWO[number].names))}


def test_the_data_sets_own_ignored_label_does_not_count():
    whole = dataclasses.replace(SETTINGS, batch_size=1, base_size=SIDE, scale_range=(1.0, 1.0))
    data = Listed(1, ("a", "b", "c"), ignore_label=7)
    data.examples[0].label[:] = 7
    data.examples[0].label[10:20, 10:20] = 1
    target = named_batches([data], whole)(0).targets
    assert set(np.unique(target)) == {IGNORED, 1}
    pair = pair_batches(data, whole)(0)
    assert set(np.unique(pair.targets)) == {IGNORED, 1} and list(pair.sets) == [1]
    data.examples[0].label[:] = 7
    nothing = pair_batches(data, whole)(0)
    assert set(np.unique(nothing.targets)) == {IGNORED}


def test_pairs_ask_for_a_class_that_is_there():
    data = Listed(4, ("a", "b", "c"), seed=3)
    named, paired = (make for make in (named_batches([data], SETTINGS), pair_batches(data, SETTINGS)))
    asked = set()
    for step in range(8):
        # The same view, because it is drawn first.
        label, (images, targets, sets) = named(step).targets, paired(step)
        np.testing.assert_array_equal(images, named(step).images)
        for truth, target, chosen in zip(label, targets, sets, strict=True):
            np.testing.assert_array_equal(target, np.where(truth == IGNORED, IGNORED, truth == chosen))
            assert (target == 1).any()
        asked |= set(sets.tolist())
    assert asked == {0, 1, 2}
