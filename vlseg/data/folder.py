"""A data set as people have it: a folder of pictures, a folder of label maps and a list of category names.

```
root/images/kitchen/001.jpg      pairs are found by path without extension
root/labels/kitchen/001.png      palette or greyscale; the value of a pixel is the id of its category
root/names.txt                   one category a line, optionally as "id: name" or "id<tab>name"
```
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import labels
from vlseg.data.images import EXTENSIONS, is_picture, read_image, read_label
from vlseg.errors import DatasetError, VocabularyError

_LISTED = 5  # how many file names an error message holds


class Example(NamedTuple):
    """A picture uint8 [H, W, 3], its label map int32 [H, W], and its path in the images folder without extension."""

    image: NDArray[np.uint8]
    label: NDArray[np.int32]
    name: str


@dataclass(frozen=True)
class FolderDataset:
    """Pairs of a picture and a label map, read one at a time; a sequence of `Example`. Make one with `open`.

    Attributes:
        names: category names, indexed by label id.
        images, labels: the files of each pair.
        stems: what names each pair: its path in the folder, without extension.
        ignore_label: the value of pixels that count for nothing, in the files and in the examples.
        first_id: the value that the first name has in the files.
        ignore_zero: whether a 0 in the files means `ignore_label`.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    stems: tuple[str, ...]
    ignore_label: int = 255
    first_id: int = 0
    ignore_zero: bool = False

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        images: str = "images",
        labels: str = "labels",
        names: str = "names.txt",
        ignore_label: int = 255,
        label_offset: int = 0,
        ignore_zero: bool = False,
    ) -> "FolderDataset":
        """Finds and pairs the files of `root`; opens no picture.

        Args:
            root: the folder that holds the others.
            images, labels, names: where they are in `root`.
            ignore_label: the value of pixels that count for nothing.
            label_offset: subtracted from every label id, for files that count their categories from there.
            ignore_zero: ADE20K's habit: 0 is "other" and ignored, and categories count from 1 (one more is subtracted).

        Raises:
            DatasetError: a folder is missing, there are no pictures, a picture has no label map or two, names are
                missing, empty or twice, or their ids contradict `label_offset` and `ignore_zero`.
        """
        root = Path(root)
        image_files = _by_stem(root / images)
        label_files = _by_stem(root / labels)
        if not image_files:
            raise DatasetError(f"{root / images}: no pictures found; known extensions are {' '.join(EXTENSIONS)}")
        missing = [stem for stem in image_files if stem not in label_files]
        if missing:
            raise DatasetError(
                f"{root / labels}: no label map for {len(missing)} of {len(image_files)} pictures: {some(missing)}"
            )
        first_id = label_offset + int(ignore_zero)
        category_names, named_first_id = _read_names(root / names)
        if named_first_id not in (None, first_id):
            raise DatasetError(
                f"{root / names}: counts from {named_first_id}, but labels are read from {first_id}; "
                "set label_offset or ignore_zero to agree"
            )
        if 0 <= ignore_label < first_id + len(category_names):
            raise DatasetError(
                f"ignore_label {ignore_label} is also the id of one of the {len(category_names)} categories; "
                "choose another, like -1"
            )
        stems = tuple(image_files)
        return cls(
            names=category_names,
            images=tuple(image_files.values()),
            labels=tuple(label_files[stem] for stem in stems),
            stems=stems,
            ignore_label=ignore_label,
            first_id=first_id,
            ignore_zero=ignore_zero,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """Reads one pair.

        Raises:
            IndexError: no such pair.
            ImageError: a file cannot be read as a picture or label map.
            DatasetError: sizes differ, or a label id has no name.
        """
        image, label = read_image(self.images[index]), read_label(self.labels[index])
        check_sizes(image, label, self.labels[index])
        return Example(image, self._ids(label, self.labels[index]), self.stems[index])

    def picture_file(self, index: int) -> Path:
        """The file of a picture."""
        return self.images[index]

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def _ids(self, stored: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
        ignored = stored == self.ignore_label
        if self.ignore_zero:
            ignored |= stored == 0
        ids = stored - np.int32(self.first_id)
        unknown = ~ignored & ((ids < 0) | (ids >= len(self.names)))
        if unknown.any():
            last_id = self.first_id + len(self.names) - 1
            raise DatasetError(
                f"{path}: has label id {stored[unknown][0]}, but the {len(self.names)} names have ids "
                f"{self.first_id} to {last_id} (ignored: {self.ignore_label})"
            )
        ids[ignored] = self.ignore_label
        return ids


def check_sizes(image: np.ndarray, label: np.ndarray, path: Path) -> None:
    """Raises DatasetError unless a picture [H, W, 3] and the label map [H, W] in `path` are of the same size."""
    (height, width), (label_height, label_width) = image.shape[:2], label.shape
    if (height, width) != (label_height, label_width):
        raise DatasetError(f"{path}: is {label_width} x {label_height} pixels, but its picture {width} x {height}")


def names_from(text_or_path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Category names from "cat, grass", a list of `vlseg.labels` by its name, or the path of a names file.

    A names file has one a line, see `FolderDataset`.

    Raises:
        VocabularyError: no names, an empty one, one twice, or a .txt file that does not exist.
    """
    if os.path.isfile(text_or_path):
        return _parse_names(Path(text_or_path))[0]
    text = os.fspath(text_or_path)
    if text in labels.known():
        return labels.load(text)
    if isinstance(text_or_path, os.PathLike) or text.lower().endswith(".txt"):
        raise VocabularyError(f"{text}: no such file of category names")
    names = tuple(name.strip() for name in text.split(","))
    check_names(names if text.strip() else (), repr(text))
    return names


def _by_stem(folder: Path) -> dict[str, Path]:
    """Picture files under `folder`, sorted, keyed by their path in it without extension."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(walk(folder)):
        inside = path.relative_to(folder)
        if not is_picture(path) or any(part.startswith(".") for part in inside.parts):
            continue
        stem = inside.with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(f"{folder}: {found[stem].name} and {path.name} would share a pair; remove one")
        found[stem] = path
    return found


def walk(folder: Path) -> Iterator[Path]:
    """All files below; links to folders are followed, each folder is entered once."""
    entered = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(root))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(root, name)) not in entered]
        yield from (Path(root, name) for name in names)


