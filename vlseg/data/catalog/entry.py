"""What the catalog knows of a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import labels
from vlseg.data.examples import IGNORE_LABEL, Decoder, Pair, PairDataset
from vlseg.data.listing import Listing
from vlseg.data.orientation import check_rule
from vlseg.errors import DatasetError

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        find: from the root folder to the pairs of files; raises DatasetError with all that is missing.
        decoder: from the root folder to the reader of label files.
        examples: how many there are officially.
    """

    find: Callable[[Path], list[Pair]]
    decoder: Callable[[Path], Decoder]
    examples: int


class Classes(NamedTuple):
    """Classes of a data set, by id: the numbers in its label files, its official names, and plain words."""

    values: tuple[int, ...]
    names: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A data set of the catalog.

    Attributes:
        title: its name in the literature.
        classes: their official names, and the words that models are asked for by default.
        splits: by name; the first is for training.
        licence, address: as its authors say; read them before use.
        layout: what lies below the root folder, for people.
        colours: the official palette uint8 [N, 3], None if there is none.
        ignore_label: the id of pixels that do not count.
        evaluation: the split on which scores are published, which "evaluation" stands for.
        listing: from the root folder and the number of pairs that are read to what it holds besides; None where nobody
            looks.
    """

    title: str
    classes: Classes
    splits: Mapping[str, Split]
    licence: str
    address: str
    layout: str
    colours: NDArray[np.uint8] | None = field(default=None, compare=False)
    ignore_label: int = IGNORE_LABEL
    evaluation: str = "val"
    listing: Callable[[Path, int], Listing] | None = None

    def open(self, root: Path, split: str, label_orientation: str = "") -> PairDataset:
        """The data set below `root`, every picture with its label or not at all; opens no picture.

        `label_orientation` is of `vlseg.data.orientation.RULES`.

        Raises:
            DatasetError: there is no such split or folder, or files are missing; they are listed.
        """
        split = self.evaluation if split == EVALUATION else split
        if split not in self.splits:
            raise DatasetError(f"{self.title} has no split {split!r}; there are {', '.join(self.splits)}")
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder; {self.title} is unpacked as {self.layout} ({self.address})")
        found = self.splits[split]
        try:
            pairs, decode = found.find(root), found.decoder(root)
        except DatasetError as error:
            raise DatasetError(f"{error}; {self.title} is unpacked as {self.layout} ({self.address})") from error
        rule = check_rule(label_orientation)
        listing = self.listing(root, len(pairs)) if self.listing else None
        return PairDataset(self.classes.prompts, tuple(pairs), decode, self.ignore_label, rule, listing=listing)


def classes(name: str) -> Classes:
    """The classes of a list of `vlseg.labels` that has a table too."""
    return Classes(*table(name), labels.load(name))


def table(name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The values that label files hold and the official names, both by id, of a list in the folder `tables`."""
    text = resources.files(__package__).joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    values, names = zip(*(line.split("\t") for line in text.splitlines()), strict=True)
    return tuple(map(int, values)), tuple(names)
