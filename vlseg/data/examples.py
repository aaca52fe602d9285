"""What every labelled data set is: a sequence of pictures with label maps, read as they are asked for."""

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlseg.data.evidence import Evidence
from vlseg.data.images import decode_picture, decode_shape, orientation_of, read_picture, read_shape
from vlseg.data.listing import Listing
from vlseg.data.orientation import TURNED, Shape, label_like
from vlseg.errors import DatasetError, one_line

Item = TypeVar("Item", covariant=True)

IGNORED = -1
"""Target of pixels that do not count, whatever the data set's own label for them: 255 may be a category."""

IGNORE_LABEL = 255
"""The label of pixels that do not count in data sets that do not say otherwise."""


Decoder = Callable[[Path], NDArray[np.int32]]
"""Reads a label file as ids int32 [H, W]: indices into the names, or the label of pixels that do not count."""


class Example(NamedTuple):
    """A picture uint8 [H, W, 3], its label map int32 [H, W], and what names them in the data set."""

    image: NDArray[np.uint8]
    label: NDArray[np.int32]
    name: str


class Pair(NamedTuple):
    """A picture, its label file, and what names both in the data set."""

    image: Path
    label: Path
    name: str


class LazySequence(abc.ABC, Generic[Item]):
    """A sequence whose items are read as they are asked for."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def _read(self, index: int) -> Item:
        """Item number `index`, which is in [0, len(self))."""

    def __getitem__(self, index: int) -> Item:
        """Reads one item.

        Raises:
            IndexError: no such item.
            ImageError: a picture or label map cannot be read.
            DatasetError: it is damaged in another way, sizes differ, or a label has no name.
        """
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class PairDataset(LazySequence[Example]):
    """Pairs of a picture and a label file.

    Attributes:
        names: category names, by id.
        pairs: the files.
        decode: reader of label files.
        ignore_label: the id of pixels that do not count.
        label_orientation: of `vlseg.data.orientation.RULES`.
        evidence: what the label maps that were read say of how they are read.
        listing: what was found and is not read, where that is known.
    """

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    decode: Decoder
    ignore_label: int
    label_orientation: str = ""
    evidence: Evidence | None = None
    listing: Listing | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def _read(self, index: int) -> Example:
        pair = self.pairs[index]
        picture, label = read_picture(pair.image), self.decode(pair.label)
        return Example(picture.pixels, fitted(picture.shape, label, pair.label, self.label_orientation), pair.name)

    def picture_file(self, index: int) -> Path:
        """The file of a picture."""
        return self.pairs[index].image

    def label(self, index: int) -> NDArray[np.int32]:
        """The label map of an example, int32 [H, W]; of its picture no more than the header is read.

        Raises:
            As `self[index]`, but damaged pixels of the picture go unnoticed.
        """
        pair = self.pairs[index]
        return fitted(read_shape(pair.image), self.decode(pair.label), pair.label, self.label_orientation)


def label_of(dataset: Any, index: int) -> NDArray[np.int32]:
    """The label map of an example, int32 [H, W], without the pixels of its picture where the data set can do so.

    Args:
        dataset: labelled pictures, as `vlseg.data.sources.Dataset`. Its `label(index)`, where it has one, does not
            decode the picture; of others the whole example is read.
        index: in [0, len(dataset)).

    Raises:
        As `dataset[index]`, but damaged pixels of a picture may go unnoticed.
    """
    alone: Callable[[int], NDArray[np.int32]] | None = getattr(dataset, "label", None)
    label: NDArray[np.int32] = dataset[index].label if alone is None else alone(index)
    return label


class First(LazySequence[Example]):
    """The first examples of a data set.

    Attributes:
        names, ignore_label: the data set's.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.names: tuple[str, ...] = dataset.names
        self.ignore_label: int = dataset.ignore_label
        self._dataset, self._count = dataset, min(count, len(dataset))

    def __len__(self) -> int:
        return self._count

    def _read(self, index: int) -> Example:
        example: Example = self._dataset[index]
        return example

    def label(self, index: int) -> NDArray[np.int32]:
        """See `label_of`."""
        return label_of(self._dataset, range(len(self))[index])


class Encoded(NamedTuple):
    """An example as it is stored: a picture as `decode_image` or `read_image` takes it, labels in any form, a name."""

    image: Any
    label: Any
    name: str


@dataclass(frozen=True)
class RecordDataset(LazySequence[Example]):
    """Encoded examples in few large files.

    Attributes:
        names: category names, by id.
        ignore_label: the id of pixels that do not count.
        records: the encoded examples.
        unpack: from a record and its number to its parts; may raise anything on damaged ones.
        decode: from the stored labels and the example's name to ids int32 [H, W], see `Decoder`.
        label_orientation: of `vlseg.data.orientation.RULES`.
        evidence: what the label maps that were read say of how they are read.
    """

    names: tuple[str, ...]
    ignore_label: int
    records: Sequence[bytes]
    unpack: Callable[[bytes, int], Encoded]
    decode: Callable[[Any, str], NDArray[np.int32]]
    label_orientation: str = TURNED
    evidence: Evidence | None = None

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, index: int) -> Example:
        image, label, name = self._unpacked(index)
        picture = decode_picture(image, name) if isinstance(image, bytes) else read_picture(image)
        return Example(picture.pixels, self._fitted(picture.shape, label, name), name)

    def label(self, index: int) -> NDArray[np.int32]:
        """The label map of an example, int32 [H, W]; of its picture no more than the header is looked at.

        Raises:
            As `self[index]`, but damaged pixels of the picture go unnoticed.
        """
        image, label, name = self._unpacked(range(len(self))[index])
        shape = decode_shape(image, name) if isinstance(image, bytes) else read_picture(image).shape
        return self._fitted(shape, label, name)

    def _unpacked(self, index: int) -> Encoded:
        try:
            return self.unpack(self.records[index], index)
        except Exception as error:  # the libraries raise several kinds on damaged files
            raise DatasetError(f"record {index} is damaged: {one_line(error)}") from error

    def _fitted(self, shape: Shape, label: Any, name: str) -> NDArray[np.int32]:
        return fitted(shape, self.decode(label, name), name, self.label_orientation, label)


def fitted(shape: Shape, label: NDArray[np.int32], name: Any, rule: str, file: Any = None) -> NDArray[np.int32]:
    """A label map as its picture is shown.

    A label file whose own EXIF turns it is shown so. Another is turned as its photograph was, if it has the size of
    the photograph as it is stored, see `vlseg.data.orientation.label_like`.

    Args:
        shape: of the picture, H and W as it is shown.
        label: int32 [h, w], as it was read. name: of its file, or what errors call it.
        rule: of `vlseg.data.orientation.RULES`.
        file: the label's path, or the content of its file; by default `name` is its path.

    Returns:
        int32 [H, W].

    Raises:
        DatasetError: it is of another size; or as `label_like`.
    """
    file = name if file is None else file
    if shape.orientation != 1 and (not isinstance(file, bytes | Path) or orientation_of(file) == 1):
        label = label_like(label, shape, rule, name)
    _check_sizes(shape, label, name)
    return label


def _check_sizes(shape: Shape, label: np.ndarray, name: object) -> None:
    height, width = label.shape
    if (shape.height, shape.width) != (height, width):
        raise DatasetError(f"{name}: is {width} x {height} pixels, but its picture {shape.width} x {shape.height}")
