"""Scenes of all kinds, and rooms."""

from pathlib import Path

from vlseg import labels
from vlseg.data.catalog import decoding
from vlseg.data.catalog.entry import IGNORED, Entry, Split, table
from vlseg.data.catalog.pairs import Pair, by_name, in_parallel, inner

ADE20K_NAMES = labels.load("ade20k_150")
SUN_VALUES, SUN_NAMES = table("sun_rgbd_37")
SUN_LABELS, SUN_TEST = "sunrgbd_train_test_labels", 5050


def _ade20k(folder: str, examples: int) -> Split:
    def find(root: Path) -> list[Pair]:
        return in_parallel(inner(root, "ADEChallengeData2016"), f"images/{folder}", f"annotations/{folder}")

    return Split(find, decoding.numbers(range(1, 1 + len(ADE20K_NAMES)), (0, IGNORED)), examples)


def _sun_label(stem: str, shift: int) -> str:
    """The label file of picture "img-000001"."""
    digits = stem.rpartition("-")[2]
    return f"img-{int(digits) + shift:06d}.png" if digits.isdecimal() else f"{stem}.png"


def _sun_rgbd(name: str, examples: int) -> Split:
    # Pictures count from 1 in either split; label files are in one count, those of the test split first.
    shift = SUN_TEST if name == "train" else 0

    def find(root: Path) -> list[Pair]:
        return by_name(root, f"SUNRGBD-{name}_images", ".jpg", lambda stem: f"{SUN_LABELS}/{_sun_label(stem, shift)}")

    return Split(find, decoding.numbers(SUN_VALUES, (0, IGNORED)), examples)


ADE20K = Entry(
    title="ADE20K (SceneParse150)",
    names=ADE20K_NAMES,
    prompts=ADE20K_NAMES,
    splits={"train": _ade20k("training", 20210), "val": _ade20k("validation", 2000)},
    licence="pictures for non-commercial research, annotations BSD 3-clause",
    address="http://sceneparsing.csail.mit.edu",
    layout="ADEChallengeData2016/{images,annotations}/{training,validation}",
)
SUN_RGBD = Entry(
    title="SUN RGB-D",
    names=SUN_NAMES,
    prompts=labels.load("sun_rgbd_37"),
    splits={"train": _sun_rgbd("train", 5285), "test": _sun_rgbd("test", SUN_TEST)},
    licence="non-commercial research",
    address="https://github.com/ankurhanda/sunrgbd-meta-data",
    evaluation="test",
    layout="SUNRGBD-{train,test}_images/*.jpg and sunrgbd_train_test_labels/*.png, folders named like the archives",
)
