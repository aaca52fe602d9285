"""Scenes of all kinds, and rooms."""

from pathlib import Path

from vlseg.data.catalog import decoding
from vlseg.data.catalog.entry import IGNORED, Decoder, Entry, Split, prompts, table
from vlseg.data.catalog.pairs import Pair, by_name, in_parallel

ADE20K_VALUES, ADE20K_NAMES = table("ade20k_150")
SUN_VALUES, SUN_NAMES = table("sun_rgbd_37")
SUN_LABELS, SUN_TEST = "sunrgbd_train_test_labels", 5050


def _ade20k(folder: str, examples: int) -> Split:
    def find(root: Path) -> list[Pair]:
        inner = root / "ADEChallengeData2016"
        return in_parallel(inner if inner.is_dir() else root, f"images/{folder}", f"annotations/{folder}")

    def decoder(_: Path) -> Decoder:
        return decoding.values(decoding.by_value(ADE20K_VALUES, (0, IGNORED)))

    return Split(find, decoder, examples)


def _sun_label(stem: str, split: str) -> str:
    """The label file of picture "img-000001": those of the test split come first, in one count with the others."""
    digits = stem.rpartition("-")[2]
    number = int(digits) if digits.isdecimal() else 0
    return f"img-{number + (SUN_TEST if split == 'train' and number <= SUN_TEST else 0):06d}.png"


def _sun_rgbd(name: str, examples: int) -> Split:
    def find(root: Path) -> list[Pair]:
        return by_name(root, f"SUNRGBD-{name}_images", ".jpg", lambda stem: f"{SUN_LABELS}/{_sun_label(stem, name)}")

    def decoder(_: Path) -> Decoder:
        return decoding.values(decoding.by_value(SUN_VALUES, (0, IGNORED)))

    return Split(find, decoder, examples)


ADE20K = Entry(
    title="ADE20K (SceneParse150)",
    names=ADE20K_NAMES,
    prompts=prompts("ade20k_150"),
    splits={"train": _ade20k("training", 20210), "val": _ade20k("validation", 2000)},
    licence="pictures for non-commercial research, annotations BSD 3-clause",
    address="http://sceneparsing.csail.mit.edu",
    layout="ADEChallengeData2016/{images,annotations}/{training,validation}",
)
SUN_RGBD = Entry(
    title="SUN RGB-D",
    names=SUN_NAMES,
    prompts=prompts("sun_rgbd_37"),
    splits={"train": _sun_rgbd("train", 5285), "test": _sun_rgbd("test", SUN_TEST)},
    licence="non-commercial research",
    address="https://github.com/ankurhanda/sunrgbd-meta-data",
    layout="SUNRGBD-{train,test}_images/*.jpg and sunrgbd_train_test_labels/*.png",
)