def some(items: Sequence[str]) -> str:
    """The first few of many, for an error message."""
    return ", ".join(items[:_LISTED]) + (", ..." if len(items) > _LISTED else "")


def _read_names(path: Path) -> tuple[tuple[str, ...], int | None]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file of category names")
    try:
        return _parse_names(path)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error


def _parse_names(path: Path) -> tuple[tuple[str, ...], int | None]:
    """The names in a file, and the id that the file gives the first of them, if it gives ids."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise VocabularyError(f"{path}: is not a text file in UTF-8") from None
    lines = [line for line in lines if line and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)\s*[:\t]\s*(.*)", line) for line in lines]
    if not lines or not all(numbered):
        check_names(tuple(lines), str(path))
        return tuple(lines), None
    ids = [int(match[1]) for match in numbered if match]
    names = tuple(match[2] for match in numbered if match)
    check_names(names, str(path))
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise VocabularyError(f"{path}: the ids of the names must count up by one from line to line")
    return names, ids[0]


def check_names(names: tuple[str, ...], source: str) -> None:
    """Raises VocabularyError, which begins with `source`, if there are no names, an empty one or one twice."""
    if not names:
        raise VocabularyError(f"{source}: has no category names")
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if not name:
            raise VocabularyError(f"{source}: category name number {position} is empty")
        if name in seen:
            raise VocabularyError(f"{source}: the category name {name!r} is there twice")
        seen.add(name)
