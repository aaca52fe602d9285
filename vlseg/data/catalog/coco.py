"""COCO with its three kinds of labels."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from vlseg import labels
from vlseg.data import decoding
from vlseg.data.catalog.entry import Classes, Entry, Split, classes
from vlseg.data.examples import IGNORE_LABEL, Decoder, Pair
from vlseg.data.pairs import first_of, in_parallel

STUFF, PANOPTIC = classes("coco_stuff_171"), classes("coco_panoptic_133")
THINGS = 80
"""Classes of COCO-Stuff that are things; they come first."""

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

    return Split(find, decoding.numbers(STUFF.values), IMAGES[split])


def _objects(_: Path) -> Decoder:
    """Things count from 1 and everything else is the background, which has id 0."""
    background = dict.fromkeys((*STUFF.values, IGNORE_LABEL), 0)
    return decoding.values({**background, **{value: 1 + i for i, value in enumerate(STUFF.values[:THINGS])}})


def _panoptic(split: str) -> Split:
    folder = f"annotations/panoptic_{split}2017"

    def find(root: Path) -> list[Pair]:
        return in_parallel(root, _images(root, split), folder)

    def decoder(root: Path) -> Decoder:
        return decoding.panoptic(root / f"{folder}.json", PANOPTIC.values)

    return Split(find, decoder, IMAGES[split])


def _part(title: str, words: str) -> Entry:
    """The classes of one of the lists of `vlseg.labels`; pixels of all others do not count."""
    chosen = [STUFF.prompts.index(word) for word in labels.load(words)]
    stored = [STUFF.values[index] for index in chosen]
    others = [value for value in STUFF.values if value not in stored]
    classes = Classes(tuple(stored), tuple(STUFF.names[index] for index in chosen), labels.load(words))
    return _relabelled(title, classes, decoding.numbers(stored, others))


def _relabelled(title: str, classes: Classes, decoder: Callable[[Path], Decoder]) -> Entry:
    """The files of COCO-Stuff read as other classes."""
    splits = {name: dataclasses.replace(split, decoder=decoder) for name, split in COCO_STUFF.splits.items()}
    return dataclasses.replace(COCO_STUFF, title=title, classes=classes, splits=splits)


COCO_STUFF = Entry(
    title="COCO-Stuff 164k",
    classes=STUFF,
    splits={split: _maps(split) for split in IMAGES},
    licence=TERMS,
    address="https://github.com/nightrome/cocostuff",
    layout=STUFF_LAYOUT,
)
COCO_UNSEEN = _part("COCO-Stuff 164k, the 15 unseen classes", "coco_unseen_15")
COCO_SEEN = _part("COCO-Stuff 164k, the 156 seen classes", "coco_seen_156")
OBJECT = Classes(
    tuple(range(1 + THINGS)), ("background", *STUFF.names[:THINGS]), ("background", *labels.load("coco_object_80"))
)
COCO_OBJECT = _relabelled("COCO-Object", OBJECT, _objects)
COCO_PANOPTIC = dataclasses.replace(
    COCO_STUFF,
    title="COCO-Panoptic",
    classes=PANOPTIC,
    splits={split: _panoptic(split) for split in IMAGES},
    address="https://cocodataset.org",
    layout="images/{train,val}2017/*.jpg, annotations/panoptic_{train,val}2017/*.png and .json",
)
