import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlseg import labels, visualize
from vlseg.data.images import read_label
from vlseg.errors import ConfigError, ImageError, StorageError
from vlseg.visualize import colorize, overlay, palette, panel, save_image, save_label_png

WHITE = (255, 255, 255)


# Colours


@pytest.mark.parametrize("count", [0, 1, 2, 21, 171, 256])
def test_palette_is_distinct_and_deterministic(count):
    colours = palette(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours}) == count
    np.testing.assert_array_equal(colours, palette(count))
    np.testing.assert_array_equal(colours, palette(300)[:count])


def test_palette_stays_far_apart_and_away_from_black():
    def nearest(colours):
        distances = np.linalg.norm(colours[:, None].astype(float) - colours[None], axis=-1)
        return distances[~np.eye(len(colours), dtype=bool)].min()

    assert nearest(palette(10)) > 90
    assert nearest(palette(21)) > 40
    assert nearest(palette(171)) > 16
    assert palette(256).max(axis=1).min() > 80
    assert palette(256).min(axis=1).max() < 225


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


def legend_swatches(result, size, names):
    """Ids whose full colour is outside the picture, in reading order of the first pixel of each."""
    pixels = np.array(result)
    pixels[: size[0], : size[1]] = WHITE
    drawn = pixels[(pixels != WHITE).any(axis=-1)]
    ids = [np.flatnonzero((drawn == colour).all(axis=-1)) for colour in palette(len(names))]
    return sorted((i for i in range(len(names)) if len(ids[i])), key=lambda i: ids[i][0])


@pytest.mark.parametrize("size", [(64, 64), (480, 640), (640, 480), (300, 1600), (1600, 300), (1200, 1600)])
def test_legend_names_what_is_present_and_hides_nothing(size):
    names = labels.load("coco_stuff_171")
    image = np.full((*size, 3), 100, np.uint8)
    label_map = np.full(size, 5)
    label_map[: size[0] // 4] = 0
    label_map[0, :] = 170
    label_map[1, :] = 255
    result = overlay(image, label_map, names)
    bare = overlay(image, label_map, names, legend=False)
    np.testing.assert_array_equal(np.asarray(result)[: size[0], : size[1]], np.asarray(bare))
    assert legend_swatches(result, size, names) == [5, 0, 170]
    assert result.width * result.height < 2 * max(size[0] * size[1], 150 * 150)


@pytest.mark.parametrize("size", [(64, 64), (400, 600), (600, 400)])
def test_long_and_many_names_stay_inside(size):
    names = ["x" * 500, *(f"category {i}" for i in range(60))]
    label_map = np.arange(size[0] * size[1]).reshape(size) % 61
    result = overlay(np.full((*size, 3), 100, np.uint8), label_map, names)
    assert len(legend_swatches(result, size, names)) == 61
    assert result.width <= size[1] + 6 * 24 * 12
    pixels = np.array(result)
    pixels[: size[0], : size[1]] = WHITE
    assert (pixels[:, -2:] == 255).all() and (pixels[-2:] == 255).all()  # nothing runs over the edge


def test_no_legend_where_nothing_is_known():
    image = np.full((20, 30, 3), 9, np.uint8)
    result = overlay(image, np.full((20, 30), 255), ["cat"])
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
