"""Finding and reading the files of a data set, and pairing pictures with label files by the habits data sets have.

DatasetError names what is missing: a folder, a list or its content, pictures, or the partners of files.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vlseg.data.examples import Pair
from vlseg.errors import DatasetError

_LISTED = 5  # how many file names an error message holds
DERIVED = ("_labelTrainIds.png", "_instanceTrainIds.png")
"""Endings of what other code leaves beside label files; they are not looked at."""


def in_parallel(
    root: Path, images: str, labels: str, image_suffixes: Sequence[str] = (".jpg",), label_suffix: str = ".png"
) -> list[Pair]:
    """Two trees of folders alike, in which a picture and its label file differ in their endings only.

    Args:
        root: of the data set.
        images, labels: the trees, below `root`.
        image_suffixes: endings of pictures. label_suffix: of label files; other files do not matter.
    """
    pictures = {stem: path for suffix in image_suffixes for stem, path in _by_stem(root / images, suffix).items()}
    maps = _by_stem(root / labels, label_suffix)
    if not pictures:
        raise DatasetError(f"{root / images}: holds no pictures (*{' or *'.join(image_suffixes)})")
    refuse(root / labels, "label files", [f"{stem}{label_suffix}" for stem in pictures if stem not in maps])
    refuse(root / images, "pictures", [f"{stem}{image_suffixes[0]}" for stem in maps if stem not in pictures])
    return [Pair(pictures[stem], maps[stem], stem) for stem in sorted(pictures)]


def by_name(root: Path, images: str, suffix: str, label: Callable[[str], str]) -> list[Pair]:
    """Pictures in a folder, whose label files follow from their names.

    Args:
        root: of the data set.
        images: the folder, below `root`. suffix: of pictures.
        label: from a picture's name without suffix to its label file, below `root`.
    """
    pictures = _by_stem(root / images, suffix)
    if not pictures:
        raise DatasetError(f"{root / images}: holds no pictures (*{suffix})")
    pairs = [Pair(pictures[stem], root / label(stem), stem) for stem in sorted(pictures)]
    refuse_absent(root, "label files", [pair.label for pair in pairs])
    return pairs


def inner(root: Path, *names: str) -> Path:
    """The folder itself, or the one of these names in it, and so on: what archives are unpacked into."""
    for name in names:
        root = root / name if (root / name).is_dir() else root
    return root


def first_of(root: Path, *names: str) -> str:
    """The first of these folders that is there below `root`, or the first at all."""
    return next((name for name in names if (root / name).is_dir()), names[0])


def in_list(root: Path, names: str, images: str, *labels: str) -> list[Pair]:
    """Pairs that a text file lists, one name a line.

    Args:
        root: of the data set.
        names: the text file, below `root`.
        images: path below `root` in which {} stands for a name.
        labels: the same for label files; of several the first that is there.
    """
    listed = [line.split()[0] for line in read_lines(root / names, "no such list of names")]
    pairs = [
        Pair(root / images.format(name), _first_file(root, [label.format(name) for label in labels]), name)
        for name in dict.fromkeys(listed)
    ]
    refuse_absent(root, "pictures", [pair.image for pair in pairs])
    refuse_absent(root, "label files", [pair.label for pair in pairs])
    return pairs


def _first_file(root: Path, names: Sequence[str]) -> Path:
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Files below a folder by their path in it without `suffix`."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    return {
        path.relative_to(folder).as_posix().removesuffix(suffix): path
        for path in walk(folder)
        if path.name.endswith(suffix) and not path.name.startswith(".") and not path.name.endswith(DERIVED)
    }


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


def refuse_absent(root: Path, kind: str, wanted: Iterable[Path]) -> None:
    """Raises DatasetError that names those of some files below `root` that are not there; `kind` is what they are."""
    refuse(root, kind, [str(file.relative_to(root)) for file in wanted if not file.is_file()])


def refuse(folder: Path, kind: str, missing: list[str]) -> None:
    """Raises DatasetError if anything is missing in a folder."""
    if missing:
        raise DatasetError(f"{folder}: {len(missing)} {kind} are missing: {some(sorted(missing))}")


def read_bytes(path: Path, absent: str = "no such file") -> bytes:
    """The content of a file; DatasetError if it is not there, which `absent` says, or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: {absent}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def read_lines(path: Path, absent: str = "no such file") -> list[str]:
    """The lines of a text file in UTF-8 that are not blank, of which there must be one; errors as of `read_bytes`."""
    try:
        lines = [line for line in read_bytes(path, absent).decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise DatasetError(f"{path}: lists nothing")
    return lines
