import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlseg import labels, visualize
from vlseg.data.images import read_label
from vlseg.errors import ConfigError, ImageError, StorageError
from vlseg.labels import NONE
from vlseg.visualize import (
    IGNORED,
    NONE_COLOUR,
    colorize,
    colours_of,
    comparison,
    enlarged,
    gallery,
    overlay,
    palette,
    panel,
    save_image,
    save_label_png,
)

WHITE = (255, 255, 255)
LEGIBLE = 320  # pixels of the longer side of a picture with a legend, at least


# Colours


@pytest.mark.parametrize("count", [0, 1, 2, 21, 171, 256])
def test_palette_is_distinct_and_deterministic(count):
    colours = palette(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours}) == count
    np.testing.assert_array_equal(colours, palette(300)[:count])
    colours[:] = 0
    np.testing.assert_array_equal(palette(count), palette(300)[:count])


def test_palette_stays_far_apart_and_away_from_black():
    def nearest(colours):
        distances = np.linalg.norm(colours[:, None].astype(float) - colours[None], axis=-1)
        return distances[~np.eye(len(colours), dtype=bool)].min()

    assert nearest(palette(10)) > 90
    assert nearest(palette(21)) > 40
    assert nearest(palette(171)) > 16
    assert palette(256).max(axis=1).min() > 80
    assert palette(256).min(axis=1).max() < 225


def test_distances_are_those_of_oklab():
    """Values that Björn Ottosson's page on Oklab and CSS Color 4 give."""
    given = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    expected = [(1, 0, 0), (0, 0, 0), (0.62796, 0.22486, 0.12585), (0.45201, -0.03246, -0.31153)]
    np.testing.assert_allclose(visualize._oklab(given), expected, atol=1e-4)


def test_palette_differs_clearly_where_names_follow_each_other():
    space = visualize._oklab(palette(256))
    distances = np.linalg.norm(space[:, None] - space[None], axis=-1) + np.eye(256)
    assert np.diagonal(distances, 1).min() >= 0.3
    assert distances[:20, :20].min() > 0.14 and distances[:59, :59].min() > 0.09
    grey = visualize._oklab(np.array([NONE_COLOUR], np.uint8))
    assert np.linalg.norm(space[:59] - grey, axis=-1).min() > 0.1


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 260), st.integers(0, 260))
def test_a_shorter_palette_is_the_beginning_of_a_longer_one(one, other):
    shorter, longer = sorted((one, other))
    np.testing.assert_array_equal(palette(longer)[:shorter], palette(shorter))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["cat", "dog", NONE]), max_size=30))
def test_a_label_has_the_colour_of_its_place_and_rejected_is_grey(names):
    colours = colours_of(names)
    for name, colour, usual in zip(names, colours, palette(len(names)), strict=True):
        assert tuple(colour) == (NONE_COLOUR if name == NONE else tuple(usual))
    official = np.arange(3 * len(names), dtype=np.uint8).reshape(-1, 3)
    before = official.copy()
    given_colours = colours_of(names, official)
    np.testing.assert_array_equal(official, before)
    for name, colour, own in zip(names, given_colours, official, strict=True):
        assert tuple(colour) == (NONE_COLOUR if name == NONE else tuple(own))


def test_palette_may_be_longer_than_there_are_colours():
    assert palette(5000).shape == (5000, 3)


def test_colorize():
    colours = palette(3)
    result = colorize(np.array([[0, 1, 2], [255, 3, -1]]), colours)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0], colours)
    np.testing.assert_array_equal(result[1], np.zeros((3, 3)))
    np.testing.assert_array_equal(colorize(np.array([[1, 2]], np.uint8), colours, ignore=1)[0], [(0, 0, 0), colours[2]])
    many = palette(300)
    assert (colorize(np.array([[255]]), many) == 0).all()
    np.testing.assert_array_equal(colorize(np.array([[255]]), many, ignore=None)[0, 0], many[255])


# Overlays


