"""Finding and reading the files of a data set, and pairing pictures with label files by the habits data sets have.

DatasetError names what is missing: a folder, a list or its content, pictures, or the partners of files.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vlseg import files
from vlseg.data.examples import Pair
from vlseg.data.listing import has_picture_name, is_folder, name_order, some, walk
from vlseg.errors import DatasetError

DERIVED = ("_labelTrainIds.png", "_instanceTrainIds.png")
"""Endings of what other code leaves beside label files; they are not looked at."""


def key(name: str) -> str:
    """What names are compared by: one way of writing accents, which file systems and archives change."""
    return unicodedata.normalize("NFC", name)


class Folder:
    """The files of a folder, found by names that may be written in another way: accents (NFC, NFD), capitals in `.JPG`.

    Each folder below is looked through once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._below: dict[str, tuple[Path, set[str], dict[str, str]]] = {}

    def find(self, name: str) -> Path:
        """The path of a file below the folder, or where it would be."""
        if os.path.isabs(name):
            return Path(name)
        inside, slash, last = name.rpartition("/")
        if inside + slash not in self._below:
            self._below[inside + slash] = self._look_through(inside)
        folder, names, by_key = self._below[inside + slash]
        return folder / (last if last in names else by_key.get(_file_key(last), last))

    def _look_through(self, inside: str) -> tuple[Path, set[str], dict[str, str]]:
        """A folder below, the names of its files, and these by their keys."""
        folder = self.root / inside
        if not os.path.isdir(folder) and folder != self.root:
            folder = self._folder(folder)
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry.name for entry in entries if not is_folder(entry)), key=name_order)
        except OSError:
            names = []
        return folder, set(names), {_file_key(name): name for name in names}

    def _folder(self, path: Path) -> Path:
        """The same of a folder below, none of whose names need be as it is written."""
        current = self.root
        for part in path.relative_to(self.root).parts:
            inside = [entry for entry in current.iterdir() if entry.is_dir()] if current.is_dir() else []
            current = next((entry for entry in inside if key(entry.name) == key(part)), current / part)
        return current


