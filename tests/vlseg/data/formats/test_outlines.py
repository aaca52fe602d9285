"""Label maps from drawn annotations."""

import numpy as np
import pytest

from vlseg.data.formats.outlines import (
    Annotation,
    Bitmap,
    Ellipse,
    Polygon,
    Runs,
    box,
    draw,
    flaw,
    points,
    run_lengths,
    sound,
)
from vlseg.errors import DatasetError


def filled(outline, height, width):
    """The pixels of an outline in a whole picture."""
    region, mask = outline.region(height, width), np.zeros((height, width), bool)
    mask[region.top : region.top + region.mask.shape[0], region.left : region.left + region.mask.shape[1]] = region.mask
    return mask


def inside(corners, height, width):
    """Which centres of pixels lie in a polygon, one by one, by the number of edges to their left."""
    found = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                found[row, column] ^= True
    return found


def test_polygons_hold_the_pixels_whose_centres_they_hold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = rng.uniform(-6, 20, (rng.integers(3, 9), 2))  # they cross themselves, and leave the picture
        np.testing.assert_array_equal(filled(Polygon(corners), 12, 15), inside(corners, 12, 15))
    # Corners on centres and borders of pixels.
    for _ in range(20):
        corners = rng.integers(-2, 26, (5, 2)) / 2
        np.testing.assert_array_equal(filled(Polygon(corners), 12, 11), inside(corners, 12, 11))


def test_a_polygon_of_endless_edges_is_refused():
    corners = np.random.default_rng(0).uniform(0, 500, (20000, 2))
    with pytest.raises(DatasetError, match="more edges than"):
        Polygon(corners).region(500, 500)
    # Long outlines are drawn piece by piece.
    corners = np.stack([np.arange(4000) % 2 * 500.0, np.linspace(0, 500, 4000)], axis=1)
    teeth = np.concatenate([corners[:, ::-1], [[500, 600], [0, 600]]])
    assert 0.4 < filled(Polygon(teeth), 600, 500).mean() < 0.7


def test_polygons_that_share_an_edge_share_no_pixel():
    hub, rim = np.array([7.3, 5.5]), np.array([[0, 0], [16, 0], [16, 11], [9, 12], [0, 12.0]])
    parts = [Polygon(np.array([hub, *ends])) for ends in zip(rim, np.roll(rim, -1, axis=0), strict=True)]
    assert (sum(filled(part, 12, 16).astype(int) for part in parts) == filled(Polygon(rim), 12, 16)).all()


def test_polygons_without_a_flaw_are_found_many_at_a_time():
    rng = np.random.default_rng(0)
    polygons = [rng.integers(-4, 14, (rng.integers(1, 6), 2)).astype(float) for _ in range(500)]
    polygons += [np.linspace(0, 1, 5)[:, None] * rng.uniform(-9, 9, (1, 2)) + 0.1 for _ in range(50)]  # lines
    polygons += [np.array([[0, 0], [9, 9e9], [9, 0]]), np.zeros((1, 2))]
    counts = np.array(list(map(len, polygons)))
    for size in ((10, 12), None):
        sizes = np.full((len(polygons), 2), size or np.inf, float)
        usual = [not flaw(corners, size) and np.abs(corners).max() < 1e7 for corners in polygons]
        found = sound(np.concatenate(polygons), counts, sizes)
        assert not (found & ~np.array(usual)).any()
        assert found.sum() > 0.9 * sum(usual)


STAR = [10, 1, 12.4, 7.2, 19, 7.6, 13.9, 11.8, 15.6, 18.3, 10, 14.7, 4.4, 18.3, 6.1, 11.8, 1, 7.6, 7.6, 7.2]
# The mask of it by pycocotools 2.0.11, 20 x 20 pixels, down the columns.
OFFICIAL = [
    48, 1, 18, 3, 17, 3, 17, 4, 3, 4, 9, 10, 10, 9, 9, 11, 6, 13, 7, 13, 10, 11, 11, 9, 11, 10, 10, 4, 3, 4, 9, 3, 17,
    3, 18, 1, 51,
]  # fmt: skip
OFFICIAL_TEXT = "`11b02O001B0661OO2M2103N1N01OJI06O801NQ1"


def test_polygons_agree_with_the_official_tools():
    """But for pixels at the border: those tools go by a grid of fifths of pixels."""
    expected = filled(Runs(OFFICIAL, (20, 20)), 20, 20)
    found = filled(Polygon(points(STAR)), 20, 20)
    assert np.count_nonzero(expected) == sum(OFFICIAL[1::2]) == 116
    assert np.count_nonzero(found != expected) <= 3


