"""A data set as people have it: a folder of pictures, a folder of label maps and a list of category names.

```
root/images/kitchen/001.jpg      pairs are found by path without extension, accents in either way of writing
root/labels/kitchen/001.png      palette or greyscale; the value of a pixel is the id of its category
root/names.txt                   one category a line, optionally as "id: name" or "id<tab>name"
```
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlseg.data.decoding import counted
from vlseg.data.examples import IGNORE_LABEL, Pair, PairDataset
from vlseg.data.images import EXTENSIONS, read_label
from vlseg.data.listing import UNKNOWN_TYPE, Listing, is_picture, order, some, walk
from vlseg.data.pairs import key, put, refuse_broken_links
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import read_names


def open_folder(
    root: str | os.PathLike[str],
    images: str = "images",
    labels: str = "labels",
    names: str = "names.txt",
    ignore_label: int = IGNORE_LABEL,
    label_offset: int = 0,
    ignore_zero: bool = False,
) -> PairDataset:
    """Finds and pairs the files of `root`; opens no picture.

    Args:
        root: the folder that holds the others.
        images, labels, names: where they are in `root`.
        ignore_label: the value of pixels that do not count, in the files and in the examples.
        label_offset, ignore_zero: how the files count their categories, see `vlseg.data.decoding.counted`.

    Raises:
        DatasetError: a folder is missing, there are no pictures, a picture has no label map or two, a label map no
            picture, a link leads nowhere, names are missing, blank or twice, or their ids contradict the other
            arguments.
    """
    root = Path(root)
    image_files, other_images = _by_stem(root / images)
    label_files, other_labels = _by_stem(root / labels)
    if not image_files:
        raise DatasetError(f"{root / images}: no pictures found; known extensions are {' '.join(EXTENSIONS)}")
    _refuse_lonely(root / labels, "label map", image_files, "pictures", label_files, other_labels)
    _refuse_lonely(root / images, "picture", label_files, "label maps", image_files, other_images)
    refuse_broken_links([*image_files.values(), *label_files.values()])
    first_id = label_offset + int(ignore_zero)
    if not (root / names).is_file():
        raise DatasetError(f"{root / names}: no such file of category names")
    try:
        category_names, named_first_id = read_names(root / names)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    if named_first_id not in (None, first_id):
        raise DatasetError(
            f"{root / names}: counts from {named_first_id}, but labels are read from {first_id}; "
            "set label_offset or ignore_zero to agree"
        )
    convert = counted(root, len(category_names), ignore_label, label_offset, ignore_zero)
    pairs = tuple(Pair(image, label_files[stem], stem) for stem, image in image_files.items())
    besides = {"other files beside the label maps": other_labels}
    listing = Listing(str(root / images), len(pairs), {UNKNOWN_TYPE: other_images}, besides)
    return PairDataset(
        category_names, pairs, lambda path: convert(read_label(path), path), ignore_label, listing=listing
    )


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Picture files under `folder`, sorted, by the `pairs.key` of their path in it without extension; other files."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    others = []
    for path in sorted(walk(folder), key=order):
        inside = path.relative_to(folder)
        if is_picture(path):
            put(found, key(inside.with_suffix("").as_posix()), path, folder)
        else:
            others.append(str(inside))
    return found, others


def _refuse_lonely(
    folder: Path, kind: str, wanted: Mapping[str, Path], partners: str, found: Mapping[str, Path], others: Sequence[str]
) -> None:
    """Raises DatasetError if `folder` lacks the partner of a file.

    Args:
        kind, partners: what the files of `folder` and of the other one are called.
        wanted, found: files of the other folder and of this one, by their keys. others: files that are not read.
    """
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        near = [name for name in others if key(Path(name).with_suffix("").as_posix()) in set(missing)]
        hint = f"; of an unknown type: {some(near)}" if near else ""
        raise DatasetError(f"{folder}: no {kind} for {len(missing)} of {len(wanted)} {partners}: {some(missing)}{hint}")
