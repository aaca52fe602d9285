"""What Roboflow exports as "Semantic Segmentation Masks": a folder, such as train/, with label maps beside pictures.

```
root/_classes.csv                names and ids: "Pixel Value, Class"
root/kitchen_jpg.rf.1a2b.jpg     a picture
root/kitchen_jpg.rf.1a2b_mask.png  its label map; the value of a pixel is the id of its category
```
"""

import os
from pathlib import Path

from vlseg.data.decoding import counted
from vlseg.data.examples import IGNORE_LABEL, Pair, PairDataset
from vlseg.data.images import read_label
from vlseg.data.listing import UNKNOWN_TYPE, Listing
from vlseg.data.pairs import pictures_by_key, refuse_broken_links, refuse_lonely
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import read_names

FILE = "_classes.csv"
MASK = "_mask"


def open_roboflow(root: str | os.PathLike[str]) -> PairDataset:
    """Finds and pairs the files of `root`; opens no picture.

    Raises:
        DatasetError: there is no list of names, or its ids do not count from 0; there are no pictures, a picture has no
            label map, or a label map no picture.
    """
    root = Path(root)
    found, others = pictures_by_key(root)
    masks = {key.removesuffix(MASK): path for key, path in found.items() if key.endswith(MASK)}
    images = {key: path for key, path in found.items() if not key.endswith(MASK)}
    if not images:
        raise DatasetError(f"{root}: holds no pictures")
    refuse_lonely(root, f"label map (*{MASK}.png)", images, "pictures", masks, [])
    refuse_lonely(root, "picture", masks, "label maps", images, others)
    refuse_broken_links(found.values())
    try:
        names, first_id = read_names(root / FILE)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    if first_id not in (None, 0):
        raise DatasetError(f"{root / FILE}: counts from {first_id}, but Roboflow counts from 0: give the id 0 a name")
    convert = counted(root, names, IGNORE_LABEL, 0, False)
    pairs = tuple(Pair(image, masks[key], key) for key, image in images.items())
    listing = Listing(str(root), len(pairs), {UNKNOWN_TYPE: [name for name in others if name != FILE]})
    return PairDataset(
        names,
        pairs,
        lambda path: convert(read_label(path), path),
        IGNORE_LABEL,
        evidence=convert.evidence,
        listing=listing,
    )
