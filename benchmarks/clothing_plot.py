"""Curves as SVG, without a library."""

from collections.abc import Mapping

import numpy as np

SIDE, MARGIN = 400, 48
COLOURS = ("#0072b2", "#d55e00", "#009e73")


def svg(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], across: str, up: str) -> str:
    """A square plot of curves in [0, 1]: by title x and y, float [T] each; points that are nan are left out."""
    size = SIDE + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" font-family="sans-serif" '
        f'font-size="13"><rect width="{size}" height="{size}" fill="white"/>'
    ]
    for tick in np.linspace(0, 1, 6):
        x, y = _place(tick, tick)
        parts.append(f'<path d="M{x} {MARGIN}V{SIDE + MARGIN}M{MARGIN} {y}H{SIDE + MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{SIDE + MARGIN + 18}" text-anchor="middle">{tick:.1f}</text>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{tick:.1f}</text>')
    middle = MARGIN + SIDE // 2
    parts.append(f'<text x="{middle}" y="{size - 8}" text-anchor="middle">{across}</text>')
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{up}</text>')
    for number, (title, (xs, ys)) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        kept = ~(np.isnan(xs) | np.isnan(ys))
        points = " ".join("{},{}".format(*_place(x, y)) for x, y in zip(xs[kept], ys[kept], strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{MARGIN + 10}" y="{SIDE + MARGIN - 12 - 18 * number}" fill="{colour}">{title}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _place(x: float, y: float) -> tuple[float, float]:
    return round(MARGIN + SIDE * float(x), 1), round(MARGIN + SIDE * (1 - float(y)), 1)
