"""The benchmarks PASCAL-5i, COCO-20i and FSS-1000: one class of an image against everything else.

The split files are those of HSNet (juhongm999/hsnet): its data/splits is expected as ROOT/splits for PASCAL-5i and
COCO-20i; FSS-1000's splits are in the catalog. Label files are those of HSNet too, in which ids count from 1.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import labels, torch_files
from vlseg.data.catalog import fss1000
from vlseg.data.catalog.pascal import read_ids
from vlseg.data.examples import IGNORE_LABEL, LazySequence, fitted
from vlseg.data.images import read_label, read_picture
from vlseg.data.pairs import read_bytes, read_lines, refuse_absent
from vlseg.errors import CheckpointError, ConfigError, DatasetError

FOLDS = 4
TEST_EPISODES = 1000
"""Of PASCAL-5i and COCO-20i."""

TEST_SEED = 0
"""With which the authors draw the episodes of COCO-20i."""

ABSENT = "no such file; copy the folder data/splits of https://github.com/juhongm999/hsnet as splits/"


class Query(NamedTuple):
    """A picture, its label file, and the class that is asked for."""

    image: Path
    label: Path
    class_id: int


class Episode(NamedTuple):
    """A picture uint8 [H, W, 3], its mask int32 [H, W] (1 the class, 0 others, or IGNORE_LABEL), and the class."""

    image: NDArray[np.uint8]
    mask: NDArray[np.int32]
    class_id: int


@dataclass(frozen=True)
class FewShotDataset(LazySequence[Episode]):
    """A part of a benchmark.

    Attributes:
        names: the words for all classes of the benchmark, by id.
        class_ids: those that this part asks for, over which means are taken.
        queries: in order.
        read_mask: (label file, class) -> mask as in `Episode`.
        epoch: episodes of a training epoch.
        balanced: whether training draws a class first and then one of its episodes.
    """

    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    queries: tuple[Query, ...]
    read_mask: Callable[[Path, int], NDArray[np.int32]]
    epoch: int
    balanced: bool = False

    def by_class(self) -> list["FewShotDataset"]:
        """The episodes of each class, for those that have any."""
        queries: dict[int, list[Query]] = {class_id: [] for class_id in self.class_ids}
        for query in self.queries:
            queries[query.class_id].append(query)
        return [dataclasses.replace(self, queries=tuple(own)) for own in queries.values() if own]

    def __len__(self) -> int:
        return len(self.queries)

    def _read(self, index: int) -> Episode:
        query = self.queries[index]
        picture, mask = read_picture(query.image), self.read_mask(query.label, query.class_id)
        return Episode(picture.pixels, fitted(picture.shape, mask, query.label, ""), query.class_id)


def open_benchmark(name: str, root: str | os.PathLike[str], fold: int, split: str = "test") -> FewShotDataset:
    """Opens a part of a benchmark.

    Args:
        name: "pascal5i", "coco20i" or "fss1000".
        root: the folder with VOC2012/, COCO2014/ or FSS-1000/, and splits/.
        fold: 0 to 3, whose classes are tested; "train" takes the others. FSS-1000 has no folds.
        split: "train" or "test".

    Raises:
        ConfigError: no such benchmark, fold or split. DatasetError: files are missing; they are listed.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}")
    if fold not in range(FOLDS):
        raise ConfigError(f"fold {fold} is none of 0 to {FOLDS - 1}")
    if fold and name == "fss1000":
        raise ConfigError(f"fold {fold} has no effect: FSS-1000 has no folds; leave it out")
    if split not in ("train", "test"):
        raise ConfigError(f"split {split!r} is neither train nor test")
    dataset = BENCHMARKS[name](Path(root), fold, split)
    wanted = {file for query in dataset.queries for file in (query.image, query.label)}
    refuse_absent(Path(root), f"of {len(wanted)} files", wanted)
    return dataset