def test_boxes_and_ellipses():
    mask = filled(box(2, 3, 6.4, 5.6), 10, 12)
    np.testing.assert_array_equal(
        mask, np.isin(np.arange(12), range(2, 6)) & np.isin(np.arange(10), [3, 4, 5])[:, None]
    )
    np.testing.assert_array_equal(filled(box(2, 3, 6, 5, 90), 10, 12), filled(box(3, 2, 5, 6), 10, 12))
    # Clockwise, as it is seen: the right end goes down.
    turned = filled(box(1, 4, 11, 6, 30), 10, 12)
    assert turned[6, 9] and turned[3, 2] and not turned[3, 9]
    rows, columns = np.mgrid[:10, :12] + 0.5
    np.testing.assert_array_equal(filled(Ellipse(5, 4, 3, 3), 10, 12), (rows - 4) ** 2 + (columns - 5) ** 2 <= 9)
    np.testing.assert_array_equal(filled(Ellipse(5, 4, 4, 2), 10, 12), filled(Ellipse(5, 4, 2, 4, 90), 10, 12))
    assert filled(Ellipse(0, 0, 40, 40), 10, 12).all() and not filled(Ellipse(-9, 4, 3, 3), 10, 12).any()


def test_run_lengths():
    mask = filled(Runs([1, 2, 3], (2, 3)), 2, 3)
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])
    mask = filled(Runs([1, 2, 3], (2, 3), (-1, 7), by_column=False), 8, 9)
    assert not mask.any()
    mask = filled(Runs([1, 2, 1], (2, 2), (3, 8), by_column=False), 8, 9)
    assert np.argwhere(mask).tolist() == [[4, 8]]
    # Of pycocotools 2.0.11.
    assert run_lengths("0k1500").tolist() == [0, 59, 5, 59, 5]
    assert run_lengths(OFFICIAL_TEXT).tolist() == OFFICIAL


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([1, 2], (2, 2)),
        ([5, -1], (2, 2)),
        ([2**62, 2**62, 2**62, 2**62, 4], (2, 2)),
        ([4.0], (2, 2)),
        (["4"], (2, 2)),
        ([[4]], (2, 2)),
        ([[4], 4], (2, 2)),
        ([10**30], (2, 2)),
        ("\n", (2, 2)),
        ("P", (2, 2)),
        ("o" * 50, (2, 2)),
        ([4], (4, 1)),
        ([12], (-2, -6)),
        ([10**12], (10**6, 10**6)),
    ],
)
def test_run_lengths_that_cannot_be(counts, size):
    with pytest.raises(DatasetError):
        Runs(counts, size, (0, 0) if size[0] != 4 else None).region(2, 2)


def test_the_smaller_lies_on_top_and_the_rest_does_not_count():
    large, small = Annotation(0, (box(0, 0, 8, 8),)), Annotation(1, (box(2, 2, 6, 6),))
    for order in ([large, small], [small, large]):
        label = draw(order, 10, 10, 255)
        assert label.dtype == np.int32
        expected = np.full((10, 10), 255)
        expected[:8, :8] = 0
        expected[2:6, 2:6] = 1
        np.testing.assert_array_equal(label, expected)
    # By pixels in the picture: this one's are cut off, and of the parts of one all count.
    cut = Annotation(2, (box(-90, 2, 3, 4),))
    parts = Annotation(3, (box(2, 2, 4, 4), box(7, 0, 10, 10)))
    assert draw([cut, small], 10, 10, 255)[2, 2] == 2 and draw([small, cut], 10, 10, 255)[3, 2] == 2
    assert draw([small, parts], 10, 10, -1)[2, 2] == 1
    # Of equal ones the later; what is to be ignored covers too.
    assert draw([large, large._replace(category=4)], 10, 10, 255)[0, 0] == 4
    assert draw([large, small._replace(category=-1)], 10, 10, 255)[3, 3] == 255
    bitmap = Bitmap(9, 9, np.ones((5, 5), bool))
    assert np.argwhere(draw([Annotation(0, (bitmap,))], 10, 10, 255) == 0).tolist() == [[9, 9]]


def test_flaws():
    assert flaw(points([0, 0, 4, 0, 4, 0]), None) == "with fewer than three points"
    assert flaw(points([[1, 1], [2, 2], [5, 5]]), None) == "without an area"
    assert flaw(points([20, 1, 30, 1, 30, 5]), (10, 20)) == "outside of the picture"
    assert flaw(points([0, 0, 4, 4, 4, 0, 0, 4]), (10, 20)) == ""  # two triangles
    for values in ([1, 2, 3], [[1, 2, 3], [4, 5, 6]], [["1", "2"]], [1, True, "x"], [[1, 2], [3]], [1e300, 0], [None]):
        with pytest.raises(DatasetError):
            points(values)
