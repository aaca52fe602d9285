"""The data sets that are known by name, read from their official folders as they are unpacked."""

from vlseg.data.catalog.clothing import CLOTHING
from vlseg.data.catalog.coco import COCO_OBJECT, COCO_PANOPTIC, COCO_SEEN, COCO_STUFF, COCO_UNSEEN
from vlseg.data.catalog.entry import Entry
from vlseg.data.catalog.fss1000 import FSS_1000
from vlseg.data.catalog.pascal import CONTEXT_59, CONTEXT_60, VOC_20, VOC_21
from vlseg.data.catalog.scenes import ADE20K, BDD100K, CAMVID, CITYSCAPES, IDD, MAPILLARY, SUN_RGBD
from vlseg.errors import ConfigError

__all__ = ["ENTRIES", "Entry", "entry"]

ENTRIES: dict[str, Entry] = {
    "coco_stuff": COCO_STUFF,
    "coco_unseen": COCO_UNSEEN,
    "coco_seen": COCO_SEEN,
    "coco_panoptic": COCO_PANOPTIC,
    "coco_object": COCO_OBJECT,
    "ade20k": ADE20K,
    "voc20": VOC_20,
    "voc21": VOC_21,
    "context59": CONTEXT_59,
    "context60": CONTEXT_60,
    "cityscapes": CITYSCAPES,
    "bdd100k": BDD100K,
    "idd": IDD,
    "mapillary": MAPILLARY,
    "sun_rgbd": SUN_RGBD,
    "camvid": CAMVID,
    "fss1000": FSS_1000,
    "clothing": CLOTHING,
}


def entry(name: str) -> Entry:
    """A data set of the catalog; ConfigError if there is none of that name."""
    if name not in ENTRIES:
        raise ConfigError(f"no data set is called {name!r}; the known ones are {', '.join(ENTRIES)}")
    return ENTRIES[name]
