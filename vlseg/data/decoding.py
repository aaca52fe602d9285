"""Readers of label files, by the way a data set writes them.

Pixels that do not count get IGNORE_LABEL where nothing else is said.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlseg import files, json_files
from vlseg.data import matlab_files
from vlseg.data.evidence import Evidence
from vlseg.data.examples import IGNORE_LABEL, Decoder
from vlseg.data.images import read_label, read_label_colours
from vlseg.errors import DatasetError, ImageError

MAX_VALUE = 65535

Read = TypeVar("Read")

Converter = Callable[[NDArray[np.int32], object], NDArray[np.int32]]
"""From stored numbers int32 [H, W], in [0, 65535], and what to call their file in errors, to ids int32 [H, W]."""


def lookup(mapping: Mapping[int, int]) -> Converter:
    """Numbers that are looked up.

    Args:
        mapping: stored number -> id. A number that it lacks is an error when it is found.
    """
    unknown = -1
    ids = np.full(MAX_VALUE + 1, unknown, np.int32)
    ids[list(mapping)] = list(mapping.values())

    def convert(stored: NDArray[np.int32], name: object) -> NDArray[np.int32]:
        found = ids[stored]
        if (found == unknown).any():
            raise DatasetError(f"{name}: has label {stored[found == unknown][0]}, which this data set does not have")
        return found

    return convert


class Counted:
    """A `Converter` of numbers that count up; see `counted`.

    Attributes:
        evidence: what it has converted.
    """

    def __init__(self, source: object, names: Sequence[str], ignore_label: int, first: int, ignore_zero: bool) -> None:
        self.evidence = Evidence(names, first, ignore_label, ignore_zero)
        self._source, self._count = source, len(names)
        self._ignore_label, self._first, self._ignore_zero = ignore_label, first, ignore_zero

    def __call__(self, stored: NDArray[np.int32], name: object) -> NDArray[np.int32]:
        ignored = (stored == self._ignore_label) | (self._ignore_zero & (stored == 0))
        ids = stored - np.int32(self._first)
        unknown = ~ignored & ((ids < 0) | (ids >= self._count))
        if unknown.any():
            raise DatasetError(
                f"{name}: has label id {stored[unknown][0]}, but the {self._count} names have ids {self._first} to "
                f"{self._first + self._count - 1} (ignored: {self._ignore_label}){self._remedy(stored[unknown])}"
            )
        ids[ignored] = self._ignore_label
        self.evidence.add(stored, self._source)
        return ids

    def _remedy(self, unknown: NDArray[np.int32]) -> str:
        if not self._first and (unknown == self._count).all():
            return "; if categories count from 1 and 0 does not count, set ignore_zero, or label_offset if it does"
        if self._first and (unknown == 0).all():
            return "; if 0 does not count, set ignore_zero" if not self._ignore_zero else ""
        if self._count == 2 and (unknown == 255).all():
            return "; store two classes as 0 and 1, not as 0 and 255"
        return ""


def counted(source: object, names: Sequence[str], ignore_label: int, label_offset: int, ignore_zero: bool) -> Counted:
    """Numbers that count up, those of the categories from `label_offset`.

    Args:
        source: what to call the data set in errors.
        names: of the categories.
        ignore_label: the number, and the id, of pixels that do not count.
        label_offset: the number of the first category.
        ignore_zero: ADE20K's habit: 0 does not count either, and categories count from one more.

    Raises:
        DatasetError: `ignore_label` is the number or the id of a category.
    """
    first = label_offset + int(ignore_zero)
    if 0 <= ignore_label < first + len(names):
        raise DatasetError(
            f"{source}: ignore_label {ignore_label} is also the id of one of the {len(names)} categories; "
            "choose another, like -1"
        )
    return Counted(source, names, ignore_label, first, ignore_zero)


def values(mapping: Mapping[int, int], read: Callable[[Path], NDArray[np.int32]] = read_label) -> Decoder:
    """Files whose pixels hold one number.

    Args:
        mapping: see `lookup`.
        read: from the file to the numbers, in [0, 65535].
    """
    convert = lookup(mapping)
    return lambda path: convert(read(path), path)


def by_value(stored: Sequence[int], ignored: Sequence[int] = ()) -> dict[int, int]:
    """The mapping for `values` in which id i is stored as the i-th of `stored`.

    The other numbers that may occur, IGNORE_LABEL and those in `ignored`, do not count.
    """
    others = dict.fromkeys((IGNORE_LABEL, *ignored), IGNORE_LABEL)
    return {**others, **{value: index for index, value in enumerate(stored)}}


def numbers(
    stored: Sequence[int], ignored: Sequence[int] = (), read: Callable[[Path], NDArray[np.int32]] = read_label
) -> Callable[[Path], Decoder]:
    """`Split.decoder` of data sets whose label files hold the same numbers wherever they lie, see `by_value`."""
    return lambda _: values(by_value(stored, ignored), read)


def colours(mapping: Mapping[tuple[int, int, int], int]) -> Decoder:
    """Files whose pixels hold a colour for each class; other colours do not count."""
    known = {_packed(np.array(colour)).item(): index for colour, index in mapping.items()}
    keys = np.array(sorted(known))
    ids = np.array([known[key] for key in keys.tolist()], np.int32)

    def decode(path: Path) -> NDArray[np.int32]:
        packed = _packed(read_label_colours(path).astype(np.int32))
        places = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
        return np.where(keys[places] == packed, ids[places], IGNORE_LABEL).astype(np.int32)

    return decode


def panoptic(description: Path, stored: Sequence[int]) -> Decoder:
    """COCO's panoptic files: a pixel's colour is the number of its segment, R + 256 G + 256^2 B, and 0 is nothing.

    Args:
        description: the JSON that says of which category each segment is.
        stored: category ids of COCO, by our id.

    Raises:
        DatasetError: the JSON is missing or damaged.
    """
    content = json_files.read(description, DatasetError)
    classes = {category: index for index, category in enumerate(stored)}
    segments: dict[str, dict[int, int]] = {}
    try:
        for entry in content["annotations"]:
            for segment in entry["segments_info"]:
                number, category = segment["id"], segment["category_id"]
                if category not in classes:
                    raise DatasetError(
                        f"{description}: segment {number} of {entry['file_name']} is of an unknown category"
                    )
                segments.setdefault(entry["file_name"], {})[number] = classes[category]
            segments.setdefault(entry["file_name"], {})
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{description}: is damaged, or does not describe panoptic segments: {error!r}") from error
    return segments_of(description, segments)


def segments_of(
    description: Path, classes: Mapping[str, Mapping[int, int]], ignore_label: int = IGNORE_LABEL
) -> Decoder:
    """PNGs whose colours are the numbers of segments, R + 256 G + 256^2 B, and 0 is nothing.

    Args:
        description: the file that describes the segments, for messages.
        classes: name of a PNG -> number of a segment -> id.
        ignore_label: the id of pixels of no segment.
    """

    def decode(path: Path) -> NDArray[np.int32]:
        if path.name not in classes:
            raise DatasetError(f"{description}: says nothing of {path.name}")
        numbers, inverse = np.unique(_packed(read_label_colours(path).astype(np.int32)), return_inverse=True)
        ids = {**classes[path.name], 0: ignore_label}
        unknown = [number for number in numbers.tolist() if number not in ids]
        if unknown:
            raise DatasetError(f"{path}: has segment {unknown[0]}, which {description.name} does not describe")
        return np.array([ids[number] for number in numbers.tolist()], np.int32)[inverse]

    return decode


def matlab(path: Path, *keys: str) -> NDArray[np.int32]:
    """An array of a MATLAB file (version 5 to 7.2), by its name and the names of the fields around it.

    Returns:
        int32 [H, W], values in [0, 65535].

    Raises:
        ImageError: the file is missing, damaged, of a newer version, or has no such array.
    """
    array = _of_matlab(path, ".".join(keys), lambda content: matlab_files.read(content, keys))
    whole = array.ndim == 2 and array.size and np.isfinite(array).all()
    if not whole or array.min() < 0 or array.max() > MAX_VALUE or (array % 1).any():
        raise ImageError(f"{path}: {'.'.join(keys)} is not a map of labels")
    return array.astype(np.int32)


def matlab_texts(path: Path, key: str) -> list[str]:
    """The texts of a cell array of a MATLAB file, by its name; ImageError as of `matlab`."""
    return _of_matlab(path, key, lambda content: matlab_files.read_texts(content, key))


def _of_matlab(path: Path, what: str, read: Callable[[bytes], Read]) -> Read:
    content = files.read_regular(path, ImageError)
    try:
        return read(content)
    except ValueError as error:
        kind = files.kind_of(content) or f"not a MATLAB file with {what}, or is damaged"
        raise ImageError(f"{path}: is {kind} ({error})") from error


def _packed(colour: NDArray[np.integer]) -> NDArray[np.integer]:
    """[..., 3] -> [...]: R + 256 G + 256^2 B."""
    return colour[..., 0] + 256 * colour[..., 1] + 65536 * colour[..., 2]
