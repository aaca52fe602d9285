"""Label maps from annotations that are drawn: polygons, ellipses, run lengths and small masks.

A pixel belongs to an outline if its centre does: pixel (x, y) has its centre at (x + 0.5, y + 0.5), and the picture's
upper left corner is at (0, 0). Where a polygon crosses itself, what it surrounds an even number of times is outside.
So of two polygons that share an edge each pixel along it belongs to one. What lies outside of the picture is cut off.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vlseg.data.images import MAX_PIXELS
from vlseg.errors import DatasetError

LARGEST = 1e7
"""Coordinates beyond are mistakes."""

NO_CLASS = -1
"""The class of an annotation whose pixels do not count."""

_CROSSINGS = 1 << 19  # of edges and rows, computed at a time
_FEW = 1 << 21  # of them, which any polygon may have


class Region(NamedTuple):
    """Pixels of a picture: bool [h, w], from row `top` and column `left` on."""

    top: int
    left: int
    mask: NDArray[np.bool_]


NOTHING = Region(0, 0, np.zeros((0, 0), bool))


class Outline(Protocol):
    """A part of an annotation."""

    def region(self, height: int, width: int) -> Region:
        """Its pixels in a picture of that size; DatasetError if it cannot be drawn."""


@dataclass(frozen=True, slots=True)
class Polygon:
    """A closed polygon.

    Attributes:
        points: float64 [N, 2], x and y (down) in pixels.
    """

    points: NDArray[np.float64]

    def region(self, height: int, width: int) -> Region:
        """See `Outline`."""
        low, high = _pixels(self.points.min(0), width, height), _pixels(self.points.max(0), width, height)
        (left, top), (right, bottom) = low, high
        if left >= right or top >= bottom:
            return NOTHING
        start, end = self.points, np.roll(self.points, -1, axis=0)
        down = start[:, 1] <= end[:, 1]
        upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
        first, last = (np.clip(np.ceil(ends[:, 1] - 0.5), top, bottom).astype(np.int64) for ends in (upper, lower))
        # Only whether there are an odd number of edges counts, so they may overflow.
        toggles = np.zeros((bottom - top) * (right - left + 1), np.uint8)
        counts = np.cumsum(last - first)
        if counts[-1] > max(_FEW, (bottom - top) * (right - left)):
            raise DatasetError("a polygon has more edges than its pixels can tell apart")
        for chunk in np.split(np.arange(len(first)), np.flatnonzero(np.diff(counts // _CROSSINGS)) + 1):
            edge = np.repeat(chunk, last[chunk] - first[chunk])
            if not len(edge):
                continue
            rows = np.arange(len(edge)) - np.repeat(_before(last[chunk] - first[chunk]), last[chunk] - first[chunk])
            rows += first[edge]
            slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
            crossing = upper[edge, 0] + (rows + 0.5 - upper[edge, 1]) * slope
            columns = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
            places = (rows - top) * (right - left + 1) + columns - left
            np.add.at(toggles, places, 1)
        odd = (toggles & 1).astype(bool).reshape(bottom - top, right - left + 1)
        return Region(top, left, np.logical_xor.accumulate(odd, axis=1)[:, :-1])


@dataclass(frozen=True)
class Ellipse:
    """An ellipse, turned clockwise by `rotation` degrees; a circle if its radii are equal."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    rotation: float = 0.0

    def region(self, height: int, width: int) -> Region:
        """See `Outline`."""
        cosine, sine = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
        reach = np.hypot([self.radius_x * cosine, self.radius_x * sine], [self.radius_y * sine, self.radius_y * cosine])
        centre = np.array([self.x, self.y])
        left, top = _pixels(centre - reach, width, height)
        # A pixel whose centre is just at the border belongs to it.
        right, bottom = _pixels(centre + reach + 1, width, height)
        if left >= right or top >= bottom or min(self.radius_x, self.radius_y) <= 0:
            return NOTHING
        x, y = np.arange(left, right) + 0.5 - self.x, (np.arange(top, bottom) + 0.5 - self.y)[:, None]
        along, across = (x * cosine + y * sine) / self.radius_x, (y * cosine - x * sine) / self.radius_y
        return Region(top, left, along**2 + across**2 <= 1)


