"""PASCAL VOC 2012, with and without SBD's labels, and PASCAL Context."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlseg.data import decoding
from vlseg.data.catalog.entry import Classes, Entry, Split, classes
from vlseg.data.examples import IGNORE_LABEL, Decoder, Pair
from vlseg.data.images import read_label
from vlseg.data.pairs import first_of, in_list, inner, read_lines
from vlseg.errors import DatasetError

VOC_CLASSES, CONTEXT_CLASSES = classes("voc_20"), classes("pascal_context_59")
VOC_TERMS = "the pictures are Flickr's, under Flickr's terms of use"
BACKGROUND = ("background",)
"""A class that is stored as 0; without it 0 does not count."""

DEVKIT = "VOCdevkit"


def bits_palette(count: int) -> NDArray[np.uint8]:
    """The colours of VOC's palette, uint8 [count, 3]: bits 0, 1, 2 of an index are the high bits of R, G, B, bits 3,
    4, 5 the next lower ones, and so on.
    """
    index, bits = np.arange(count)[:, None], np.arange(3)
    colour = np.zeros((count, 3), np.int64)
    for level in range(8):
        colour |= (index >> (3 * level + bits) & 1) << (7 - level)
    return colour.astype(np.uint8)


PALETTE = bits_palette(256)


def read_ids(path: Path) -> NDArray[np.int32]:
    """The numbers of a label file of VOC, int32 [H, W], also of one that was saved again with colours."""
    return read_label(path, PALETTE)


def _listed(year: str, lists: str, split: str, *labels: str) -> list[str]:
    """Arguments of `in_list` for a year's folder; `labels` are folders with the ending of their files."""
    maps = [f"{year}/{folder}/{{}}{suffix}" for folder, suffix in (label.split("*") for label in labels)]
    return [f"{year}/ImageSets/{lists}/{split}.txt", f"{year}/JPEGImages/{{}}.jpg", *maps]


def _voc_split(name: str, stored: tuple[int, ...], examples: int, *labels: str) -> Split:
    def find(root: Path) -> list[Pair]:
        return in_list(inner(root, DEVKIT), *_listed("VOC2012", "Segmentation", name, *labels))

    return Split(find, decoding.numbers(stored, [0], read_ids), examples)


def _sbd(name: str, stored: tuple[int, ...], examples: int) -> Split:
    """SBD as it is unpacked, with MATLAB files."""

    def find(root: Path) -> list[Pair]:
        base = "benchmark_RELEASE/dataset"
        return in_list(root, f"{base}/{name}.txt", f"{base}/img/{{}}.jpg", f"{base}/cls/{{}}.mat")

    def read(path: Path) -> NDArray[np.int32]:
        return decoding.matlab(path, "GTcls", "Segmentation")

    return Split(find, decoding.numbers(stored, [0], read), examples)


def _with_background(classes: Classes) -> Classes:
    """The background and the classes."""
    return Classes((0, *classes.values), BACKGROUND + classes.names, BACKGROUND + classes.prompts)


def _context_root(root: Path) -> tuple[Path, str]:
    """The folder that holds the year's one, and the year's: PASCAL Context labels pictures of VOC 2010."""
    base = inner(root, DEVKIT)
    return base, first_of(base, "VOC2010", "VOC2012")


def _context(name: str, stored: tuple[int, ...], examples: int) -> Split:
    """59 classes as PNG in alphabetical order, as mmsegmentation's converter writes them; 0 is the background."""

    def find(root: Path) -> list[Pair]:
        base, year = _context_root(root)
        return in_list(base, *_listed(year, "SegmentationContext", name, "SegmentationClassContext*.png"))

    return Split(find, decoding.numbers(stored, [0]), examples)


def _context_matlab(name: str, names: tuple[str, ...], examples: int) -> Split:
    """The authors' own files: 459 classes as MATLAB files in trainval/, their names in labels.txt."""

    def find(root: Path) -> list[Pair]:
        base, year = _context_root(root)
        # The authors' archive has no lists; theirs are those of VOC's main task.
        lists = Path(first_of(base / year / "ImageSets", "SegmentationContext", "Main")).name
        return in_list(base, *_listed(year, lists, name, "trainval*.mat"))

    def decoder(root: Path) -> Decoder:
        base, year = _context_root(root)
        numbers = _context_numbers(base / year / "labels.txt")
        # Classes outside of the 59 are the background.
        mapping = dict.fromkeys([0, *numbers.values()], 0 if names[:1] == BACKGROUND else IGNORE_LABEL)
        mapping |= {numbers[title]: index for index, title in enumerate(names) if title in CONTEXT_CLASSES.names}
        return decoding.values(mapping, lambda path: decoding.matlab(path, "LabelMap"))

    return Split(find, decoder, examples)


def _context_numbers(path: Path) -> dict[str, int]:
    """Class name -> number in the MATLAB files, from lines like "104: cup"."""
    lines = [line.split(":", 1) for line in read_lines(path, "no such file of the 459 class names")]
    try:
        numbers = {title.strip(): int(number) for number, title in lines}
    except ValueError as error:
        raise DatasetError(f"{path}: lines are not like '104: cup': {error}") from error
    missing = [title for title in CONTEXT_CLASSES.names if title not in numbers]
    if missing:
        raise DatasetError(f"{path}: lacks {', '.join(missing)}")
    return numbers


def _voc(title: str, classes: Classes) -> Entry:
    stored = classes.values
    return Entry(
        title=title,
        classes=classes,
        splits={
            "train": _voc_split("train", stored, 1464, "SegmentationClass*.png"),
            "val": _voc_split("val", stored, 1449, "SegmentationClass*.png"),
            "trainval": _voc_split("trainval", stored, 2913, "SegmentationClass*.png"),
            # Copies of the former hold what SBD adds, and some hold the rest as well.
            "trainaug": _voc_split("trainaug", stored, 10582, "SegmentationClassAug*.png", "SegmentationClass*.png"),
            "sbd_train": _sbd("train", stored, 8498),
            "sbd_val": _sbd("val", stored, 2857),
        },
        licence=VOC_TERMS,
        address="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        layout=(
            "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}; split trainaug also takes "
            "SegmentationClassAug and trainaug.txt, splits sbd_* take SBD's benchmark_RELEASE/dataset/{img,cls}"
        ),
        colours=bits_palette(21)[-len(classes.names) :],
    )


def _pascal_context(title: str, classes: Classes) -> Entry:
    return Entry(
        title=title,
        classes=classes,
        splits={
            "train": _context("train", classes.values, 4998),
            "val": _context("val", classes.values, 5105),
            "mat_train": _context_matlab("train", classes.names, 4998),
            "mat_val": _context_matlab("val", classes.names, 5105),
        },
        licence=VOC_TERMS,
        address="https://www.cs.stanford.edu/~roozbeh/pascal-context",
        layout=(
            "VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext,ImageSets/SegmentationContext} as mmsegmentation "
            "converts it; splits mat_* take the authors' trainval/*.mat and labels.txt in VOC2010"
        ),
    )


VOC_20 = _voc("PASCAL VOC 2012, background ignored", VOC_CLASSES)
VOC_21 = _voc("PASCAL VOC 2012", _with_background(VOC_CLASSES))
CONTEXT_59 = _pascal_context("PASCAL Context, background ignored", CONTEXT_CLASSES)
CONTEXT_60 = _pascal_context("PASCAL Context", _with_background(CONTEXT_CLASSES))