def _file_key(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return key(f"{stem}{dot}{suffix.lower()}")


def in_parallel(
    root: Path, images: str, labels: str, image_suffixes: Sequence[str] = (".jpg",), label_suffix: str = ".png"
) -> list[Pair]:
    """Two trees of folders alike, in which a picture and its label file differ in their endings only.

    Args:
        root: of the data set.
        images, labels: the trees, below `root`.
        image_suffixes: endings of pictures. label_suffix: of label files; other files that are no pictures do not
            matter.

    Raises:
        DatasetError: a file has no partner, or is a picture of another ending, or a link that leads nowhere.
    """
    pictures, strangers = by_stem(root / images, image_suffixes)
    maps, _ = by_stem(root / labels, (label_suffix,))
    if not pictures:
        raise DatasetError(f"{root / images}: holds no pictures (*{' or *'.join(image_suffixes)})")
    refuse(root / labels, "label files", [f"{stem}{label_suffix}" for stem in pictures if stem not in maps])
    refuse(root / images, "pictures", [f"{stem}{image_suffixes[0]}" for stem in maps if stem not in pictures])
    if images != labels and (unread := [path for path in strangers if has_picture_name(path)]):
        raise DatasetError(
            f"{root / images}: {len(unread)} pictures do not end in {' or '.join(image_suffixes)}, so that they have "
            f"no label files: {some([str(path.relative_to(root / images)) for path in unread])}"
        )
    refuse_broken_links([*pictures.values(), *maps.values()])
    return [Pair(pictures[stem], maps[stem], stem) for stem in sorted(pictures, key=name_order)]


def by_name(root: Path, images: str, suffix: str, label: Callable[[str], str]) -> list[Pair]:
    """Pictures in a folder, whose label files follow from their names.

    Args:
        root: of the data set.
        images: the folder, below `root`. suffix: of pictures.
        label: from a picture's name without suffix to its label file, below `root`.
    """
    pictures, _ = by_stem(root / images, (suffix,))
    if not pictures:
        raise DatasetError(f"{root / images}: holds no pictures (*{suffix})")
    folder = Folder(root)
    stems = sorted(pictures, key=name_order)
    pairs = [Pair(pictures[stem], folder.find(label(stem)), stem) for stem in stems]
    refuse_absent(root, "label files", [pair.label for pair in pairs])
    refuse_broken_links([pair.image for pair in pairs])
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
    folder = Folder(root)
    pairs = [
        Pair(folder.find(images.format(name)), _first_file(folder, [label.format(name) for label in labels]), name)
        for name in dict.fromkeys(listed)
    ]
    refuse_absent(root, "pictures", [pair.image for pair in pairs])
    refuse_absent(root, "label files", [pair.label for pair in pairs])
    return pairs


def _first_file(folder: Folder, names: Sequence[str]) -> Path:
    found = [folder.find(name) for name in names]
    return next((path for path in found if path.is_file()), found[0])


def pictures_by_key(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Picture files under `folder`, sorted, by the `key` of their path in it without extension; other files."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    others = []
    for path in walk(folder):
        inside = path.relative_to(folder)
        if has_picture_name(path):
            put(found, key(inside.with_suffix("").as_posix()), path, folder)
        else:
            others.append(str(inside))
    return found, others


def refuse_lonely(
    folder: Path, kind: str, wanted: Mapping[str, Path], partners: str, found: Mapping[str, Path], others: Sequence[str]
) -> None:
    """Raises DatasetError if `folder` lacks the partner of a file.

    Args:
        kind, partners: what the files of `folder` and of the other one are called.
        wanted, found: files of the other folder and of this one, by their keys. others: files that are not read.
    """
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        near = [name for name in others if key(Path(name).with_suffix("").as_posix()) in set(missing)]
        hint = f"; of an unknown type: {some(near)}" if near else ""
        raise DatasetError(f"{folder}: no {kind} for {len(missing)} of {len(wanted)} {partners}: {some(missing)}{hint}")


def by_stem(folder: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """Files below a folder that end in one of `suffixes`, by the `key` of their path in it without that; the others.

    Raises:
        DatasetError: there is no such folder, or two files have one key.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    others = []
    for path in walk(folder):
        ending = next((suffix for suffix in suffixes if _ends_in(path.name, suffix)), "")
        if not ending:
            others.append(path)
        elif not path.name.endswith(DERIVED):
            put(found, key(path.relative_to(folder).as_posix()[: -len(ending)]), path, folder)
    return found, others


def _ends_in(name: str, suffix: str) -> bool:
    """Whether a name ends in `suffix`, in any case after its dot: "a_L.PNG" in "_L.png"."""
    exact, dot, ending = suffix.rpartition(".")
    head = name[: len(name) - len(ending) - len(dot)]
    return name[len(head) :].lower() == (dot + ending).lower() and head.endswith(exact)


def put(found: dict[str, Path], stem: str, path: Path, folder: Path) -> None:
    """Adds a file by its key; DatasetError if another one has that."""
    if stem in found:
        names = " and ".join(files.shown_path(one.relative_to(folder)) for one in (found[stem], path))
        raise DatasetError(f"{folder}: {names} would share a pair; remove one")
    found[stem] = path


def refuse_broken_links(paths: Iterable[Path]) -> None:
    """Raises DatasetError that names a link that leads nowhere, if one of some files is such."""
    for path in paths:
        if os.path.islink(path) and not path.exists():
            raise DatasetError(f"{files.shown_path(path)}: is a link to {os.readlink(path)}, which is not there")


def refuse_absent(root: Path, kind: str, wanted: Iterable[Path]) -> None:
    """Raises DatasetError that names those of some files below `root` that are not there; `kind` is what they are."""
    wanted = list(wanted)
    refuse_broken_links(wanted)
    refuse(root, kind, [str(file.relative_to(root)) for file in wanted if not file.is_file()])


def refuse(folder: Path, kind: str, missing: list[str]) -> None:
    """Raises DatasetError if anything is missing in a folder."""
    if missing:
        raise DatasetError(f"{folder}: {len(missing)} {kind} are missing: {some(sorted(missing, key=name_order))}")


def read_bytes(path: Path, absent: str = "no such file") -> bytes:
    """The content of a file; DatasetError if it is not there, which `absent` says, or cannot be read."""
    if not os.path.lexists(path):
        raise DatasetError(f"{path}: {absent}")
    return files.read_regular(path, DatasetError)


def read_lines(path: Path, absent: str = "no such file") -> list[str]:
    """The lines of a text file in UTF-8 that are not blank, of which there must be one; errors as of `read_bytes`."""
    content = read_bytes(path, absent)
    if content and (kind := files.kind_of(content)):
        raise DatasetError(f"{path}: is {kind}")
    try:
        lines = [line for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise DatasetError(f"{path}: lists nothing")
    return lines
