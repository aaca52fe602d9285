"""Label maps in colours with a list of them: what CVAT exports as "Segmentation mask 1.1".

```
root/labelmap.txt                    a label and its colour a line: "cat:128,0,0::"
root/SegmentationClass/kitchen/1.png colours
root/JPEGImages/kitchen/1.jpg        pictures, or in a folder that is named
```

Classes are the labels in the order of the list. Black pixels, which CVAT calls background, are those without an
annotation: they do not count.
"""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlseg.data.examples import Decoder, Pair, PairDataset
from vlseg.data.formats.annotated import ignore_label
from vlseg.data.images import read_label_colours
from vlseg.data.listing import UNKNOWN_TYPE, Listing
from vlseg.data.pairs import pictures_by_key, read_lines, refuse_broken_links, refuse_lonely
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import check_names

FILE = "labelmap.txt"
MASKS, PICTURES = "SegmentationClass", "JPEGImages"
BLACK = (0, 0, 0)


def open_colour_masks(root: str | os.PathLike[str], images: str = "") -> PairDataset:
    """Finds and pairs the files; opens no picture.

    Args:
        root: the folder of the export. images: that of the pictures, where they were not exported too.

    Raises:
        DatasetError: a file is missing or has no partner, or the list of colours is damaged.
    """
    root = Path(root)
    pictures = Path(images) if images else root / PICTURES
    names, colours = read_colours(root / FILE)
    image_files, other_images = pictures_by_key(pictures)
    label_files, other_labels = pictures_by_key(root / MASKS)
    if not image_files:
        raise DatasetError(f"{pictures}: holds no pictures; write cvat:{root}:PICTURES if they are elsewhere")
    refuse_lonely(root / MASKS, "label map", image_files, "pictures", label_files, other_labels)
    refuse_lonely(pictures, "picture", label_files, "label maps", image_files, other_images)
    refuse_broken_links([*image_files.values(), *label_files.values()])
    pairs = tuple(Pair(image, label_files[stem], stem) for stem, image in image_files.items())
    besides = {"other files beside the label maps": other_labels}
    listing = Listing(str(pictures), len(pairs), {UNKNOWN_TYPE: other_images}, besides)
    ignored = ignore_label(names)
    return PairDataset(names, pairs, _decoder(colours, ignored), ignored, listing=listing)


def read_colours(path: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours of the classes, without what is black.

    Raises:
        DatasetError: the file is missing, lists no class, or a line is not like "cat:128,0,0::"; or two labels have one
            name or colour.
    """
    names, colours = [], []
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.partition(":")[0].split(",")
        if len(parts) != 3 or not all(re.fullmatch(r"\s*\d{1,3}\s*", part) and int(part) < 256 for part in parts):
            raise DatasetError(f"{path}: {line!r} is not like 'cat:128,0,0::'")
        red, green, blue = (int(part) for part in parts)
        if (red, green, blue) != BLACK:
            names.append(name)
            colours.append((red, green, blue))
    if len(set(colours)) < len(colours):
        raise DatasetError(f"{path}: two labels have one colour")
    try:
        return check_names(names, source=str(path), ignore_case=False), tuple(colours)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error


def _decoder(colours: tuple[tuple[int, int, int], ...], ignored: int) -> Decoder:
    # A colour as one number.
    weights = np.array([1, 256, 65536])
    ids = {int(weights @ colour): index for index, colour in enumerate(colours)} | {0: ignored}

    def decode(path: Path) -> NDArray[np.int32]:
        pixels = read_label_colours(path)
        found, inverse = np.unique(pixels @ weights, return_inverse=True)
        strange = [value for value in found.tolist() if value not in ids]
        if strange:
            colour = f"{strange[0] % 256},{strange[0] // 256 % 256},{strange[0] // 65536}"
            raise DatasetError(f"{path}: has the colour {colour}, which {FILE} does not list")
        return np.array([ids[value] for value in found.tolist()], np.int32)[inverse].reshape(pixels.shape[:2])

    return decode