def _pascal(root: Path, fold: int, split: str) -> FewShotDataset:
    names = labels.load("pascal_5i_20")
    tested = tuple(range(fold * len(names) // FOLDS, (fold + 1) * len(names) // FOLDS))
    lists = root / "splits" / "pascal"
    if split == "test":
        listed = _pascal_list(lists / "val" / f"fold{fold}.txt")
        listed = [listed[index % len(listed)] for index in range(TEST_EPISODES)]
    else:
        others = [other for other in range(FOLDS) if other != fold]
        listed = [item for other in others for item in _pascal_list(lists / "trn" / f"fold{other}.txt")]
    voc = root / "VOC2012"
    queries = [
        Query(voc / "JPEGImages" / f"{stem}.jpg", voc / "SegmentationClassAug" / f"{stem}.png", class_id)
        for stem, class_id in listed
    ]
    return FewShotDataset(names, _asked(names, tested, split), tuple(queries), _pascal_mask, len(queries))


def _pascal_list(path: Path) -> list[tuple[str, int]]:
    """Lines like "2007_000033__01": a picture and a class that counts from 1."""
    found = []
    for line in read_lines(path, ABSENT):
        match = re.fullmatch(r"(.+)__(\d+)", line.strip())
        if not match:
            raise DatasetError(f"{path}: the line {line!r} is not like '2007_000033__01'")
        found.append((match[1], int(match[2]) - 1))
    return found


def _pascal_mask(path: Path, class_id: int) -> NDArray[np.int32]:
    label = read_ids(path)
    return np.where(label == IGNORE_LABEL, IGNORE_LABEL, label == class_id + 1).astype(np.int32)


def _coco(root: Path, fold: int, split: str) -> FewShotDataset:
    names = labels.load("coco_20i_80")
    tested = tuple(range(fold, len(names), FOLDS))
    asked = _asked(names, tested, split)
    path = root / "splits" / "coco" / ("val" if split == "test" else "trn") / f"fold{fold}.pkl"
    pictures = _coco_lists(path, asked)
    if split == "test":
        listed = _drawn(pictures, asked)
    else:
        listed = [(picture, class_id) for class_id in asked for picture in pictures[class_id]]
    coco = root / "COCO2014"
    queries = [
        Query(coco / picture, coco / "annotations" / Path(picture).with_suffix(".png"), class_id)
        for picture, class_id in listed
    ]
    # The authors' epoch has a step for every picture, though each step draws a class first.
    pictures_once = len({query.image for query in queries})
    return FewShotDataset(names, asked, tuple(queries), _coco_mask, pictures_once, balanced=True)


def _drawn(pictures: dict[int, list[str]], asked: Sequence[int]) -> list[tuple[str, int]]:
    """The authors' test episodes: a class, then one of its pictures, from NumPy's old generator."""
    generator = np.random.RandomState(TEST_SEED)
    drawn = []
    for _ in range(TEST_EPISODES):
        class_id = int(generator.choice(asked, 1, replace=False)[0])
        drawn.append((str(generator.choice(pictures[class_id], 1, replace=False)[0]), class_id))
    return drawn


def _coco_lists(path: Path, asked: Sequence[int]) -> dict[int, list[str]]:
    """Class -> its pictures, below COCO2014/."""
    stored = read_bytes(path, ABSENT)
    try:
        content = torch_files.load_plain(stored)
    except CheckpointError as error:
        raise DatasetError(f"{path}: is not a list of pictures by class: it {error}") from error
    whole = isinstance(content, dict) and all(
        isinstance(pictures, list) and all(isinstance(picture, str) for picture in pictures)
        for pictures in content.values()
    )
    if not whole or not all(content.get(class_id) for class_id in asked):
        raise DatasetError(f"{path}: does not list pictures for each of the {len(asked)} classes of its fold")
    return {class_id: content[class_id] for class_id in asked}


def _coco_mask(path: Path, class_id: int) -> NDArray[np.int32]:
    return (read_label(path) == class_id + 1).astype(np.int32)


def _fss(root: Path, fold: int, split: str) -> FewShotDataset:
    del fold
    queries = [Query(pair.image, pair.label, fss1000.class_id(pair.label)) for pair in fss1000.pairs(root, split)]
    present, whole = tuple(dict.fromkeys(query.class_id for query in queries)), fss1000.SPLITS[split]
    if len(present) < len(whole):
        logging.getLogger(__name__).warning(
            "%s: only %d of the %d classes of the %s split are there; scores are of these",
            root,
            len(present),
            len(whole),
            split,
        )
    return FewShotDataset(fss1000.NAMES, present, tuple(queries), lambda path, _: fss1000.read_mask(path), len(queries))


def _asked(names: Sequence[str], tested: Sequence[int], split: str) -> tuple[int, ...]:
    return tuple(index for index in range(len(names)) if (index in tested) == (split == "test"))


BENCHMARKS: dict[str, Callable[[Path, int, str], FewShotDataset]] = {
    "pascal5i": _pascal,
    "coco20i": _coco,
    "fss1000": _fss,
}