@dataclass(frozen=True)
class Runs:
    """Lengths of runs of pixels, outside and inside in turn.

    Attributes:
        counts: the lengths, or COCO's string of them.
        size: height and width of the rectangle that they fill.
        corner: its top and left; None if it is the whole picture.
        by_column: whether they go down the columns, as COCO's do, or along the rows, as CVAT's.
    """

    counts: Sequence[int] | NDArray[np.int64] | str
    size: tuple[int, int]
    corner: tuple[int, int] | None = None
    by_column: bool = True

    def region(self, height: int, width: int) -> Region:
        """See `Outline`."""
        if self.corner is None and self.size != (height, width):
            raise DatasetError(f"a mask is {self.size[1]} x {self.size[0]} pixels, but the picture {width} x {height}")
        if min(self.size) <= 0 or self.size[0] * self.size[1] > MAX_PIXELS:
            raise DatasetError(f"a mask is {self.size[1]} x {self.size[0]} pixels")
        counts = run_lengths(self.counts)
        # Compared one by one first: a sum may overflow.
        if (counts < 0).any() or (counts > MAX_PIXELS).any() or counts.sum() != self.size[0] * self.size[1]:
            raise DatasetError(f"the run lengths of a mask do not fill its {self.size[1]} x {self.size[0]} pixels")
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        mask = inside.reshape(self.size, order="F" if self.by_column else "C")
        return _cut(Region(*(self.corner or (0, 0)), mask), height, width)


def run_lengths(counts: Any) -> NDArray[np.int64]:
    """Lengths of runs as numbers, also from COCO's string; DatasetError for anything else."""
    if isinstance(counts, str):
        return _decompressed(counts)
    try:
        found = np.asarray(counts)
    except ValueError as error:
        raise DatasetError("the run lengths of a mask are no list of numbers") from error
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.dtype == np.uint64:
        raise DatasetError("the run lengths of a mask are no list of whole numbers")
    return found.astype(np.int64)


