"""FSS-1000: a thousand classes, ten pictures and masks each."""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlseg import labels
from vlseg.data.catalog.entry import Classes, Entry, Split
from vlseg.data.examples import IGNORED, Decoder, Pair
from vlseg.data.images import read_image
from vlseg.data.pairs import in_parallel, inner
from vlseg.errors import DatasetError

NAMES = labels.load("fss_1000")
NUMBERS = {name: index for index, name in enumerate(NAMES)}
SPLITS = {"train": range(520), "val": range(520, 760), "test": range(760, 1000)}
"""Classes of the splits of HSNet (juhongm999/hsnet), by id."""

PICTURES = 10

OBJECT_FROM = 128
"""Grey level from which on a pixel belongs to the object."""

LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in a grey level, in 16 bits (ITU-R 601, as Pillow rounds them)."""


def read_mask(path: Path) -> NDArray[np.int32]:
    """Whether pixels belong to the object: int32 [H, W], 0 or 1."""
    grey = read_image(path).astype(np.int32) @ np.array(LUMA) + (1 << 15) >> 16
    return (grey >= OBJECT_FROM).astype(np.int32)


def class_id(path: Path) -> int:
    """The class of a picture or mask, whose folder is called like it."""
    return NUMBERS[path.parent.name]


def pairs(root: Path, split: str) -> list[Pair]:
    """Pictures and masks of the classes of a split that are there, in order; DatasetError if none is, or files lack."""
    folder = inner(root, "FSS-1000", "fewshot_data", "fewshot_data")
    present = [NAMES[index] for index in SPLITS[split] if (folder / NAMES[index]).is_dir()]
    if not present:
        raise DatasetError(
            f"{folder}: has no folder of a class of the {split} split, such as {NAMES[SPLITS[split][0]]}"
        )
    return [pair._replace(name=f"{name}/{pair.name}") for name in present for pair in in_parallel(folder, name, name)]


def _decoder(_: Path) -> Decoder:
    return lambda path: np.where(read_mask(path) == 1, class_id(path), IGNORED).astype(np.int32)


FSS_1000 = Entry(
    title="FSS-1000",
    classes=Classes(tuple(range(len(NAMES))), NAMES, NAMES),
    splits={
        name: Split(functools.partial(pairs, split=name), _decoder, PICTURES * len(ids)) for name, ids in SPLITS.items()
    },
    licence="none stated",
    address="https://github.com/HKUSTCV/FSS-1000",
    evaluation="test",
    layout="CLASS/{1,...,10}.jpg and .png, in FSS-1000/ or fewshot_data/ or directly below",
    ignore_label=IGNORED,  # 255 is a class
)
