"""What the objects of the tiny world look like: a table of parts, each an intersection of simple regions.

An object lives in local coordinates: x to the right, y up, about inside the unit circle. It is painted part by part,
later parts over earlier ones. One part is the set of points where six forms are all positive: an ellipse's inside,
another ellipse's outside and up to four half-planes. As every part of every class has this one form, a class is just
a row of numbers, and drawing a batch of different objects needs no branches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OBJECTS: dict[str, tuple[str, ...]] = {
    "apple": ("fruit", "pippin"),
    "banana": ("fruit", "plantain"),
    "tree": ("plant", "oak", "shrub"),
    "house": ("building", "home", "cottage"),
    "car": ("vehicle", "automobile", "sedan"),
    "fish": ("animal", "goldfish"),
    "star": ("shape", "pentagram"),
    "mushroom": ("fungus", "toadstool"),
    "cup": ("container", "mug", "teacup"),
    "umbrella": ("accessory", "parasol"),
}
"""Name -> hypernym and synonyms, in the order of their ids."""

MAX_PARTS = 6
MAX_EDGES = 4
_FAR = 9.0  # the value of a form that never binds

Point = tuple[float, float]
Hsv = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipse:
    """Centre, radii and anticlockwise rotation in radians, in local coordinates."""

    x: float
    y: float
    rx: float
    ry: float
    angle: float = 0.0


@dataclass(frozen=True)
class Part:
    """One region and the range its colour is drawn from (hue in turns, may be negative; all else in [0, 1])."""

    low: Hsv
    high: Hsv
    inside: Ellipse | None = None
    outside: Ellipse | None = None
    polygon: Sequence[Point] = ()
    edges: Sequence[tuple[float, float, float]] = ()  # a x + b y + c > 0, for cuts that are no closed polygon


def _conic(ellipse: Ellipse) -> np.ndarray:
    """Coefficients of (x^2, x y, y^2, x, y, 1), positive inside the ellipse and 1 in its centre."""
    cos, sin = math.cos(ellipse.angle), math.sin(ellipse.angle)
    along = np.array([cos, sin]) / ellipse.rx
    across = np.array([-sin, cos]) / ellipse.ry
    quadratic = np.outer(along, along) + np.outer(across, across)
    centre = np.array([ellipse.x, ellipse.y])
    linear = 2 * quadratic @ centre
    constant = 1 - centre @ quadratic @ centre
    return np.array(
        [-quadratic[0, 0], -2 * quadratic[0, 1], -quadratic[1, 1], linear[0], linear[1], constant], np.float32
    )


def _half_planes(part: Part) -> np.ndarray:
    """[MAX_EDGES, 3] coefficients of (x, y, 1), positive inside; the polygon is convex and anticlockwise."""
    planes = np.tile(np.array([0, 0, _FAR], np.float32), (MAX_EDGES, 1))
    edges = list(part.edges)
    for (x0, y0), (x1, y1) in zip(part.polygon, (*part.polygon[1:], *part.polygon[:1]), strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        a, b = (y0 - y1) / length, (x1 - x0) / length
        edges.append((a, b, -a * x0 - b * y0))
    for row, edge in enumerate(edges):
        planes[row] = edge
    return planes


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _kite(turn: float) -> tuple[Point, ...]:
    """One of the five rays of a star."""

    def polar(radius: float, angle: float) -> Point:
        return radius * math.cos(angle), radius * math.sin(angle)

    angle = math.pi / 2 + 2 * math.pi * turn
    return (0.0, 0.0), polar(0.45, angle - math.pi / 5), polar(1.0, angle), polar(0.45, angle + math.pi / 5)


_RED = ((-0.03, 0.8, 0.72), (0.02, 0.92, 0.9))
_LEAF = ((0.26, 0.6, 0.45), (0.36, 0.8, 0.6))
_YELLOW = ((0.125, 0.75, 0.88), (0.155, 0.9, 1.0))
_BARK = ((0.06, 0.5, 0.3), (0.09, 0.65, 0.42))
_WHITE = ((0.1, 0.0, 0.92), (0.16, 0.06, 1.0))
_DARK = ((0.6, 0.05, 0.1), (0.7, 0.15, 0.2))
_CREAM = ((0.09, 0.2, 0.8), (0.13, 0.32, 0.95))
_BLUE = ((0.55, 0.65, 0.65), (0.63, 0.85, 0.9))
_GLASS = ((0.5, 0.15, 0.85), (0.55, 0.3, 0.97))
_ORANGE = ((0.045, 0.8, 0.85), (0.075, 0.95, 1.0))
_PURPLE = ((0.76, 0.55, 0.6), (0.86, 0.75, 0.8))
_PINK = ((0.8, 0.25, 0.85), (0.9, 0.4, 0.95))

_CRESCENT = (Ellipse(0, 0.25, 1.0, 1.0), Ellipse(0, 0.78, 0.98, 0.95))

_PARTS: dict[str, tuple[Part, ...]] = {
    "apple": (
        Part(*_RED, inside=Ellipse(-0.3, -0.12, 0.64, 0.76)),
        Part(*_RED, inside=Ellipse(0.3, -0.12, 0.64, 0.76)),
        Part((-0.02, 0.3, 0.95), (0.02, 0.45, 1.0), inside=Ellipse(-0.45, 0.2, 0.13, 0.2, -0.4)),
        Part(*_BARK, polygon=((-0.08, 0.4), (0.08, 0.4), (0.12, 0.95), (-0.04, 0.95))),
        Part(*_LEAF, inside=Ellipse(0.4, 0.78, 0.32, 0.15, 0.4)),
    ),
    "banana": (
        Part(*_YELLOW, *_CRESCENT),
        Part(*_BARK, *_CRESCENT, edges=((1, 0, -0.8),)),
        Part(*_BARK, *_CRESCENT, edges=((-1, 0, -0.88),)),
    ),
    "tree": (
        Part(*_BARK, polygon=_box(-0.14, -1.0, 0.14, 0.0)),
        Part(*_LEAF, inside=Ellipse(-0.4, 0.02, 0.46, 0.42)),
        Part(*_LEAF, inside=Ellipse(0.4, 0.02, 0.46, 0.42)),
        Part(*_LEAF, inside=Ellipse(0.0, 0.45, 0.52, 0.5)),
    ),
    "house": (
        Part(*_BARK, polygon=_box(0.4, 0.2, 0.64, 0.9)),
        Part(*_CREAM, polygon=_box(-0.72, -0.85, 0.72, 0.15)),
        Part((-0.02, 0.6, 0.55), (0.03, 0.75, 0.75), polygon=((-0.98, 0.1), (0.98, 0.1), (0.0, 0.95))),
        Part(*_BARK, polygon=_box(-0.5, -0.85, -0.14, -0.2)),
        Part(*_GLASS, polygon=_box(0.1, -0.45, 0.52, -0.08)),
    ),
    "car": (
        Part(*_BLUE, polygon=((-0.68, 0.05), (0.62, 0.05), (0.34, 0.55), (-0.46, 0.55))),
        Part(*_BLUE, polygon=((-1.0, -0.35), (1.0, -0.35), (0.96, 0.1), (-1.0, 0.14))),
        Part(*_GLASS, polygon=((-0.52, 0.1), (-0.1, 0.1), (-0.1, 0.44), (-0.38, 0.44))),
        Part(*_GLASS, polygon=((0.02, 0.1), (0.46, 0.1), (0.26, 0.44), (0.02, 0.44))),
        Part(*_DARK, inside=Ellipse(-0.54, -0.36, 0.27, 0.27)),
        Part(*_DARK, inside=Ellipse(0.54, -0.36, 0.27, 0.27)),
    ),
    "fish": (
        Part(*_ORANGE, polygon=((-0.35, 0.0), (-1.0, 0.52), (-1.0, -0.52))),
        Part(*_ORANGE, polygon=((0.45, 0.3), (-0.15, 0.75), (-0.2, 0.3))),
        Part(*_ORANGE, inside=Ellipse(0.22, 0.0, 0.76, 0.48)),
        Part(*_WHITE, inside=Ellipse(0.22, 0.0, 0.76, 0.48), edges=((1, 0, -0.05), (-1, 0, 0.27))),
        Part(*_WHITE, inside=Ellipse(0.6, 0.12, 0.16, 0.16)),
        Part(*_DARK, inside=Ellipse(0.62, 0.12, 0.09, 0.09)),
    ),
    "star": tuple(Part(*_YELLOW, polygon=_kite(k / 5)) for k in range(5)),
    "mushroom": (
        Part(*_CREAM, inside=Ellipse(0, -0.45, 0.34, 0.9), edges=((0, 1, 0.92),)),
        Part(*_RED, inside=Ellipse(0, -0.1, 0.98, 0.98), edges=((0, 1, 0.1),)),
        Part(*_WHITE, inside=Ellipse(-0.48, 0.2, 0.18, 0.18)),
        Part(*_WHITE, inside=Ellipse(0.05, 0.52, 0.2, 0.18)),
        Part(*_WHITE, inside=Ellipse(0.5, 0.15, 0.18, 0.16)),
    ),
    "cup": (
        Part(*_WHITE, inside=Ellipse(0.62, -0.02, 0.38, 0.42), outside=Ellipse(0.6, -0.02, 0.22, 0.25)),
        Part(*_WHITE, polygon=((-0.5, -0.8), (0.36, -0.8), (0.56, 0.6), (-0.7, 0.6))),
        Part(*_BLUE, polygon=((-0.58, -0.35), (0.43, -0.35), (0.5, 0.1), (-0.64, 0.1))),
        Part(*_WHITE, inside=Ellipse(-0.07, 0.6, 0.63, 0.22)),
        Part(*_BARK, inside=Ellipse(-0.07, 0.6, 0.5, 0.13)),
    ),
    "umbrella": (
        Part(*_DARK, polygon=_box(-0.06, -0.75, 0.06, 0.98)),
        Part(
            *_DARK,
            inside=Ellipse(0.17, -0.74, 0.23, 0.24),
            outside=Ellipse(0.17, -0.74, 0.11, 0.12),
            edges=((0, -1, -0.74),),
        ),
        Part(
            *_PURPLE,
            inside=Ellipse(0, -0.05, 0.98, 0.92),
            outside=Ellipse(-0.64, -0.05, 0.32, 0.2),
            edges=((0, 1, 0.05), (-1, 0, 0.0)),
        ),
        Part(
            *_PURPLE,
            inside=Ellipse(0, -0.05, 0.98, 0.92),
            outside=Ellipse(0.64, -0.05, 0.32, 0.2),
            edges=((0, 1, 0.05), (1, 0, 0.0)),
        ),
        Part(*_PINK, inside=Ellipse(0, -0.05, 0.34, 0.92), outside=Ellipse(0, -0.05, 0.3, 0.2), edges=((0, 1, 0.05),)),
    ),
}


def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inside and outside conics, half-planes and colour ranges of all classes; missing parts are empty regions."""
    shape = (len(OBJECTS), MAX_PARTS)
    inside = np.zeros((*shape, 6), np.float32)
    inside[..., 5] = -1.0
    outside = np.zeros((*shape, 6), np.float32)
    outside[..., 5] = _FAR
    planes = np.zeros((*shape, MAX_EDGES, 3), np.float32)
    colours = np.zeros((*shape, 2, 3), np.float32)
    unbounded = np.array([0, 0, 0, 0, 0, _FAR], np.float32)
    for row, name in enumerate(OBJECTS):
        for column, part in enumerate(_PARTS[name]):
            inside[row, column] = unbounded if part.inside is None else _conic(part.inside)
            outside[row, column] = unbounded if part.outside is None else -_conic(part.outside)
            planes[row, column] = _half_planes(part)
            colours[row, column] = part.low, part.high
    return inside, outside, planes, colours


#: float32 [classes, parts, 6], [classes, parts, 6], [classes, parts, edges, 3], [classes, parts, low/high, hsv].
INSIDE, OUTSIDE, PLANES, COLOURS = _table()
