import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.errors import ConfigError
from vlseg.evaluation import sliding_window
from vlseg.evaluation.sliding_window import (
    OFFICIAL_SCALES,
    Layout,
    Scheme,
    Window,
    batches,
    cut,
    merge,
    mirror,
    rescaled,
    views,
    window_size,
    windows,
)
from vlseg.evaluation.tiles import TILE

MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.5, 0.25, 0.2], np.float32)
BASE, CROP, LABELS = 70, 64, 3
GRID = CROP // 2
SIDES = st.integers(1, 250)
SCHEMES = st.sampled_from(
    [
        Scheme(BASE, CROP, scales=(0.5, 1.0, 1.75)),
        Scheme(300, CROP, 0.25),
        Scheme(200, 32, 1.0),
        Scheme(500, 512, scales=(0.5, 1.0), trim=True),
    ]
)


def picture(height, width):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(pixels):
    return (pixels / 255 - MEAN) / STD


def parameters():
    """Of a network that, like a real one, is neither linear nor the same everywhere in its window."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, LABELS), np.float32), rng.standard_normal((GRID, GRID, LABELS), np.float32)


def network(images, xp=np):
    """[K, h, w, 3] -> [K, h / 2, w / 2, LABELS]; h and w are at most CROP."""
    matrix, bias = parameters()
    rows, columns = images.shape[1] // 2, images.shape[2] // 2
    cells = images.reshape(-1, rows, 2, columns, 2, 3).mean((2, 4))
    return xp.tanh(cells @ matrix + bias[:rows, :columns])


def resized(x, height, width):
    """Bilinear with aligned corners: the mean of four neighbours, gathered pixel by pixel."""
    row = np.arange(height)[:, None, None] * ((x.shape[0] - 1) / max(height - 1, 1))
    column = np.arange(width)[None, :, None] * ((x.shape[1] - 1) / max(width - 1, 1))
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    bottom, right = np.minimum(top + 1, x.shape[0] - 1), np.minimum(left + 1, x.shape[1] - 1)
    down, along, channel = row - top, column - left, np.arange(x.shape[2])
    upper = x[top, left, channel] * (1 - along) + x[top, right, channel] * along
    lower = x[bottom, left, channel] * (1 - along) + x[bottom, right, channel] * along
    return upper * (1 - down) + lower * down


def padded(x, size):
    out = np.empty((max(x.shape[0], size[0]), max(x.shape[1], size[1]), 3))
    out[:] = -MEAN / STD
    out[: x.shape[0], : x.shape[1]] = x
    return out


def oracle(image, scales, flip, size=(CROP, CROP)):
    """The official evaluation as it is described, in float64; with windows of another size none is larger."""
    h, w = image.shape[:2]
    scores = np.zeros((h, w, LABELS))
    for scale in scales:
        long_side = math.ceil(BASE * scale)
        height = long_side if h > w else int(1.0 * h * long_side / w + 0.5)
        width = int(1.0 * w * long_side / h + 0.5) if h > w else long_side
        small = padded(resized(image, height, width), size)
        total, count = np.zeros((*small.shape[:2], LABELS)), np.zeros((*small.shape[:2], 1))
        stride = 42
        for row in range(math.ceil((small.shape[0] - CROP) / stride) + 1):
            for column in range(math.ceil((small.shape[1] - CROP) / stride) + 1):
                part = np.s_[row * stride : row * stride + CROP, column * stride : column * stride + CROP]
                window = padded(small[part], size)
                scored = resized(network(window[None])[0], *size)
                if flip:
                    scored = scored + resized(network(window[None, :, ::-1])[0], *size)[:, ::-1]
                total[part] += scored[: total[part].shape[0], : total[part].shape[1]]
                count[part] += 1
        scores += resized((total / count)[:height, :width], h, w)
    return scores


def grid_of(height, width, scheme):
    rows, columns = window_size(height, width, scheme)
    return rows // 2, columns // 2


def evaluated(image, scheme, batch_size=4):
    """The same with the functions under test."""
    height, width = image.shape[:2]
    found, grids = windows(height, width, scheme), []
    for batch in batches(found, batch_size):
        images = normalised(cut(views(image, batch, scheme))).astype(np.float32)
        grids.append(network(images, jnp))
        if scheme.flip:
            grids[-1] += mirror(network(mirror(images), jnp))
    scores = np.full((height + TILE, width + TILE, LABELS), np.nan, np.float32)
    total = jnp.full((TILE, TILE, LABELS), np.nan)  # nothing of it is used
    for tile, parts in Layout((height, width), found, scheme, grid_of(height, width, scheme)).tiles():
        for number, part in enumerate(parts):
            cells, corner = grids[part.window // batch_size], part.corner(batch_size)
            total = merge(total, number == 0, cells, corner, part.rows, part.columns)
        scores[tile.pixels] = total
    return scores[:height, :width]


@pytest.mark.parametrize(
    ("size", "scales", "flip"),
    [
        ((40, 100), (1.0,), True),
        ((120, 60), (0.5, 1.75), True),
        ((20, 30), (0.75, 1.25), False),
        ((64, 64), (1.0, 2.25), True),
        ((70, 70), (1.0,), False),
        ((140, 133), (0.75, 2.0), True),
        ((1, 128), (1.0,), False),
        ((63, 65), (0.9143, 0.92), True),
    ],
)
def test_scores_are_those_of_the_official_evaluation(size, scales, flip):
    image = picture(*size)
    found = evaluated(image, Scheme(BASE, CROP, scales=scales, flip=flip))
    np.testing.assert_allclose(found, oracle(normalised(image), scales, flip), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "scales", "flip", "window"),
    [
        ((120, 40), (0.8,), True, (64, 32)),
        ((40, 120), (0.4, 0.8), True, (32, 64)),
        ((140, 60), (1.75,), False, (64, 64)),
        ((200, 50), (0.5, 1.75), True, (64, 32)),
        ((90, 90), (0.4,), True, (32, 32)),
    ],
)
def test_trimmed_windows_end_soon_after_the_image(monkeypatch, size, scales, flip, window):
    monkeypatch.setattr(sliding_window, "TRIM_STEP", 32)
    image, scheme = picture(*size), Scheme(BASE, CROP, scales=scales, flip=flip, trim=True)
    assert window_size(*size, scheme) == window
    found = evaluated(image, scheme)
    np.testing.assert_allclose(found, oracle(normalised(image), scales, flip, window), rtol=0, atol=1e-4)


@settings(max_examples=50)
@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([(1.0,), (0.3, 0.7), OFFICIAL_SCALES]))
def test_trimmed_windows_have_few_sizes_and_hold_what_squares_hold(height, width, scales):
    scheme = Scheme(512, 512, scales=scales, trim=True)
    sizes = window_size(height, width, scheme)
    assert all(side in (128, 256, 384, 512) for side in sizes)
    square = dataclasses.replace(scheme, trim=False)
    assert window_size(height, width, square) == (512, 512)
    for window in windows(height, width, scheme):
        assert all(min(side, 512) <= most for side, most in zip(window[:2], sizes, strict=True))
    assert windows(height, width, scheme) == windows(height, width, square)


def test_windows_are_cut_and_padded():
    image = picture(150, 60)
    scheme = Scheme(BASE, CROP, scales=(1.75,))
    found = windows(150, 60, scheme)
    images = cut(views(image, np.asarray(found), scheme))
    small = resized(image, 123, 49)
    assert found == [Window(123, 49, 0, 0), Window(123, 49, 42, 0), Window(123, 49, 84, 0)]
    for window, pixels in zip(found, images, strict=True):
        expected = np.zeros((CROP, CROP, 3))
        seen = small[window.top : window.top + CROP]
        expected[: len(seen), :49] = seen
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-3)
        assert (np.asarray(pixels)[:, 49:] == 0).all() and (np.asarray(pixels)[len(seen) :] == 0).all()


def test_the_size_of_batches_changes_no_scores():
    image, scheme = picture(90, 140), Scheme(BASE, CROP, scales=(0.5, 1.75), flip=True)
    np.testing.assert_allclose(evaluated(image, scheme, batch_size=3), evaluated(image, scheme), rtol=0, atol=1e-5)


@settings(max_examples=20)
@given(SIDES, SIDES, SCHEMES)
def test_every_pixel_takes_one_mean_from_each_scale(height, width, scheme):
    weight = np.zeros((256, 256))
    for tile, parts in Layout(
        (height, width), windows(height, width, scheme), scheme, grid_of(height, width, scheme)
    ).tiles():
        assert parts
        for part in parts:
            assert (part.rows >= 0).all() and (part.columns >= 0).all()
            weight[tile.pixels] += np.outer(part.rows.sum(1), part.columns.sum(1))
    np.testing.assert_allclose(weight[:height, :width], len(scheme.scales), rtol=0, atol=1e-5)
    assert (weight[height:] == 0).all() and (weight[:, width:] == 0).all()


def test_equal_logits_stay_equal():
    scheme = Scheme(BASE, CROP, scales=(0.5, 1.75))
    found = windows(90, 120, scheme)
    grids, total = jnp.full((len(found), GRID, GRID, 2), jnp.array([2.0, -3.0])), jnp.zeros((TILE, TILE, 2))
    ((_, parts),) = Layout((90, 120), found, scheme, (GRID, GRID)).tiles()
    for part in parts:
        total = merge(total, False, grids, part.corner(len(found)), part.rows, part.columns)
    np.testing.assert_allclose(total[:90, :120], np.broadcast_to([4.0, -6.0], (90, 120, 2)), rtol=0, atol=1e-5)


def test_fillers_see_only_padding():
    images = cut(views(np.full((90, 120, 3), 5, np.uint8), np.zeros((2, 4), np.int32), Scheme(BASE, CROP)))
    np.testing.assert_array_equal(images, np.zeros((2, CROP, CROP, 3)))


def test_few_programs_serve_all_sizes():
    merge.clear_cache()
    scheme = Scheme(BASE, CROP)
    for size in [(90, 120), (128, 1), (650, 70), (300, 290), (1000, 1500)]:
        found = windows(*size, scheme)
        _, parts = next(Layout(size, found, scheme, (GRID, GRID)).tiles())
        grids = jnp.zeros((1, GRID, GRID, 1))
        merge(jnp.zeros((TILE, TILE, 1)), True, grids, parts[0].corner(1), parts[0].rows, parts[0].columns)
        assert views(picture(*size), np.asarray(found), scheme).pixels.shape == (len(found), 2, CROP, 2, CROP, 3)
    assert merge._cache_size() <= 3


# From the official rule: the long side ceil(520 * scale), the short side to the nearest; a stride of 320.
@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((683, 512), 0.5, [(260, 195, 0, 0)]),
        ((512, 683), 1.0, [(390, 520, 0, 0), (390, 520, 0, 320)]),
        ((512, 512), 1.25, [(650, 650, top, left) for top in (0, 320) for left in (0, 320)]),
        ((683, 512), 1.75, [(910, 682, top, left) for top in (0, 320, 640) for left in (0, 320)]),
        ((1000, 1), 0.5, [(260, 1, 0, 0)]),
        ((1, 5000), 1.0, [(1, 520, 0, 0), (1, 520, 0, 320)]),
    ],
)
def test_windows(size, scale, expected):
    assert windows(*size, Scheme(scales=(scale,))) == [Window(*window) for window in expected]


def test_windows_of_several_scales_follow_each_other():
    found = windows(512, 683, Scheme(scales=OFFICIAL_SCALES))
    apart = [window for scale in OFFICIAL_SCALES for window in windows(512, 683, Scheme(scales=(scale,)))]
    assert found == apart and len(found) == 18
    # Multiples of the stride that do not reach past the crop need no further window.
    assert len(windows(800, 800, Scheme(base_size=800))) == 4 and len(windows(801, 801, Scheme(base_size=801))) == 9


def test_official_settings():
    scheme = Scheme()
    assert (scheme.base_size, scheme.crop_size, scheme.stride, scheme.scales, scheme.flip) == (
        520,
        480,
        320,
        (1.0,),
        False,
    )
    assert Scheme(2048, 768).stride == 512
    assert rescaled(1024, 2048, Scheme(2048, 768), 2.25) == (2304, 4608)
    assert (OFFICIAL_SCALES[0], OFFICIAL_SCALES[-1]) == (0.5, 1.75)


def test_batches():
    found = [Window(1, 2, 3, index) for index in range(5)]
    stacked = batches(found, 3)
    assert stacked.shape == (2, 3, 4) and stacked.dtype == np.int32
    np.testing.assert_array_equal(stacked.reshape(6, 4), [*found, (0, 0, 0, 0)])
    assert batches(found[:3], 3).shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"base_size": 0}, "base_size"),
        ({"crop_size": 0}, "crop_size"),
        ({"crop_size": 100}, "crop_size"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"scales": (math.nan,)}, "scales"),
        ({"scales": (math.inf,)}, "scales"),
        ({"stride_rate": 0.0}, "stride_rate"),
        ({"stride_rate": 1.1}, "stride_rate"),
        ({"stride_rate": 0.001}, "stride_rate"),
        ({"stride_rate": math.nan}, "stride_rate"),
    ],
)
def test_settings_that_cannot_be_used(settings, name):
    with pytest.raises(ConfigError, match=name):
        Scheme(**settings)
