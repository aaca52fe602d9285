"""Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014): street fashion photographs with 59 words.

Of its 2,098 photographs 1,004 have labels of pixels. The others have annotations of whole images, which are not read.
The authors give no splits. Here they follow from the number of a labelled photograph, counted from 0 in the order of
the names: number % 7 == 3 is test, == 5 val, and the rest train. As names count from 0001, the number is the name less
one, also in a folder that lacks some.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlseg.data import decoding
from vlseg.data.catalog.entry import Entry, Split, classes
from vlseg.data.examples import Decoder, Pair
from vlseg.data.listing import UNKNOWN_TYPE, Listing, has_picture_name, some
from vlseg.data.pairs import by_stem, in_parallel, inner, refuse, refuse_broken_links
from vlseg.errors import DatasetError, ImageError, VocabularyError
from vlseg.labels import plain, read_names

CLASSES = classes("clothing_59")

LABELLED = 1004
"""Photographs with labels of pixels; they come first."""

PERIOD = 7
REMAINDERS = {"train": (0, 1, 2, 4, 6), "val": (5,), "test": (3,), "trainval": (0, 1, 2, 4, 5, 6)}
"""Of a photograph's number, by PERIOD, in each split."""

ARCHIVES = ("clothing-co-parsing-master", "clothing-co-parsing")
"""What the authors' repository is unpacked or cloned into."""

PHOTOS, MAPS, LABEL_LIST = "photos", "annotations/pixel-level", "label_list.mat"
IMAGES, LABELS, NAMES = "images", "labels", "names.txt"


def number(stem: str) -> int | None:
    """The number of a labelled photograph "0001" to "1004", in [0, LABELLED); None for other names."""
    found = int(stem) - 1 if re.fullmatch(r"[0-9]{4}", stem) else -1
    return found if 0 <= found < LABELLED else None


def pairs(root: Path, split: str) -> list[Pair]:
    """Photographs of a split and their label files, in order, in either layout.

    Raises:
        DatasetError: it is neither, files lack, names have no number, or there is no photograph of the split.
    """
    base = _base(root)
    found = _official_pairs(base) if _is_official(base) else in_parallel(base, IMAGES, LABELS)
    _check_numbers(base, [pair.name for pair in found])
    remainders = REMAINDERS[split]
    chosen = [pair for pair in found if (number(pair.name) or 0) % PERIOD in remainders]
    if not chosen:
        which = " or ".join(map(str, remainders))
        raise DatasetError(
            f"{base}: holds no photograph of the {split} split, whose file names less one leave {which} when divided "
            f"by {PERIOD}"
        )
    return chosen


def _base(root: Path) -> Path:
    """The folder of a layout; DatasetError if it is of none."""
    base = inner(root, *ARCHIVES)
    if not (base / PHOTOS).is_dir() and not (base / MAPS).is_dir() and not (base / IMAGES).is_dir():
        raise DatasetError(f"{base}: holds neither {PHOTOS}/ and {MAPS}/ nor {IMAGES}/ and {LABELS}/")
    return base


def _is_official(base: Path) -> bool:
    return (base / PHOTOS).is_dir() or (base / MAPS).is_dir()


def _official_pairs(base: Path) -> list[Pair]:
    """Labelled photographs. Of those that may have labels every one has them, or its label file is missing."""
    photos, _ = by_stem(base / PHOTOS, (".jpg",))
    maps, _ = by_stem(base / MAPS, (".mat",))
    if not maps:
        raise DatasetError(f"{base / MAPS}: holds no label files (*.mat)")
    _check_numbers(base / MAPS, maps)
    unlabelled = [stem for stem in photos if number(stem) is not None and stem not in maps]
    refuse(base / PHOTOS, "photographs", [f"{stem}.jpg" for stem in maps if stem not in photos])
    refuse(base / MAPS, "label files", [f"{stem}.mat" for stem in unlabelled])
    refuse_broken_links([*photos.values(), *maps.values()])
    return [Pair(photos[stem], maps[stem], stem) for stem in sorted(maps)]


def _check_numbers(folder: Path, stems: Iterable[str]) -> None:
    strange = [stem for stem in stems if number(stem) is None]
    if strange:
        raise DatasetError(
            f"{folder}: {len(strange)} names are no numbers from 0001 to {LABELLED}, by which photographs are split: "
            f"{some(strange)}"
        )


def _decoder(root: Path) -> Decoder:
    """The reader of label files of either layout, whose list of words is compared with ours."""
    base = _base(root)
    if _is_official(base):
        path = base / LABEL_LIST
        if not path.exists():
            raise DatasetError(f"{path}: no such file of the {len(CLASSES.names)} words")
        try:
            words = decoding.matlab_texts(path, "label_list")
        except ImageError as error:
            raise DatasetError(str(error)) from error
        _check_words(path, words, CLASSES.names)
        # Unlike in other data sets no value stands for pixels that do not count.
        known = {value: index for index, value in enumerate(CLASSES.values)}
        return decoding.values(known, lambda label: decoding.matlab(label, "groundtruth"))
    try:
        listed, first = read_names(base / NAMES)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    if first:
        raise DatasetError(f"{base / NAMES}: counts from {first}, but label files count from 0")
    _check_words(base / NAMES, listed, CLASSES.prompts)
    return decoding.values(decoding.by_value(CLASSES.values))


def _check_words(path: Path, words: Sequence[str], expected: Sequence[str]) -> None:
    """Raises DatasetError that says what differs, if words by id are not the expected ones."""
    found = [plain(word).casefold() for word in words]
    differ = [index for index, (word, other) in enumerate(zip(found, expected, strict=False)) if word != other]
    if len(found) != len(expected):
        lacking = [word for word in expected if word not in found]
        strange = [word for word in found if word not in expected]
        raise DatasetError(
            f"{path}: has {len(found)} words, and this data set {len(expected)}"
            + (f"; it lacks {some(lacking)}" if lacking else "")
            + (f"; it has also {some(strange)}" if strange else "")
        )
    if differ:
        named = some(f"{index} is {found[index]}, not {expected[index]}" for index in differ)
        raise DatasetError(f"{path}: {len(differ)} words are not those of this data set: {named}")


def _listing(root: Path, read: int) -> Listing:
    """What is left out. Photographs without labels of pixels are no part of this task, others are somebody's own."""
    base = _base(root)
    if not _is_official(base):
        return Listing(str(base), read)
    photos, strangers = by_stem(base / PHOTOS, (".jpg",))
    maps, _ = by_stem(base / MAPS, (".mat",))
    names = [path.name for path in strangers if has_picture_name(path)]
    without = [f"{stem}.jpg" for stem in photos if stem not in maps]
    apart = "without labels of pixels (annotations of whole images are not read)"
    return Listing(str(base), read, {UNKNOWN_TYPE: names} if names else {}, apart={apart: without})


CLOTHING = Entry(
    title="Clothing Co-Parsing",
    classes=CLASSES,
    splits={
        name: Split(
            functools.partial(pairs, split=name), _decoder, sum(n % PERIOD in remainders for n in range(LABELLED))
        )
        for name, remainders in REMAINDERS.items()
    },
    licence="repository Apache-2.0, which may not cover the photographs: they were collected from a fashion site",
    address="https://github.com/bearpaw/clothing-co-parsing",
    layout=(
        "photos/*.jpg, annotations/pixel-level/*.mat and label_list.mat (photographs without labels of pixels, 1,094, "
        "are not read), or as images/NNNN.jpg, labels/NNNN.png and names.txt"
    ),
    listing=_listing,
)
