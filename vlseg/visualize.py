"""Pictures of segmentations: colours, overlays with a legend, label files, and grids of pictures.

What is decided here for every picture: category i has colour i of `palette`, pixels that are none of the labels are
grey, pixels that do not count are black, a legend names what is shown, and small pictures are enlarged.
"""

import functools
import io
import os
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vlseg import storage
from vlseg.errors import ConfigError, ImageError
from vlseg.labels import NONE

NONE_COLOUR = (128, 128, 128)
"""Of pixels that are none of the labels. The palette has no grey."""

IGNORED = "not counted"
"""What legends call pixels that do not count, which are black."""

SMALL = 320
"""Pictures whose longer side has fewer pixels are enlarged until it has as many."""

_SMALL_IN_PANEL = 192
_CONSECUTIVE = 0.3
"""Least distance in Oklab of consecutive colours of the palette; that of black and white is 1."""

_BACKGROUND = (255, 255, 255)
_INK = (45, 45, 45)
_SMALLEST_FONT = 12  # pixels
_JPEG_QUALITY = 92
_ROWS = 64  # of an overlay that are made at a time, so that large photographs need little memory

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def palette(num_colors: int) -> NDArray[np.uint8]:
    """uint8 [num_colors, 3]: colours chosen one by one, each as unlike all before it as it can be.

    Among those that differ clearly from the one before, because names that belong together often follow each other. A
    shorter palette is the beginning of a longer one. Neither very dark nor very light nor grey, so that black stays
    free for "ignored", grey for "none of these", and all show on a photograph. Past some 2,000 colours they repeat.
    """
    return _palette(num_colors).copy()


@functools.lru_cache(8)  # a command draws many pictures with the same labels
def _palette(num_colors: int) -> NDArray[np.uint8]:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = _oklab(colours).T
    candidates = colours[(lightness > 0.42) & (lightness < 0.93) & (np.hypot(a, b) > 0.07)]
    space = _oklab(candidates)
    chosen = [int(np.argmin(np.abs(candidates.astype(int) - (51, 119, 238)).sum(axis=1)))]
    distance = ((space - _oklab(np.array([NONE_COLOUR], np.uint8))) ** 2).sum(axis=1)
    for _ in range(1, min(num_colors, len(space))):
        to_last = ((space - space[chosen[-1]]) ** 2).sum(axis=1)
        distance = np.minimum(distance, to_last)
        chosen.append(int(np.argmax(np.where(to_last >= _CONSECUTIVE**2, distance, -1))))
    return candidates[np.resize(chosen, num_colors)]