def test_overlay_blends_known_pixels_only():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    label_map = np.random.default_rng(1).choice([0, 1, 255, -1, 2], (20, 30))
    for alpha in (0.0, 0.3, 0.5, 1.0):
        result = np.asarray(overlay(image, label_map, ["cat", "dog"], alpha=alpha, legend=False))
        assert result.shape == image.shape
        unknown = (label_map < 0) | (label_map > 1)
        np.testing.assert_array_equal(result[unknown], image[unknown])
        expected = (1 - alpha) * image + alpha * palette(2)[np.where(unknown, 0, label_map)]
        tolerance = 0 if alpha in (0, 1) else 1.5
        assert np.abs(result[~unknown] - expected[~unknown]).max() <= tolerance


def test_overlay_leaves_its_input_alone_and_checks_sizes():
    image = np.full((20, 30, 3), 7, np.uint8)
    overlay(image, np.zeros((20, 30), int), ["cat"])
    assert (image == 7).all()
    with pytest.raises(ImageError, match=r"\[30, 20\] does not fit an image of \[20, 30, 3\]"):
        overlay(image, np.zeros((30, 20), int), ["cat"])


def legend_swatches(result, names, size=(0, 0)):
    """Ids whose full colour is outside the picture, in reading order of the first pixel of each."""
    pixels = np.array(result)
    pixels[: size[0], : size[1]] = WHITE
    drawn = pixels[(pixels != WHITE).any(axis=-1)]
    ids = [np.flatnonzero((drawn == colour).all(axis=-1)) for colour in colours_of(names)]
    # Single pixels may be of letters, whose edges are grey.
    return sorted((i for i in range(len(names)) if len(ids[i]) >= 100), key=lambda i: ids[i][0])


def blown_up(picture, side=LEGIBLE):
    """The picture in blocks, by the definition: the least whole number that makes it `side` pixels long, or 1."""
    pixels = np.asarray(picture)
    factor = next(factor for factor in range(1, side + 1) if factor * max(pixels.shape[:2]) >= side)
    return np.kron(pixels, np.ones((factor, factor, 1), np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (480, 640), (640, 480), (300, 1600), (1600, 300), (1200, 1600)])
def test_legend_names_what_is_present_and_hides_nothing(size):
    names = labels.load("coco_stuff_171")
    image = np.full((*size, 3), 100, np.uint8)
    label_map = np.full(size, 5)
    label_map[: size[0] // 4] = 0
    label_map[0, :] = 170
    label_map[1, :] = 255
    result = overlay(image, label_map, names)
    shown = blown_up(overlay(image, label_map, names, legend=False))
    np.testing.assert_array_equal(np.asarray(result)[: shown.shape[0], : shown.shape[1]], shown)
    assert legend_swatches(result, names, shown.shape) == [5, 0, 170]
    assert result.width * result.height < 2 * shown.shape[0] * shown.shape[1]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 600), st.integers(1, 60), st.booleans(), st.integers(1, 8), st.data())
def test_small_pictures_are_enlarged_in_exact_blocks(longer, shorter, portrait, count, data):
    size = (longer, min(longer, shorter))[:: 1 if portrait else -1]
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    names = [f"label {i}" for i in range(count - 1)] + [NONE]
    label_map = generator.integers(-1, count, size)
    bare = overlay(image, label_map, names, legend=False)
    assert bare.size == size[::-1]
    expected = blown_up(bare)
    assert expected.shape[:2] == size if longer >= LEGIBLE else LEGIBLE <= max(expected.shape) < 2 * LEGIBLE
    np.testing.assert_array_equal(np.asarray(enlarged(bare)), expected)
    result = np.asarray(overlay(image, label_map, names))
    np.testing.assert_array_equal(result[: expected.shape[0], : expected.shape[1]], expected)
    present = legend_swatches(result, names, expected.shape)
    pixels = np.bincount(label_map[label_map >= 0], minlength=count)
    by_size = sorted(np.flatnonzero(pixels[:-1]), key=lambda i: -pixels[i])
    # With entries in columns, the first pixels of two on one line are in reading order, so only the set is compared.
    assert set(present) == {*by_size, *([count - 1] if pixels[-1] else [])}
    assert visualize._entries(pixels, names, colours_of(names))[0] == [
        *(names[i] for i in by_size),
        *([NONE] if pixels[-1] else []),
    ]


