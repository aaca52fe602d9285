"""Pictures of a report: a confusion matrix with its names, and a photograph beside its label and its prediction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlseg import visualize

MOST = 200
"""Classes that a picture of a matrix shows."""

REST = "all others"
"""The column of classes that it does not show."""

LONGEST = 512
"""Pixels of the long side of a photograph as it is drawn, at most; at least they are `visualize.SMALL`."""

_CELL = 26  # pixels, in which "100" can be read
_FONT = 15
_NUMBERS = 12
_EDGE = 12
_LONGEST_NAME = 28  # letters
_PAPER, _INK, _GRID, _DIAGONAL = (255, 255, 255), (45, 45, 45), (228, 228, 228), (120, 120, 120)
_DARK = np.array((16, 78, 139))


def confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """A picture of a confusion matrix: of each label the percentage of its pixels that got each prediction.

    Labels are sorted by their pixels, the most frequent first, and so are the columns, so that what is right lies on
    the diagonal. The shares of labels among all pixels stand beside their names. A label without pixels has no row, and
    no column unless it is predicted. Of more than MOST labels the most frequent are shown.

    Args:
        matrix: [S, K], pixels by label and prediction. names: of the K predictions, of which the first S are labels.
    """
    classes = len(matrix)
    pixels = matrix.sum(axis=1)
    order = np.argsort(-pixels, kind="stable")
    rows = order[: np.count_nonzero(pixels)][:MOST]
    predicted = order[(pixels[order] == 0) & (matrix.sum(axis=0)[order] > 0)]
    columns = [*rows, *predicted[: MOST - len(rows)], *range(classes, matrix.shape[1])]
    counts, heads = matrix[rows][:, columns], [names[index] for index in columns]
    rest = np.setdiff1d(np.arange(classes), columns)
    if matrix[rows][:, rest].any():
        counts = np.concatenate([counts, matrix[rows][:, rest].sum(axis=1, keepdims=True)], axis=1)
        heads.append(REST)
    total = max(int(pixels.sum()), 1)
    titles = [f"{_short(names[index])}  {_percent(pixels[index] / total)} %" for index in rows]
    said = [
        "percent of a label's pixels (rows, with their share of all pixels) by prediction (columns)",
        f"{len(rows)} of {classes} labels are shown; {classes - np.count_nonzero(pixels)} have no pixel",
    ]
    return _table(counts / pixels[rows][:, None], said, titles, [_short(name) for name in heads])


def _table(shares: NDArray[np.float64], said: Sequence[str], rows: Sequence[str], heads: Sequence[str]) -> Image.Image:
    """A table of shares in [0, 1] under some lines."""
    font, small = ImageFont.load_default(_FONT), ImageFont.load_default(_NUMBERS)
    left = _EDGE + max((round(font.getlength(name)) for name in rows), default=0) + 8
    head = max((round(font.getlength(name)) for name in heads), default=0) + 8
    top = 2 * _EDGE + round(1.4 * _FONT * len(said)) + head
    widest = max(round(font.getlength(line)) for line in said)
    width = max(left + _CELL * len(heads), _EDGE + widest) + _EDGE
    canvas = Image.new("RGB", (width, top + _CELL * len(rows) + _EDGE), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(said):
        draw.text((_EDGE, _EDGE + round(1.4 * _FONT * number)), line, _INK, font)
    for column, name in enumerate(heads):
        upright = Image.new("L", (head, _CELL), 0)
        ImageDraw.Draw(upright).text((4, _CELL / 2), name, 255, font, anchor="lm")
        canvas.paste(_INK, (left + column * _CELL, top - head), upright.rotate(90, expand=True))
    for row, name in enumerate(rows):
        y = top + row * _CELL
        draw.text((left - 8, y + _CELL / 2), name, _INK, font, anchor="rm")
        for column in range(len(heads)):
            x, share = left + column * _CELL, float(shares[row, column])
            # The root, so that small shares can be seen.
            colour = tuple(int(part) for part in np.rint(255 - (255 - _DARK) * share**0.5))
            draw.rectangle((x, y, x + _CELL, y + _CELL), fill=colour, outline=_GRID)
            if share >= 0.005:
                ink = _PAPER if share > 0.35 else _INK
                draw.text((x + _CELL / 2, y + _CELL / 2), f"{100 * share:.0f}", ink, small, anchor="mm")
    for place in range(len(rows)):  # what is right
        x, y = left + place * _CELL, top + place * _CELL
        draw.rectangle((x, y, x + _CELL, y + _CELL), outline=_DIAGONAL)
    return canvas


def comparison(
    image: NDArray[np.uint8], label: np.ndarray, prediction: np.ndarray, names: Sequence[str], title: str
) -> Image.Image:
    """A photograph, its label and its prediction beside each other, with legends and a title.

    Large ones are reduced to a long side of LONGEST pixels, small ones enlarged, each pixel to a square.

    Args:
        image: uint8 [H, W, 3]. label, prediction: int [H, W], indices into `names`; others stay as in the photograph.
    """
    height, width = label.shape
    longest = max(height, width)
    enlarged = max(1, -(-visualize.SMALL // longest))
    scale = enlarged if longest <= LONGEST else LONGEST / longest
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if enlarged > 1 else Image.Resampling.BOX
    photograph = np.asarray(Image.fromarray(image).resize(size, how))
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size[::-1], (height, width), strict=True)
    )
    drawn = [
        np.asarray(visualize.overlay(photograph, ids[rows][:, columns], names, alpha=0.7))
        for ids in (label, prediction)
    ]
    panel = visualize.panel([[photograph, *drawn]], ["photograph", "label", "prediction"])
    em = max(_FONT, panel.width // 50)
    font, head = ImageFont.load_default(em), round(1.8 * em)
    canvas_width = max(panel.width, round(font.getlength(title)) + 2 * _EDGE)
    canvas = Image.new("RGB", (canvas_width, panel.height + head), _PAPER)
    canvas.paste(panel, (0, head))
    ImageDraw.Draw(canvas).text((_EDGE, head / 2), title, _INK, font, anchor="lm")
    return canvas


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3].rstrip()}..."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share == 0 or share >= 0.0005 else "<0.1"