def colours_of(labels: Sequence[str], colours: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """uint8 [N, 3] for N labels: those given, by default the `palette`; "none of these" is grey."""
    found = np.array(palette(len(labels)) if colours is None else colours[: len(labels)])
    found[[label == NONE for label in labels]] = NONE_COLOUR
    return found


def _oklab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB uint8 [N, 3] in Oklab, float64 [N, 3], where distances are about as large as they look."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)


def colorize(label_map: np.ndarray, palette: NDArray[np.uint8], ignore: int | None = 255) -> NDArray[np.uint8]:
    """int [H, W] to uint8 [H, W, 3]; black where the id is `ignore` or has no colour in `palette` (uint8 [N, 3])."""
    known = (label_map >= 0) & (label_map < len(palette))
    if ignore is not None:
        known &= label_map != ignore
    colours = np.vstack([palette, np.zeros((1, 3), np.uint8)])
    return colours[np.where(known, label_map, len(palette))]


def overlay(
    image: NDArray[np.uint8], label_map: np.ndarray, labels: Sequence[str], alpha: float = 0.5, legend: bool = True
) -> Image.Image:
    """The picture with every pixel tinted by its category, and a legend below or beside it.

    Args:
        image: uint8 [H, W, 3].
        label_map: int [H, W]; pixels with an id outside [0, len(labels)) stay as they are.
        labels: category names by id, with colours of `colours_of`.
        alpha: 0 shows the picture alone, 1 the colours alone. Less of the picture is left where it is "none of these",
            or its own colours would hide the grey.
        legend: the names of the categories present, the largest first and "none of these" last; "label 5" for the fifth
            if its letters cannot be drawn. With it a small picture is `enlarged`; without it the result is W x H.

    Raises:
        ImageError: the sizes of picture and label map differ.
    """
    if image.shape[:2] != label_map.shape:
        raise ImageError(f"a label map of {list(label_map.shape)} does not fit an image of {list(image.shape)}")
    colours = colours_of(labels)
    tinted, pixels = np.empty_like(image), np.zeros(len(labels), np.int64)
    # In 256ths, 16 bits hold the weighted sum of two grey levels.
    weights = np.array([round(256 * alpha)] * len(labels) + [0], np.uint16)
    weights[:-1][[label == NONE for label in labels]] = round(256 * (1 - (1 - alpha) ** 2))
    for start in range(0, len(image), _ROWS):
        part, ids = image[start : start + _ROWS], label_map[start : start + _ROWS]
        known = (ids >= 0) & (ids < len(labels))
        weight = weights[np.where(known, ids, len(labels))][..., None]
        blend = part * (256 - weight) + colorize(ids, colours, ignore=None) * weight + 128
        tinted[start : start + _ROWS] = (blend >> 8).astype(np.uint8)
        pixels += np.bincount(ids[known], minlength=len(labels))
    picture = Image.fromarray(tinted)
    return _with_legend(enlarged(picture), *_entries(pixels, labels, colours)) if legend else picture


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture, each pixel a block of pixels if it is small: large enough to be seen, with a legend to be read."""
    return _scaled(picture, _factor(picture.size, SMALL))


def _factor(size: Sequence[int], side: int) -> int:
    """The least whole number that makes the longer side of a size `side` or more."""
    return max(1, -(-side // max(*size, 1)))


def _scaled(picture: Image.Image, factor: int) -> Image.Image:
    return picture if factor == 1 else ImageOps.scale(picture, factor, Image.Resampling.NEAREST)


def _entries(
    pixels: NDArray[np.int64], labels: Sequence[str], colours: NDArray[np.uint8]
) -> tuple[list[str], NDArray[np.uint8]]:
    """The names and colours of a legend, given how many pixels of each label are shown."""
    shown = [label for label in range(len(labels)) if pixels[label]]
    shown.sort(key=lambda label: (labels[label] == NONE, -pixels[label]))
    return [_drawable(labels[label]) or f"label {label + 1}" for label in shown], colours[shown]


@functools.cache
def _has_glyph(sign: str) -> bool:
    """Whether the font has a picture of a sign; the same box stands for all that it has not."""
    font = ImageFont.load_default(_SMALLEST_FONT)
    return sign == " " or bytes(font.getmask(sign)) != bytes(font.getmask("\uffff"))


def _drawable(name: str) -> str:
    """The name without accents that the font has not; empty if it lacks letters."""
    if not all(map(_has_glyph, name)):
        name = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return name if all(map(_has_glyph, name)) else ""


def _with_legend(
    picture: Image.Image, names: Sequence[str], colours: NDArray[np.uint8], em: int | None = None
) -> Image.Image:
    """The picture with names and colours below or beside it, in letters of `em` pixels, by default by its size."""
    if not names:
        return picture
    width, height = picture.size
    em = em or max(_SMALLEST_FONT, round(0.026 * (min(width, 2 * height) * min(height, 2 * width)) ** 0.5))
    font = ImageFont.load_default(em)
    below = width >= height and width >= 24 * em
    # A name may fill a line below the picture, but beside it should not make the whole much wider.
    room = width - 5 * em if below else 20 * em
    names = [_shortened(name, font, room) for name in names]
    lengths = [round(font.getlength(name)) + round(2.5 * em) for name in names]
    places, (legend_width, legend_height) = (
        _along_lines(lengths, width - em, em) if below else _down_columns(lengths, height, em)
    )
    if below:
        left, top = em, height
        canvas = Image.new("RGB", (width, height + legend_height), _BACKGROUND)
    else:
        left, top = width + em, 0
        canvas = Image.new("RGB", (width + em + legend_width, max(height, legend_height)), _BACKGROUND)
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, colour in zip(places, names, colours, strict=True):
        x, y = left + x, top + y
        draw.rectangle((x, y - em // 2, x + em, y + em - em // 2), fill=tuple(map(int, colour)))
        draw.text((x + round(1.6 * em), y), name, _INK, font, anchor="lm")
    return canvas


def _along_lines(lengths: Sequence[int], width: int, em: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where entries go in reading order, starting at multiples of 8 em: each (left, middle), and the size of it all."""
    line, stop = round(1.5 * em), 8 * em
    places, x, y = [], 0, round(1.25 * em)
    for length in lengths:
        if x and x + length > width:
            x, y = 0, y + line
        places.append((x, y))
        x += -(-length // stop) * stop
    return places, (width, y + round(1.25 * em))


def _down_columns(lengths: Sequence[int], height: int, em: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """As `_along_lines`, but in columns about as high as `height`, which holds a dozen entries at least."""
    line = round(1.5 * em)
    rows = min(len(lengths), max(12, (height - em) // line))
    places = [(i // rows * max(lengths), round(1.25 * em) + i % rows * line) for i in range(len(lengths))]
    columns = -(-len(lengths) // rows)
    return places, (columns * max(lengths), rows * line + em)


def _shortened(text: str, font: Font, room: float) -> str:
    """`text`, cut and ended by dots where it is longer than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."


def panel(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """A grid of pictures with a title over each column.

    Args:
        rows: of each row its pictures, uint8 [H, W, 3] or [H, W], of any sizes; as many as there are `titles`.
        titles: one per column.
        row_titles: one per row, to the left of it.
        scale: each pixel becomes `scale` x `scale`; by default 1 unless all pictures are small.

    Raises:
        ImageError: the numbers of rows, columns and titles do not fit together.
    """
    if any(len(row) != len(titles) for row in rows) or (row_titles is not None and len(row_titles) != len(rows)):
        raise ImageError(
            f"a panel with {len(titles)} column titles needs as many pictures in every row, and a title a row"
        )
    return _grid(rows or [[]], [titles, *([] for _ in rows[1:])], row_titles or (), scale)


def gallery(pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int = 2) -> Image.Image:
    """Pictures, uint8 [H, W, 3] of any sizes, in reading order, each with its title above.

    Raises:
        ImageError: there are more or fewer titles than pictures.
    """
    if len(pictures) != len(titles):
        raise ImageError(f"a gallery of {len(pictures)} pictures needs as many titles, not {len(titles)}")
    parts = [slice(start, start + columns) for start in range(0, len(pictures), columns)]
    return _grid([pictures[part] for part in parts], [titles[part] for part in parts], (), None)


def comparison(
    rows: Sequence[tuple[NDArray[np.uint8], Sequence[np.ndarray]]],
    titles: Sequence[str],
    labels: Sequence[str],
    colours: NDArray[np.uint8] | None = None,
    ignore: int | None = 255,
) -> Image.Image:
    """Images and label maps of them, side by side, over one legend of all that is shown.

    Args:
        rows: of each row an image, uint8 [H, W, 3], and its label maps, int [H, W].
        titles: one per column.
        labels: category names by id.
        colours: uint8 [N, 3] of the categories, by default as `colours_of` has them.
        ignore: the id of pixels that do not count. They are black, as are ids without a name.

    Raises:
        ImageError: as `panel`.
    """
    colours = colours_of(labels, colours)
    pixels = np.zeros(len(labels) + 1, np.int64)  # the last of them do not count
    drawn: list[list[np.ndarray]] = []
    for image, label_maps in rows:
        drawn.append([image, *(colorize(label_map, colours, ignore) for label_map in label_maps)])
        for label_map in label_maps:
            known = (label_map >= 0) & (label_map < len(labels)) & (label_map != ignore)
            pixels += np.bincount(np.where(known, label_map, len(labels)).ravel(), minlength=len(pixels))
    names, shown = _entries(pixels[:-1], labels, colours)
    if pixels[-1]:
        names, shown = [*names, IGNORED], np.vstack([shown, np.zeros((1, 3), np.uint8)])
    picture = panel(drawn, titles)
    return _with_legend(picture, names, shown, max(_SMALLEST_FONT, round(0.016 * min(picture.width, picture.height))))


def _grid(
    rows: Sequence[Sequence[np.ndarray]],
    heads: Sequence[Sequence[str]],
    row_titles: Sequence[str],
    scale: int | None,
) -> Image.Image:
    """Pictures in rows and columns; `heads` are the titles above those of each row, where it has any."""
    images = [[Image.fromarray(array).convert("RGB") for array in row] for row in rows]
    largest = max((side for row in images for image in row for side in image.size), default=1)
    factor = scale or _factor((largest,), _SMALL_IN_PANEL)
    pictures = [[_scaled(image, factor) for image in row] for row in images]
    columns = range(max(map(len, [*rows, *heads]), default=0))
    widths = [max((row[column].width for row in pictures if column < len(row)), default=0) for column in columns]
    heights = [max((picture.height for picture in row), default=0) for row in pictures]
    em = max(_SMALLEST_FONT, round(0.045 * max(widths, default=0)))
    font = ImageFont.load_default(em)
    gap = max(4, em // 3)
    for row in heads:
        for column, title in enumerate(row):
            widths[column] = max(widths[column], round(font.getlength(title)))
    head_heights = [round(1.5 * em) if row else 0 for row in heads]
    side = max((round(font.getlength(title)) + gap for title in row_titles), default=0)
    lefts = side + gap + np.cumsum([0, *(width + gap for width in widths)])
    bottoms = gap + np.cumsum([head + height + gap for head, height in zip(head_heights, heights, strict=True)])
    canvas = Image.new("RGB", (int(lefts[-1]), int(bottoms[-1])), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, bottom in enumerate(bottoms):
        y = int(bottom) - gap - heights[number]
        for title, x in zip(heads[number], lefts, strict=False):
            draw.text((x, y - head_heights[number] / 2), title, _INK, font, anchor="lm")
        if row_titles:
            draw.text((gap, y + heights[number] / 2), row_titles[number], _INK, font, anchor="lm")
        for picture, x in zip(pictures[number], lefts, strict=False):
            canvas.paste(picture, (int(x), y))
    return canvas


def save_label_png(path: str | os.PathLike[str], label_map: np.ndarray, labels: Sequence[str]) -> None:
    """Writes int [H, W] as a PNG whose pixel values are the ids: with a palette up to 256 labels, else 16-bit grey.

    It has the size of the label map, however small; its colours are those of `overlay`.

    Raises:
        ImageError: an id outside the range of the file: [0, 255] or [0, 65535].
        ConfigError, StorageError: as `save_image`.
    """
    limit = 255 if len(labels) <= 256 else 65535
    if label_map.size and (label_map.min() < 0 or label_map.max() > limit):
        raise ImageError(f"{path}: label ids {label_map.min()} to {label_map.max()} do not fit in 0 to {limit}")
    if len(labels) > 256:
        save_image(path, Image.fromarray(label_map.astype(np.uint16)))
        return
    picture = Image.fromarray(label_map.astype(np.uint8)).convert("P")
    picture.putpalette(colorize(np.arange(256), colours_of(labels), ignore=None).tobytes())
    save_image(path, picture)


def save_image(path: str | os.PathLike[str], image: Image.Image | NDArray[np.uint8]) -> None:
    """Writes a PIL image or uint8 [H, W, 3] in the format that the extension names: whole, or not at all.

    Raises:
        ConfigError: no picture format has this extension.
        StorageError: the file cannot be written.
    """
    extension = os.path.splitext(path)[1].lower()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file_format = Image.registered_extensions().get(extension)
    if file_format not in Image.SAVE:
        raise ConfigError(f"{path}: pictures cannot be saved as {extension or 'a file without extension'}; use .png")
    if file_format == "JPEG":
        picture = picture.convert("RGB")
    encoded = io.BytesIO()
    picture.save(encoded, file_format, **({"quality": _JPEG_QUALITY} if file_format == "JPEG" else {}))
    storage.write_bytes(path, encoded.getvalue())
