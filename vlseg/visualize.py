"""Pictures of segmentations: colours, overlays with a legend, label files, and grids of pictures."""

import io
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vlseg import storage
from vlseg.errors import ConfigError, ImageError

_BACKGROUND = (255, 255, 255)
_INK = (45, 45, 45)
_SMALLEST_FONT = 12  # pixels
_JPEG_QUALITY = 92
_ROWS = 64  # of an overlay that are made at a time, so that large photographs need little memory

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def palette(num_colors: int) -> NDArray[np.uint8]:
    """uint8 [num_colors, 3]: colours chosen one by one, each as unlike all before it as it can be.

    A shorter palette is the beginning of a longer one. Neither very dark nor very light nor grey, so that black stays
    free for "ignored" and all show on a photograph. Past some 2,000 colours they repeat.
    """
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = _oklab(colours).T
    candidates = colours[(lightness > 0.42) & (lightness < 0.93) & (np.hypot(a, b) > 0.07)]
    space = _oklab(candidates)
    chosen = [int(np.argmin(np.abs(candidates.astype(int) - (51, 119, 238)).sum(axis=1)))]
    distance = np.full(len(space), np.inf)
    for _ in range(1, min(num_colors, len(space))):
        distance = np.minimum(distance, ((space - space[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return candidates[np.resize(chosen, num_colors)]


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
        labels: category names by id. Category i has colour i of `palette`.
        alpha: 0 shows the picture alone, 1 the colours alone.
        legend: the names of the categories present, the largest first; without it the result is W x H.

    Raises:
        ImageError: the sizes of picture and label map differ.
    """
    if image.shape[:2] != label_map.shape:
        raise ImageError(f"a label map of {list(label_map.shape)} does not fit an image of {list(image.shape)}")
    colours = palette(len(labels))
    tinted, pixels = np.empty_like(image), np.zeros(len(labels), np.int64)
    # In 256ths, 16 bits hold the weighted sum of two grey levels.
    weight = round(256 * alpha)
    for start in range(0, len(image), _ROWS):
        part, ids = image[start : start + _ROWS], label_map[start : start + _ROWS]
        known = (ids >= 0) & (ids < len(labels))
        tints = colorize(ids, colours, ignore=None) * np.uint16(weight)
        blend = (part * np.uint16(256 - weight) + tints + 128) >> 8
        tinted[start : start + _ROWS] = np.where(known[..., None], blend.astype(np.uint8), part)
        pixels += np.bincount(ids[known], minlength=len(labels))
    if not legend:
        return Image.fromarray(tinted)
    present = [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i]]
    return _with_legend(Image.fromarray(tinted), [labels[i] for i in present], colours[present])


def _with_legend(picture: Image.Image, names: Sequence[str], colours: NDArray[np.uint8]) -> Image.Image:
    if not names:
        return picture
    width, height = picture.size
    em = max(_SMALLEST_FONT, round(0.026 * (width * height) ** 0.5))
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
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], row_titles: Sequence[str] | None = None, scale: int = 1
) -> Image.Image:
    """A grid of pictures with a title over each column.

    Args:
        rows: of each row its pictures, uint8 [H, W, 3] or [H, W], of any sizes; as many as there are `titles`.
        titles: one per column.
        row_titles: one per row, to the left of it.
        scale: each pixel becomes `scale` x `scale`.

    Raises:
        ImageError: the numbers of rows, columns and titles do not fit together.
    """
    if any(len(row) != len(titles) for row in rows) or (row_titles is not None and len(row_titles) != len(rows)):
        raise ImageError(
            f"a panel with {len(titles)} column titles needs as many pictures in every row, and a title a row"
        )
    images = ([Image.fromarray(array).convert("RGB") for array in row] for row in rows)
    pictures = [[ImageOps.scale(image, scale, Image.Resampling.NEAREST) for image in row] for row in images]
    widths = [max((row[column].width for row in pictures), default=0) for column in range(len(titles))]
    heights = [max((picture.height for picture in row), default=0) for row in pictures]
    em = max(_SMALLEST_FONT, round(0.06 * max(widths, default=0)))
    font = ImageFont.load_default(em)
    gap = max(4, em // 3)
    widths = [max(width, round(font.getlength(title))) for width, title in zip(widths, titles, strict=True)]
    head = round(1.5 * em)
    side = max((round(font.getlength(title)) + gap for title in row_titles or ()), default=0)
    canvas_size = (side + sum(widths) + gap * (len(widths) + 1), head + sum(heights) + gap * (len(heights) + 1))
    canvas = Image.new("RGB", canvas_size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    lefts = side + gap + np.cumsum([0, *(width + gap for width in widths)])
    tops = head + gap + np.cumsum([0, *(height + gap for height in heights)])
    for title, x, width in zip(titles, lefts, widths, strict=False):
        draw.text((x + width / 2, gap + head / 2), title, _INK, font, anchor="mm")
    for title, y, height in zip(row_titles or (), tops, heights, strict=False):
        draw.text((gap, y + height / 2), title, _INK, font, anchor="lm")
    for row, y in zip(pictures, tops, strict=False):
        for picture, x, width in zip(row, lefts, widths, strict=False):
            canvas.paste(picture, (int(x) + (width - picture.width) // 2, int(y)))
    return canvas


def save_label_png(path: str | os.PathLike[str], label_map: np.ndarray, num_labels: int) -> None:
    """Writes int [H, W] as a PNG whose pixel values are the ids: with a palette up to 256 labels, else 16-bit grey.

    Raises:
        ImageError: an id outside the range of the file: [0, 255] or [0, 65535].
        ConfigError, StorageError: as `save_image`.
    """
    limit = 255 if num_labels <= 256 else 65535
    if label_map.size and (label_map.min() < 0 or label_map.max() > limit):
        raise ImageError(f"{path}: label ids {label_map.min()} to {label_map.max()} do not fit in 0 to {limit}")
    if num_labels > 256:
        save_image(path, Image.fromarray(label_map.astype(np.uint16)))
        return
    picture = Image.fromarray(label_map.astype(np.uint8)).convert("P")
    picture.putpalette(colorize(np.arange(256), palette(num_labels), ignore=None).tobytes())
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
