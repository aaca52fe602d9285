import colorsys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.data.images import resize_image, resize_nearest
from vlseg.data.transforms import (
    PAD_LEVEL,
    crop_window,
    distort_colours,
    pad,
    random_crop,
    random_size,
    scale_and_crop,
)


class Scripted:
    """Stands in for a generator: hands out chosen numbers, so that a test decides what is random."""

    def __init__(self, *random, uniform=()):
        self._random, self._uniform = iter(random), iter(uniform)

    def random(self):
        return next(self._random)

    def uniform(self, low, high):
        return low + (high - low) * next(self._uniform)


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(8, 40), st.integers(8, 40), st.integers(0, 10**6))
def test_view_has_the_asked_size_and_types(height, width, view_height, view_width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = image[..., 0].astype(np.int32) // 64
    for min_side in (None, 0):
        view, view_label = random_crop(
            image, label, (view_height, view_width), np.random.default_rng(seed), min_side=min_side
        )
        assert view.shape == (view_height, view_width, 3) and view.dtype == np.uint8
        assert view_label.shape == (view_height, view_width) and view_label.dtype == np.int32
        assert set(np.unique(view_label)) <= set(np.unique(label)) | {255}


def test_same_seed_same_view_and_inputs_untouched():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    label = image[..., 0].astype(np.int32)
    before = image.copy(), label.copy()
    first, second, other = (random_crop(image, label, (32, 32), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def assert_picture_and_label_stay_together(padding, view):
    """Colours encode the label, so every pixel of a view tells which label it must have."""
    label = np.kron(np.arange(12).reshape(3, 4), np.ones((32, 32))).astype(np.int32)
    image = np.stack([20 + label * 20] * 3, axis=-1).astype(np.uint8)
    for seed in range(20):
        found, found_label = view(image, label, np.random.default_rng(seed))
        inside = found_label != 255
        agree = np.abs(found[..., 0].astype(int) - (20 + found_label * 20)) <= 10
        assert agree[inside].mean() > 0.85  # only borders between blocks are mixed
        assert (found[~inside] == padding).all()


def test_picture_and_label_stay_together(monkeypatch):
    monkeypatch.setattr("vlseg.data.transforms.distort_colours", lambda image, rng: image)
    assert_picture_and_label_stay_together(
        PAD_LEVEL, lambda image, label, rng: random_crop(image, label, (48, 48), rng, min_side=0)
    )


def test_the_official_default_never_pads():
    label = np.zeros((30, 45), np.int32)
    image = np.full((30, 45, 3), 9, np.uint8)
    assert all((random_crop(image, label, (64, 64), np.random.default_rng(s))[1] == 0).all() for s in range(30))
    padded = [random_crop(image, label, (64, 64), np.random.default_rng(s), min_side=0)[1] for s in range(30)]
    assert any((view == 255).any() for view in padded)
    assert any((view == 0).all() for view in padded)


def mirrored_half_the_time(side, view):
    """`view`, a function of image, label and generator, mirrors half of the views and leaves the others as they are."""
    label = np.arange(side * side, dtype=np.int32).reshape(side, side)
    image = np.stack([label % 251] * 3, axis=-1).astype(np.uint8)
    flipped = 0
    for seed in range(40):
        found, found_label = view(image, label, np.random.default_rng(seed))
        flips = np.array_equal(found_label, label[:, ::-1])
        assert flips or np.array_equal(found_label, label)
        np.testing.assert_array_equal(found[..., 0], found_label % 251)
        flipped += flips
    return 8 <= flipped <= 32


def test_flip_is_the_mirror_image(monkeypatch):
    monkeypatch.setattr("vlseg.data.transforms.distort_colours", lambda image, rng: image)
    assert mirrored_half_the_time(
        64, lambda image, label, rng: random_crop(image, label, (64, 64), rng, scale_range=(1, 1))
    )


def test_sizes_follow_the_scale():
    rng = np.random.default_rng(0)
    drawn = [random_size((480, 640), 512, 0, (0.5, 2.0), rng) for _ in range(400)]
    shorts = np.array([size[0] for size in drawn])
    assert 256 <= shorts.min() < 270 and 1000 < shorts.max() <= 1024
    assert all(abs(width - height * 4 / 3) <= 1 for height, width in drawn)
    assert min(random_size((480, 640), 512, 512, (0.5, 2.0), rng)[0] for _ in range(50)) == 512


def test_crop_avoids_a_dominant_category():
    # Category 1 fills a narrow band: most windows hold nothing but category 0.
    label = np.zeros((64, 640), np.int32)
    label[:, 300:330] = 1
    found = 0
    for seed in range(50):
        rows, columns = crop_window(label, (64, 64), 0.75, 255, np.random.default_rng(seed))
        found += (label[rows, columns] == 1).mean() > 0.25
    by_chance = 50 * (30 + 64 - 32) / 577
    assert found > 3 * by_chance


def test_crop_does_not_count_ignored_pixels():
    label = np.full((8, 32), 255, np.int32)
    label[:, 0], label[:, 1] = 0, 1
    starts = [crop_window(label, (8, 8), 0.75, 255, np.random.default_rng(seed))[1].start for seed in range(60)]
    assert sum(start == 0 for start in starts) > 10  # 1 of 25 by a single draw


def test_crop_starts_cover_every_place():
    label = np.tile(np.arange(10, dtype=np.int32), (10, 1))
    windows = {
        (rows.start, columns.start)
        for rows, columns in (crop_window(label, (8, 8), 0.75, 255, np.random.default_rng(seed)) for seed in range(200))
    }
    assert windows == {(y, x) for y in range(3) for x in range(3)}


def test_crop_of_a_small_picture_is_the_picture():
    rows, columns = crop_window(np.zeros((5, 50), np.int32), (8, 8), 0.75, 255, np.random.default_rng(0))
    assert (rows.start, rows.stop) == (0, 5)
    assert columns.stop - columns.start == 8


def test_pad():
    padded = pad(np.ones((2, 3, 3), np.uint8), (4, 3), 128)
    assert padded.shape == (4, 3, 3) and padded.dtype == np.uint8
    assert (padded[:2] == 1).all() and (padded[2:] == 128).all()
    assert pad(np.ones((5, 5), np.int32), (4, 3), 0).shape == (5, 5)


colours = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("draws", "uniform", "expected"),
    [
        # draws: contrast first?, brightness?, [contrast?], saturation?, hue?, [contrast?]
        ((0.9, 0.9, 0.9, 0.9, 0.9), (), lambda x: x),
        ((0.9, 0.1, 0.9, 0.9, 0.9), (1.0,), lambda x: np.clip(x + 32, 0, 255)),
        ((0.9, 0.1, 0.9, 0.9, 0.9), (0.0,), lambda x: np.clip(x - 32, 0, 255)),
        ((0.1, 0.9, 0.1, 0.9, 0.9), (1.0,), lambda x: np.clip(x * 1.5, 0, 255).astype(int)),
        ((0.9, 0.9, 0.9, 0.9, 0.1), (0.0,), lambda x: x // 2),
        ((0.1, 0.1, 0.1, 0.9, 0.9), (1.0, 0.0), lambda x: np.clip(x + 32, 0, 255) // 2),
    ],
)
def test_brightness_and_contrast(draws, uniform, expected):
    result = distort_colours(colours, Scripted(*draws, uniform=uniform))
    np.testing.assert_array_equal(result, expected(colours.astype(int)))


def test_hue_turns_and_saturation_scales():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turned = distort_colours(colours, Scripted(0.9, 0.9, 0.9, 0.1, 0.9, uniform=(1.0,)))
        pale = distort_colours(colours, Scripted(0.9, 0.9, 0.1, 0.9, 0.9, uniform=(0.0,)))
    for before, after, faded in zip(*(x.reshape(-1, 3) / 255 for x in (colours, turned, pale)), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb(hue + 0.1, saturation, value), atol=0.03)
        np.testing.assert_allclose(faded, colorsys.hsv_to_rgb(hue, saturation / 2, value), atol=0.03)


def test_view_is_the_resized_picture_where_nothing_else_happens(monkeypatch):
    monkeypatch.setattr("vlseg.data.transforms.distort_colours", lambda image, rng: image)
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    label = image[..., 0].astype(np.int32) % 7
    view, view_label = random_crop(image, label, (30, 30), np.random.default_rng(0), scale_range=(1, 1))
    mirrored = slice(None, None, 1 if np.array_equal(view_label, resize_nearest(label, (30, 30))) else -1)
    np.testing.assert_array_equal(view[:, mirrored], resize_image(image, (30, 30)))
    np.testing.assert_array_equal(view_label[:, mirrored], resize_nearest(label, (30, 30)))


# The views of LSeg


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_a_scaled_view_has_the_asked_size_and_types(height, width, base_size, crop_size, seed):
    image = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    label = image[..., 0].astype(np.int32) * 1000  # ids beyond a byte
    before = image.copy(), label.copy()
    arguments = {"base_size": base_size, "crop_size": crop_size, "ignore_label": -1}
    view, view_label = scale_and_crop(image, label, np.random.default_rng(seed), **arguments)
    assert view.shape == (crop_size, crop_size, 3) and view.dtype == np.uint8
    assert view_label.shape == (crop_size, crop_size) and view_label.dtype == np.int32
    assert set(np.unique(view_label)) <= set(np.unique(label)) | {-1}
    assert (view[view_label == -1] == 0).all()
    again = scale_and_crop(image, label, np.random.default_rng(seed), **arguments)
    np.testing.assert_array_equal(view, again[0])
    np.testing.assert_array_equal(view_label, again[1])
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_scaled_picture_and_label_stay_together():
    sizes = {"base_size": 130, "crop_size": 96}
    assert_picture_and_label_stay_together(0, lambda image, label, rng: scale_and_crop(image, label, rng, **sizes))


def test_scales_cover_their_range_and_padding_is_at_the_end():
    label = np.zeros((40, 80), np.int32)
    image = np.full((40, 80, 3), 9, np.uint8)
    widths = []
    for seed in range(300):
        _, view_label = scale_and_crop(image, label, np.random.default_rng(seed), base_size=40, crop_size=80)
        height, width = ((view_label == 0).any(axis=axis).sum() for axis in (1, 0))
        assert (view_label[:height, :width] == 0).all() and (view_label == 0).sum() == height * width
        assert height == int(width / 2 + 0.5)
        widths.append(width)
    assert min(widths) == 20 and max(widths) == 80
    counts = np.bincount(widths)[20:]
    assert (counts > 0).mean() > 0.95 and counts.max() < 20  # uniform: 4.9 of each on average


def test_a_scaled_view_is_mirrored_half_the_time():
    sizes = {"base_size": 32, "crop_size": 32, "scale_range": (1, 1)}
    assert mirrored_half_the_time(32, lambda image, label, rng: scale_and_crop(image, label, rng, **sizes))


def test_scaled_views_start_everywhere():
    label = np.arange(36 * 36, dtype=np.int32).reshape(36, 36)
    image = np.zeros((36, 36, 3), np.uint8)
    arguments = {"base_size": 36, "crop_size": 32, "scale_range": (1, 1)}
    views = [scale_and_crop(image, label, np.random.default_rng(seed), **arguments)[1] for seed in range(300)]
    assert {divmod(int(view.min()), 36) for view in views} == {(row, column) for row in range(5) for column in range(5)}
