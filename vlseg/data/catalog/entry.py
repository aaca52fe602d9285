"""What the catalog knows of a data set, and a data set opened from its official folders."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlseg.data.catalog.pairs import Pair
from vlseg.data.folder import Example, check_sizes
from vlseg.data.images import read_image
from vlseg.errors import DatasetError

IGNORED = 255
"""Label of pixels that do not count, in data sets of fewer classes."""

EVALUATION = "evaluation"

Decoder = Callable[[Path], NDArray[np.int32]]
"""Reads a label file as ids int32 [H, W]: indices into the names, IGNORED elsewhere."""


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


@dataclass(frozen=True)
class Entry:
    """A data set of the catalog.

    Attributes:
        title: its name in the literature.
        names: the official category names, by id.
        prompts: the plain words that models are asked for by default, by id.
        splits: by name; the first is for training.
        licence, address: as its authors say; read them before use.
        layout: what lies below the root folder, for people.
        colours: the official palette uint8 [N, 3], None if there is none.
        ignore_label: the id of pixels that do not count.
        evaluation: the split on which scores are published, which "evaluation" stands for.
    """

    title: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    splits: Mapping[str, Split]
    licence: str
    address: str
    layout: str
    colours: NDArray[np.uint8] | None = field(default=None, compare=False)
    ignore_label: int = IGNORED
    evaluation: str = "val"

    def open(self, root: Path, split: str) -> "CatalogDataset":
        """The data set below `root`, every picture with its label or not at all; opens no picture.

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
        return CatalogDataset(self.prompts, tuple(pairs), decode, self.ignore_label)


@dataclass(frozen=True)
class CatalogDataset:
    """Pairs of a picture and a label map, read one at a time; a sequence of `Example`.

    Attributes:
        names: plain category names, by id.
        pairs: the files.
        decode: reader of label files.
        ignore_label: the id of pixels that do not count.
    """

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    decode: Decoder
    ignore_label: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        """Reads one pair.

        Raises:
            IndexError: no such pair.
            ImageError: a file cannot be read.
            DatasetError: sizes differ, or a label has no name.
        """
        pair = self.pairs[index]
        image, label = read_image(pair.image), self.decode(pair.label)
        check_sizes(image, label, pair.label)
        return Example(image, label, pair.name)

    def picture_file(self, index: int) -> Path:
        """The file of a picture."""
        return self.pairs[index].image

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def table(name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The values that label files hold and the official names, both by id, of a list in the folder `tables`."""
    text = resources.files(__package__).joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    values, names = zip(*(line.split("\t") for line in text.splitlines()), strict=True)
    return tuple(map(int, values)), tuple(names)
