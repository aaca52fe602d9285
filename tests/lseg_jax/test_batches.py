"""Which images are drawn how often."""

import dataclasses

import numpy as np
import pytest

from lseg_jax.batches import classes_shown, count_labels, named_batches
from lseg_jax.settings import Training
from vlseg.data.examples import Example

SIDE = 32
SETTINGS = Training(steps=1, batch_size=10, base_size=SIDE, crop_size=SIDE, scale_range=(1.0, 1.0))


@dataclasses.dataclass
class Flat:
    """Images whose grey level is their number; the label is the same all over but for a pixel of another class."""

    labels: list[tuple[int, int]]
    names: tuple[str, ...] = ("a", "b", "c", "unseen")
    ignore_label: int = 255
    start: int = 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        most, pixel = self.labels[index]
        label = np.full((SIDE, SIDE), most, np.int32)
        label[3, 4] = pixel
        return Example(np.full((SIDE, SIDE, 3), self.start + index, np.uint8), label, f"{index}")

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


PLAIN = Flat([(0, 0)] * 7 + [(0, 1)] * 2 + [(255, 2)])


def drawn(datasets, settings, steps=200, **options):
    """How often each image is drawn, by its grey level, and which label sets it came with."""
    shown = [classes_shown(dataset) for dataset in datasets] if settings.class_share else []
    batch = named_batches(datasets, settings, shown, **options)
    counts, sets = {}, {}
    for step in range(steps):
        images, _, numbers = batch(step)
        for image, number in zip(images, numbers.tolist(), strict=True):
            level = int(image.max())
            counts[level] = counts.get(level, 0) + 1
            sets.setdefault(level, set()).add(number)
    return counts, sets


def test_the_classes_that_images_show():
    expected = [[True, False, False, False]] * 7 + [[True, True, False, False]] * 2 + [[False, False, True, False]]
    np.testing.assert_array_equal(classes_shown(PLAIN), expected)
    assert count_labels(PLAIN).tolist() == [9 * SIDE**2 - 2, 2, 1, 0]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_share_of_the_images_is_drawn_by_class(share):
    settings = dataclasses.replace(SETTINGS, class_share=share)
    counts, _ = drawn([PLAIN], settings)
    # Three classes occur: in nine images, in two of these, and in one.
    expected = [(1 - share) / 10 + share / 3 / 9] * 7
    expected += [(1 - share) / 10 + share / 3 / 9 + share / 3 / 2] * 2 + [(1 - share) / 10 + share / 3]
    found = np.array([counts.get(level, 0) for level in range(10)]) / 2000
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.002)


def test_data_sets_keep_their_weights_and_label_sets():
    other = Flat([(1, 1)] * 3 + [(0, 2)], start=100)
    settings = dataclasses.replace(SETTINGS, class_share=0.5)
    for weights, expected in ((None, 4 / 14), ([1.0, 3.0], 0.75)):
        counts, sets = drawn([PLAIN, other], settings, weights=weights)
        second = sum(count for level, count in counts.items() if level >= 100)
        np.testing.assert_allclose(second / 2000, expected, rtol=0, atol=0.002)
        assert all(numbers == {int(level >= 100)} for level, numbers in sets.items())
        assert counts[103] > 2 * counts[100]


def test_without_a_share_every_image_comes_once_an_epoch():
    counts, _ = drawn([PLAIN], SETTINGS, steps=30)
    assert counts == dict.fromkeys(range(10), 30)