def test_what_is_rejected_is_grey_also_in_a_colourful_photograph():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    names = ["cat", "dog", NONE]
    result = overlay(image, np.full((40, 50), 2), names)
    rejected = np.asarray(overlay(image, np.full((40, 50), 2), names, legend=False)).astype(float)
    np.testing.assert_allclose(rejected, 0.25 * image + 0.75 * 128, atol=1.5)
    assert legend_swatches(result, names, (280, 350)) == [2]
    assert (np.asarray(overlay(image, np.full((40, 50), 2), names, alpha=0, legend=False)) == image).all()
    assert (np.asarray(overlay(image, np.full((40, 50), 2), names, alpha=1, legend=False)) == 128).all()


@pytest.mark.parametrize("size", [(64, 64), (400, 600), (600, 400)])
def test_long_and_many_names_stay_inside(size):
    names = ["x" * 500, *(f"category {i}" for i in range(60))]
    label_map = np.arange(size[0] * size[1]).reshape(size) % 61
    result = overlay(np.full((*size, 3), 100, np.uint8), label_map, names)
    height, width = max(size[0], LEGIBLE), max(size[1], LEGIBLE if size[1] == 64 else 0)
    assert len(legend_swatches(result, names, (height, width))) == 61
    assert result.width <= width + 6 * 24 * 12
    pixels = np.array(result)
    pixels[:height, :width] = WHITE
    assert (pixels[:, -2:] == 255).all() and (pixels[-2:] == 255).all()  # nothing runs over the edge


def test_names_that_the_font_cannot_draw_are_told_apart():
    assert visualize._drawable("T-shirt (navy), 50 %") == "T-shirt (navy), 50 %"
    assert visualize._drawable("café à la crème") == "cafe a la creme"
    assert visualize._drawable("猫") == visualize._drawable("cat 猫") == ""
    names, _ = visualize._entries(np.array([3, 0, 5, 4]), ["猫", "dog", "犬", "Käse"], palette(4))
    assert names == ["label 3", "Kase", "label 1"]
    drawn = [np.asarray(overlay(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), int), [word])) for word in ("猫", "犬")]
    np.testing.assert_array_equal(*drawn)


def test_no_legend_where_nothing_is_known():
    image = np.full((200, 400, 3), 9, np.uint8)
    result = overlay(image, np.full((200, 400), 255), ["cat"])
    np.testing.assert_array_equal(np.asarray(result), image)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=60), st.integers(300, 2000), st.integers(12, 60))
