"""Masks as COCO's annotations hold them: run lengths and polygons (Lin et al. 2014; cocodataset/cocoapi)."""

from typing import Any

import numpy as np

Corner = tuple[int, int]
"""(x, y) of a corner of pixels, 0 to the width and 0 to the height; or a step from one to the next."""

Edge = tuple[Corner, Corner]
"""Where it begins, and its step."""

UP, DOWN = (0, -1), (0, 1)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask bool [H, W] as `pycocotools.mask` has it: {"size": [H, W], "counts": text}.

    Runs of pixels go down the columns and begin with those outside the mask. They are written as differences to the run
    before the last, five bits a character.
    """
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(ends, prepend=0)
    differences = lengths.copy()
    differences[3:] -= lengths[1:-2]
    return {"size": list(mask.shape), "counts": "".join(map(_characters, differences.tolist()))}


def _characters(number: int) -> str:
    found = []
    more = True
    while more:
        bits, number = number & 0x1F, number >> 5
        more = number != (-1 if bits & 0x10 else 0)
        found.append(chr(48 + (bits | 0x20 if more else bits)))
    return "".join(found)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """The outlines of the connected parts of a mask bool [H, W], along the edges of pixels: [x, y, x, y, ...] each.

    Pixels that touch at a corner alone are parts of their own. COCO's polygons have no holes: the outline of a hole is
    joined with that of its part by a line that is walked there and back, which encloses nothing. So `pycocotools` draws
    the mask again, to the pixel.
    """
    loops, owner = _loops(mask)
    columns = np.arange(mask.shape[1])
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    begins = np.maximum.accumulate(np.where(mask & ~before, columns, 0), axis=1)
    walks = [list(loop) for loop in loops]
    part = list(range(len(loops)))
    # A hole's first edge is its leftmost, so what the run of pixels left of it begins with is settled before it.
    for number in sorted(range(len(loops)), key=lambda number: loops[number][0]):
        (x, y), hole = loops[number][0], walks[number]
        if _area(hole) > 0:
            continue
        begin = int(begins[y, x - 1])
        part[number] = part[owner[(begin, y + 1), UP]]
        walk = walks[part[number]]
        walk += [walk[0], *hole, hole[0]]
    return [[float(side) for corner in walks[n] for side in corner] for n in range(len(loops)) if part[n] == n]


def _loops(mask: np.ndarray) -> tuple[list[list[Corner]], dict[Edge, int]]:
    """The outlines by their corners, and which of them an edge is of.

    The mask is on the right hand: they go clockwise around parts on a screen. The first corner is the upper end of the
    leftmost edge, of these the topmost.
    """
    padded = np.pad(mask, 1)
    above, below = padded[:-1, 1:-1], padded[1:, 1:-1]
    before, after = padded[1:-1, :-1], padded[1:-1, 1:]
    ways: dict[Corner, list[Corner]] = {}
    for found, (x0, y0), step in (
        (before & ~after, (0, 0), DOWN),
        (~before & after, (0, 1), UP),
        (~above & below, (0, 0), (1, 0)),
        (above & ~below, (1, 0), (-1, 0)),
    ):
        for y, x in np.argwhere(found).tolist():
            ways.setdefault((x + x0, y + y0), []).append(step)
    loops: list[list[Corner]] = []
    owner: dict[Edge, int] = {}
    for first in sorted((corner, step) for corner, steps in ways.items() for step in steps):
        if first in owner:
            continue
        loop, edge = [], first
        while edge not in owner:
            owner[edge] = len(loops)
            (x, y), step = edge
            corner = (x + step[0], y + step[1])
            # Where two parts touch at a corner, the way is around the same one: to the right.
            turned = ways[corner][0] if len(ways[corner]) == 1 else (-step[1], step[0])
            if turned != step:
                loop.append(corner)
            edge = corner, turned
        loops.append([loop[-1], *loop[:-1]])
    return loops, owner


def _area(loop: list[Corner]) -> int:
    """Twice the area of an outline; negative if it goes around a hole."""
    x, y = np.array(loop, np.int64).T
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
