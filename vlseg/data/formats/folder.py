"""A data set as people have it: a folder of pictures, a folder of label maps and a list of category names.

```
root/images/kitchen/001.jpg      pairs are found by path without extension
root/labels/kitchen/001.png      palette or greyscale; the value of a pixel is the id of its category
root/names.txt                   one category a line, optionally as "id: name" or "id<tab>name"
```
"""

import os
from pathlib import Path

from vlseg.data.decoding import counted
from vlseg.data.examples import IGNORE_LABEL, Pair, PairDataset
from vlseg.data.images import EXTENSIONS, is_picture, read_label
from vlseg.data.pairs import some, walk
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
        DatasetError: a folder is missing, there are no pictures, a picture has no label map or two, names are
            missing, blank or twice, or their ids contradict the other arguments.
    """
    root = Path(root)
    image_files = _by_stem(root / images)
    label_files = _by_stem(root / labels)
    if not image_files:
        raise DatasetError(f"{root / images}: no pictures found; known extensions are {' '.join(EXTENSIONS)}")
    missing = [stem for stem in image_files if stem not in label_files]
    if missing:
        raise DatasetError(
            f"{root / labels}: no label map for {len(missing)} of {len(image_files)} pictures: {some(missing)}"
        )
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
    return PairDataset(category_names, pairs, lambda path: convert(read_label(path), path), ignore_label)


def _by_stem(folder: Path) -> dict[str, Path]:
    """Picture files under `folder`, sorted, keyed by their path in it without extension."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(walk(folder)):
        inside = path.relative_to(folder)
        if not is_picture(path) or any(part.startswith(".") for part in inside.parts):
            continue
        stem = inside.with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(f"{folder}: {found[stem].name} and {path.name} would share a pair; remove one")
        found[stem] = path
    return found