def test_legend_entries_never_overlap(lengths, extent, em):
    for places, (width, height) in (
        visualize._along_lines([min(length, extent) for length in lengths], extent, em),
        visualize._down_columns(lengths, extent, em),
    ):
        boxes = [(x, y, x + min(length, width), y) for (x, y), length in zip(places, lengths, strict=True)]
        assert all(x >= 0 and right <= width and em // 2 <= y <= height - em // 2 for x, y, right, _ in boxes)
        for i, (x, y, right, _) in enumerate(boxes):
            for other_x, other_y, other_right, _ in boxes[:i]:
                assert abs(y - other_y) >= em or right <= other_x or other_right <= x


# Grids


def test_panel_places_enlarged_pictures_under_their_titles():
    colours = palette(6).reshape(2, 3, 3)
    rows = [[np.tile(colour, (5, 4, 1)) for colour in row] for row in colours]
    result = np.asarray(panel(rows, ["image", "truth", "prediction"], ["first", "second"], scale=3))
    corners = []
    for row in colours:
        for colour in row:
            where = np.argwhere((result == colour).all(axis=-1))
            assert len(where) == 5 * 4 * 9
            top, left = where.min(axis=0)
            assert tuple(where.max(axis=0) - (top, left) + 1) == (15, 12)
            corners.append((top, left))
    tops, lefts = np.array(corners).reshape(2, 3, 2).transpose(2, 0, 1)
    assert (tops == tops[:, :1]).all() and (lefts == lefts[:1]).all()
    assert (np.diff(lefts[0]) > 12).all() and np.diff(tops[:, 0]) > 15
    assert (result[: tops[0, 0] - 1] < 128).any()  # titles above
    assert (result[:, : lefts[0, 0] - 1] < 128).any()  # and to the left


def test_panel_takes_grey_and_unequal_pictures():
    result = panel([[np.zeros((9, 4), np.uint8), np.zeros((3, 20, 3), np.uint8)]], ["a", "b"])
    assert (np.asarray(result) == 0).all(axis=-1).sum() >= 9 * 4 + 3 * 20


def test_panel_checks_its_titles():
    cell = np.zeros((4, 4, 3), np.uint8)
    for rows, titles, row_titles in [([[cell]], ["a", "b"], None), ([[cell]], ["a"], ["x", "y"])]:
        with pytest.raises(ImageError, match="column titles needs as many pictures"):
            panel(rows, titles, row_titles)


def test_panel_of_small_pictures_is_enlarged_and_another_is_not():
    for side, factor in ((64, 3), (100, 2), (192, 1), (700, 1)):
        cell = np.full((side, side // 2, 3), (200, 10, 90), np.uint8)
        result = np.asarray(panel([[cell, cell]], ["a", "b"]))
        assert (result == (200, 10, 90)).all(axis=-1).sum() == 2 * cell.shape[0] * cell.shape[1] * factor**2


def test_an_empty_panel_has_its_titles():
    assert (np.asarray(panel([], ["image", "label"])) < 128).any()


def test_gallery_has_a_title_above_every_picture():
    colours = palette(5)
    cells = [np.tile(colour, (300, 200 + 40 * i, 1)) for i, colour in enumerate(colours)]
    result = np.asarray(gallery(cells, ["photograph", "a", "b", "c", "d"]))
    boxes = []
    for cell, colour in zip(cells, colours, strict=True):
        where = np.argwhere((result == colour).all(axis=-1))
        assert len(where) == cell.shape[0] * cell.shape[1]
        boxes.append((*where.min(axis=0), *where.max(axis=0)))
    tops = [box[0] for box in boxes]
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4]
    for top, left, _, right in boxes:
        assert (result[top - 12 : top, left:right] < 128).any()
    with pytest.raises(ImageError, match="gallery of 1 pictures needs as many titles, not 2"):
        gallery(cells[:1], ["a", "b"])


def test_comparison_shows_label_maps_over_a_legend_of_what_is_in_them():
    names = [f"class {i}" for i in range(9)]
    image = np.full((250, 300, 3), 77, np.uint8)
    label, prediction = np.full((250, 300), 2), np.full((250, 300), 5)
    label[:9], prediction[:3] = 255, 1
    result = np.asarray(comparison([(image, [label, prediction])], ["image", "label", "prediction"], names))
    colours = palette(9)
    counts = [(result == colour).all(axis=-1).sum() for colour in colours]
    swatch = counts[1] - 3 * 300
    assert 100 < swatch < 2000
    assert counts[5] - swatch == 247 * 300 and counts[2] - swatch == 241 * 300
    assert [i for i, count in enumerate(counts) if count] == [1, 2, 5]
    black = (result == 0).all(axis=-1).sum()
    assert black - swatch == 9 * 300  # of which the legend says that they do not count
    label[:9] = 2
    assert not (np.asarray(comparison([(image, [label])], ["image", "label"], names)) == 0).all(axis=-1).any()


def test_comparison_in_official_colours_with_another_ignored_label():
    official = np.array([(1, 2, 3), (40, 50, 60), (90, 20, 10)], np.uint8)
    label = np.repeat(np.arange(3), 100).reshape(20, 15)
    result = np.asarray(comparison([(np.zeros((20, 15, 3), np.uint8), [label])], ["a", "b"], "xyz", official, ignore=1))
    found = [(result == colour).all(axis=-1).any() for colour in official]
    assert found == [True, False, True]


def test_what_does_not_count_is_last_in_the_legend(monkeypatch):
    seen = []
    monkeypatch.setattr(visualize, "_with_legend", lambda picture, names, colours, em: seen.append((names, colours)))
    label = np.array([[0, 1, 1, 255, 255, 255, 2, -1]])
    comparison([(np.zeros((1, 8, 3), np.uint8), [label])], ["image", "label"], ["cat", "dog", NONE])
    ((names, colours),) = seen
    assert names == ["dog", "cat", NONE, IGNORED]
    np.testing.assert_array_equal(colours, [*palette(2)[::-1], NONE_COLOUR, (0, 0, 0)])


# Files


@pytest.mark.parametrize(("num_labels", "mode"), [(3, "P"), (256, "P"), (257, "I;16")])
def test_label_png_round_trip(tmp_path, num_labels, mode):
    label_map = np.random.default_rng(0).integers(0, num_labels, (20, 31)).astype(np.int32)
    label_map[0, 0] = 255
    save_label_png(tmp_path / "a.png", label_map, [str(i) for i in range(num_labels)])
    assert Image.open(tmp_path / "a.png").mode == mode
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), label_map)