def _decompressed(text: str) -> NDArray[np.int64]:
    """COCO's string: five bits a character, the low ones first, a sixth says that more follow; from the third number
    on, differences to the last but one.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise DatasetError("the run lengths of a mask are no string of COCO's")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise DatasetError("the run lengths of a mask are cut off")
    if any(abs(count) > MAX_PIXELS for count in counts):
        raise DatasetError("the run lengths of a mask are larger than any picture")
    return np.array(counts, np.int64)


@dataclass(frozen=True)
class Bitmap:
    """A small mask, bool [h, w], whose upper left pixel is at `top`, `left`."""

    top: int
    left: int
    mask: NDArray[np.bool_]

    def region(self, height: int, width: int) -> Region:
        """See `Outline`."""
        return _cut(Region(self.top, self.left, self.mask), height, width)


class Annotation(NamedTuple):
    """An object: its class, an index into the names or NO_CLASS, and the parts of its outline."""

    category: int
    parts: tuple[Outline, ...]


def draw(annotations: Iterable[Annotation], height: int, width: int, ignore_label: int) -> NDArray[np.int32]:
    """The label map of a picture, int32 [H, W].

    Where annotations overlap the one of fewer pixels lies on top, of equal ones the later. Pixels without one get
    `ignore_label`, and so do those of NO_CLASS.

    Raises:
        DatasetError: an outline cannot be drawn.
    """
    label = np.full((height, width), ignore_label, np.int32)
    areas = np.full((height, width), height * width, np.int32)
    for category, parts in annotations:
        top, left, mask = united([part.region(height, width) for part in parts])
        area = np.count_nonzero(mask)
        window = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        over = mask & (area <= areas[window])
        label[window][over] = ignore_label if category == NO_CLASS else category
        areas[window][over] = area
    return label


def united(regions: Sequence[Region]) -> Region:
    """The pixels that belong to any of some regions."""
    some = [region for region in regions if region.mask.size]
    if len(some) <= 1:
        return some[0] if some else NOTHING
    top, left = min(region.top for region in some), min(region.left for region in some)
    bottom = max(region.top + region.mask.shape[0] for region in some)
    right = max(region.left + region.mask.shape[1] for region in some)
    mask = np.zeros((bottom - top, right - left), bool)
    for region in some:
        (height, width), row, column = region.mask.shape, region.top - top, region.left - left
        mask[row : row + height, column : column + width] |= region.mask
    return Region(top, left, mask)


def box(left: float, top: float, right: float, bottom: float, rotation: float = 0.0) -> Polygon:
    """A rectangle, turned clockwise about its centre by `rotation` degrees."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    if rotation:
        cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
        centre = corners.mean(0)
        corners = (corners - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    return Polygon(corners)


def points(values: Any) -> NDArray[np.float64]:
    """Points float64 [N, 2] from a list of numbers or of pairs; DatasetError if they are none."""
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise DatasetError("points are no list of numbers") from error
    if found.size == 0:
        return np.zeros((0, 2))
    if found.dtype.kind not in "iuf" or found.size % 2 or (found.ndim == 2 and found.shape[1] != 2) or found.ndim > 2:
        raise DatasetError("points are not pairs of numbers")
    if not (np.abs(found.astype(np.float64)) <= LARGEST).all():
        raise DatasetError("points lie beyond any picture, or are not numbers")
    return found.astype(np.float64).reshape(-1, 2)


def flaw(found: NDArray[np.float64], size: tuple[int, int] | None) -> str:
    """Why a polygon cannot have a pixel, "" if it can.

    Args:
        found: its points [N, 2]. size: height and width of the picture, if they are known.
    """
    if len(found) == 0:
        return "with fewer than three points"
    away = found - found[0]
    far = away[np.argmax(np.abs(away).sum(1))]
    if not (away[:, 0] * far[1] - away[:, 1] * far[0]).any():
        return "with fewer than three points" if len(np.unique(found, axis=0)) < 3 else "without an area"
    if size and ((found.max(0) <= 0).any() or (found.min(0) >= size[::-1]).any()):
        return "outside of the picture"
    return ""


def sound(found: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of many polygons have no flaw for certain, bool [K]; for the others ask `points` and `flaw` one by one.

    Args:
        found: their points [N, 2], one polygon after the other. counts: of each the number of points, at least one.
        sizes: height and width of the picture of each [K, 2], infinite where they are not known.
    """
    if not len(counts):
        return np.zeros(0, bool)
    starts = _before(counts)
    low, high = np.minimum.reduceat(found, starts), np.maximum.reduceat(found, starts)
    usual = (np.maximum(-low, high) <= LARGEST).all(1) & (high > 0).all(1) & (low < sizes[:, ::-1]).all(1)
    with np.errstate(invalid="ignore", over="ignore"):
        away = found - np.repeat(found[starts], counts, axis=0)
        # The first of each polygon is 0, so that the last one's next may be another's first.
        following = np.roll(away, -1, axis=0)
        areas = np.add.reduceat(away[:, 0] * following[:, 1] - away[:, 1] * following[:, 0], starts)
        return usual & (np.abs(areas) > 1e-6 * (high - low).prod(1))


def _pixels(corner: NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    """Column and row of the first pixel whose centre is not before a point, within the picture."""
    column, row = np.ceil(corner - 0.5)
    return int(np.clip(column, 0, width)), int(np.clip(row, 0, height))


def _before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts


def _cut(region: Region, height: int, width: int) -> Region:
    """What of a region lies in a picture."""
    top, left, mask = region
    mask = mask[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    return Region(max(0, top), max(0, left), mask) if mask.size else NOTHING
