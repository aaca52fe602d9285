"""COCO with its three kinds of labels."""

import dataclasses
from pathlib import Path

from vlseg.data.catalog import decoding
from vlseg.data.catalog.entry import IGNORED, Decoder, Entry, Split, prompts, table
from vlseg.data.catalog.pairs import Pair, first_of, in_parallel

STUFF_VALUES, STUFF_NAMES = table("coco_stuff_171")
PANOPTIC_VALUES, PANOPTIC_NAMES = table("coco_panoptic_133")
OBJECT_VALUES, OBJECT_NAMES = table("coco_object_80")
IMAGES = {"train": 118287, "val": 5000}
TERMS = "annotations CC BY 4.0; the pictures are Flickr's, each under its own terms"
STUFF_LAYOUT = (
    "images/{train,val}2017/*.jpg (or without images/) and stuffthingmaps/{train,val}2017/*.png "
    "(stuffthingmaps_trainval2017.zip, also as annotations/{train,val}2017)"
)


def _images(root: Path, split: str) -> str:
    return first_of(root, f"images/{split}2017", f"{split}2017")


def _maps(split: str) -> Split:
    def find(root: Path) -> list[Pair]:
        maps = first_of(root, f"stuffthingmaps/{split}2017", f"annotations/{split}2017")
        return in_parallel(root, _images(root, split), maps)

    return Split(find, _stuff, IMAGES[split])


def _stuff(_: Path) -> Decoder:
    return decoding.values(decoding.by_value(STUFF_VALUES))


def _objects(_: Path) -> Decoder:
    """Things count from 1 and everything else is the background, which has id 0."""
    background = dict.fromkeys(STUFF_VALUES, 0)
    return decoding.values({**background, 255: 0, **{value: 1 + i for i, value in enumerate(OBJECT_VALUES)}})


def _panoptic(split: str) -> Split:
    folder = f"annotations/panoptic_{split}2017"

    def find(root: Path) -> list[Pair]:
        return in_parallel(root, _images(root, split), folder)

    def decoder(root: Path) -> Decoder:
        return decoding.panoptic(root / f"{folder}.json", PANOPTIC_VALUES)

    return Split(find, decoder, IMAGES[split])


def _part(title: str, words: str) -> Entry:
    """The classes of one of the lists of `vlseg.labels`; pixels of all others do not count."""
    chosen = [COCO_STUFF.prompts.index(word) for word in prompts(words)]
    stored = [STUFF_VALUES[index] for index in chosen]
    others = [value for value in STUFF_VALUES if value not in stored]

    def decoder(_: Path) -> Decoder:
        return decoding.values(decoding.by_value(stored, (*others, IGNORED)))

    splits = {name: dataclasses.replace(split, decoder=decoder) for name, split in COCO_STUFF.splits.items()}
    names = tuple(STUFF_NAMES[index] for index in chosen)
    return dataclasses.replace(COCO_STUFF, title=title, names=names, prompts=prompts(words), splits=splits)


COCO_STUFF = Entry(
    title="COCO-Stuff 164k",
    names=STUFF_NAMES,
    prompts=prompts("coco_stuff_171"),
    splits={split: _maps(split) for split in IMAGES},
    licence=TERMS,
    address="https://github.com/nightrome/cocostuff",
    layout=STUFF_LAYOUT,
)
COCO_UNSEEN = _part("COCO-Stuff 164k, the 15 unseen classes", "coco_unseen_15")
COCO_SEEN = _part("COCO-Stuff 164k, the 156 seen classes", "coco_seen_156")
COCO_OBJECT = dataclasses.replace(
    COCO_STUFF,
    title="COCO-Object",
    names=("background", *OBJECT_NAMES),
    prompts=("background", *prompts("coco_object_80")),
    splits={name: dataclasses.replace(split, decoder=_objects) for name, split in COCO_STUFF.splits.items()},
)
COCO_PANOPTIC = Entry(
    title="COCO-Panoptic",
    names=PANOPTIC_NAMES,
    prompts=prompts("coco_panoptic_133"),
    splits={split: _panoptic(split) for split in IMAGES},
    licence=TERMS,
    address="https://cocodataset.org",
    layout="images/{train,val}2017/*.jpg, annotations/panoptic_{train,val}2017/*.png and .json",
)
