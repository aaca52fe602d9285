"""A data set as people have it: a folder of pictures, a folder of label maps and a list of category names.

```
root/images/kitchen/001.jpg      pairs are found by path without extension, accents in either way of writing
root/labels/kitchen/001.png      palette or greyscale; the value of a pixel is the id of its category
root/names.txt                   one category a line, optionally as "id: name"; or see `vlseg.labels.names_files`
```
"""

import os
from pathlib import Path

from vlseg.data.decoding import counted
from vlseg.data.examples import IGNORE_LABEL, Pair, PairDataset
from vlseg.data.images import EXTENSIONS, read_label
from vlseg.data.listing import UNKNOWN_TYPE, Listing
from vlseg.data.orientation import check_rule
from vlseg.data.pairs import pictures_by_key, refuse_broken_links, refuse_lonely
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
    label_orientation: str = "",
) -> PairDataset:
    """Finds and pairs the files of `root`; opens no picture.

    Args:
        root: the folder that holds the others.
        images, labels, names: where they are in `root`.
        ignore_label: the value of pixels that do not count, in the files and in the examples.
        label_offset, ignore_zero: how the files count their categories, see `vlseg.data.decoding.counted`.
        label_orientation: "raw" or "turned" where EXIF turns photographs to the same size, which leaves open what
            labels were made of; see `vlseg.data.orientation`.

    Raises:
        DatasetError: a folder is missing, there are no pictures, a picture has no label map or two, a label map no
            picture, a link leads nowhere, names are missing, blank or twice, or their ids contradict the other
            arguments.
    """
    root = Path(root)
    image_files, other_images = pictures_by_key(root / images)
    label_files, other_labels = pictures_by_key(root / labels)
    if not image_files:
        raise DatasetError(f"{root / images}: no pictures found; known extensions are {' '.join(EXTENSIONS)}")
    refuse_lonely(root / labels, "label map", image_files, "pictures", label_files, other_labels)
    refuse_lonely(root / images, "picture", label_files, "label maps", image_files, other_images)
    refuse_broken_links([*image_files.values(), *label_files.values()])
    first_id = label_offset + int(ignore_zero)
    if not os.path.lexists(root / names):
        raise DatasetError(f"{root / names}: no such file of category names; --names has another one's name")
    try:
        category_names, named_first_id = read_names(root / names)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    if named_first_id not in (None, first_id):
        raise DatasetError(
            f"{root / names}: counts from {named_first_id}, but labels are read from {first_id}; "
            "set label_offset or ignore_zero to agree"
        )
    convert = counted(root, category_names, ignore_label, label_offset, ignore_zero)
    pairs = tuple(Pair(image, label_files[stem], stem) for stem, image in image_files.items())
    besides = {"other files beside the label maps": other_labels}
    listing = Listing(str(root / images), len(pairs), {UNKNOWN_TYPE: other_images}, besides)
    return PairDataset(
        category_names,
        pairs,
        lambda path: convert(read_label(path), path),
        ignore_label,
        check_rule(label_orientation),
        convert.evidence,
        listing,
    )