def test_label_png_shows_the_palette(tmp_path):
    label_map = np.array([[0, 1, 2, 255]] * 8)
    save_label_png(tmp_path / "a.png", label_map, "abc")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[0], [*palette(3), (0, 0, 0)]
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 300), st.booleans(), st.integers(0, 2**32))
def test_label_png_is_exact_and_never_enlarged(tmp_path_factory, height, width, count, rejecting, seed):
    path = tmp_path_factory.mktemp("labels") / "a.png"
    names = [f"label {i}" for i in range(count)] + [NONE] * rejecting
    label_map = np.random.default_rng(seed).integers(0, len(names), (height, width))
    save_label_png(path, label_map, names)
    stored = Image.open(path)
    np.testing.assert_array_equal(np.asarray(stored), label_map)
    if len(names) <= 256:
        np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), colours_of(names)[label_map])


@pytest.mark.parametrize(("value", "num_labels"), [(256, 9), (-1, 9), (65536, 300)])
def test_label_png_refuses_ids_that_do_not_fit(tmp_path, value, num_labels):
    with pytest.raises(ImageError, match="do not fit"):
        save_label_png(tmp_path / "a.png", np.full((8, 8), value), [str(i) for i in range(num_labels)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extension", ["png", "PNG", "jpg", "webp", "bmp"])
def test_save_image(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(b"old")
    save_image(path, np.full((9, 12, 3), (200, 100, 50), np.uint8))
    assert np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - (200, 100, 50)).max() < 12
    assert os.listdir(tmp_path) == [path.name]


def test_palette_picture_as_jpeg(tmp_path):
    save_image(tmp_path / "a.jpg", Image.new("RGBA", (9, 9), "red"))
    assert Image.open(tmp_path / "a.jpg").size == (9, 9)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.xyz"])
def test_unknown_extension(tmp_path, name):
    with pytest.raises(ConfigError, match=r"use \.png"):
        save_image(tmp_path / name, np.zeros((9, 9, 3), np.uint8))
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path):
    for path in (tmp_path / "nowhere" / "a.png", "/dev/full/a.png"):
        with pytest.raises(StorageError) as error:
            save_image(path, np.zeros((9, 9, 3), np.uint8))
        assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_image(path, np.zeros((9, 9, 3), np.uint8))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="space"):
        save_image(path, np.full((9, 9, 3), 255, np.uint8))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]
