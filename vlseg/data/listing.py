"""Finding pictures in folders, patterns and lists, and saying what else lies there.

Hidden files, and what file managers and storage devices leave beside pictures (Thumbs.db, @eaDir), are nobody's
pictures: they are neither read nor counted. The order of everything found is that of the bytes of its path, so that all
processes agree whatever their locale.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from absl import flags

from vlseg import files
from vlseg.data.images import EXTENSIONS, check_images
from vlseg.errors import DatasetError, ImageError, VlsegError

PictureSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

UNKNOWN_TYPE = "of an unknown type"
FOLDERS = "with pictures not looked into (a pattern like FOLDER/**/*.jpg would)"

_LISTED = 5  # how many file names a message holds
_LONGEST_PATH = 4096
_LITTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)

# It belongs to the command that calls `define_strict`, so its --help shows it.
flags.disclaim_key_flags()


@dataclass(frozen=True)
class Listing:
    """What a place holds, and how much of it is read.

    Attributes:
        place: what a person calls it.
        read: how many pictures are read.
        left: why files are not read -> their names.
        besides: the same for what is no file, with its kind first: "2 folders ..." -> names.
        apart: as `left`, of files that are no part of what is read by the data set's own layout; they are no error.
    """

    place: str
    read: int
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    besides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    apart: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left out."""
        return self._is_as_laid_out and not any(self.apart.values())

    @property
    def _is_as_laid_out(self) -> bool:
        return not any(self.left.values()) and not any(self.besides.values())

    @property
    def line(self) -> str:
        """One line such as "photos: 812 of 815 read: 3 of an unknown type: a.heic, b.heic, c.txt"."""
        total = self.read + sum(map(len, self.left.values()))
        parts = [f"{len(names):,} {why}: {some(names)}" for why, names in self.left.items() if names]
        others = (*self.besides.items(), *self.apart.items())
        parts += [f"{len(names):,} {what}: {some(names)}" for what, names in others if names]
        what = f"{files.shown_path(self.place)}: {self.read:,} of {total:,} read"
        return f"{what}: {'; '.join(parts)}" if parts else what

    def check(self, strict: bool) -> None:
        """Raises DatasetError that says what is left out, if anything is, and that is to be an error."""
        if strict and not self._is_as_laid_out:
            raise DatasetError(f"{self.line} (an error because of --strict)")


def define_strict() -> None:
    """Defines --strict."""
    flags.DEFINE_bool("strict", False, "Files of a data folder that are not read are an error; else a line names them.")


def announce(listing: Listing | None) -> None:
    """Prints what is left out of a place, if anything is."""
    if listing is not None and not listing.is_complete:
        print(listing.line, flush=True)


def list_images(source: PictureSource) -> list[Path]:
    """The picture files that `source` stands for, without opening any; see `look_through`."""
    return look_through(source)[0]


def announced_images(source: PictureSource, strict: bool = False) -> list[Path]:
    """`list_images`, and what is left out is printed; with `strict` it is a DatasetError."""
    paths, listing = look_through(source)
    listing.check(strict)
    announce(listing)
    return paths


def list_checked_images(source: PictureSource, strict: bool = False) -> list[Path]:
    """`list_images` after `check_image` of each: what cannot be read is known before work on the others begins.

    Prints what is left out; with `strict` that is a DatasetError.
    """
    paths, listing = look_through(source)
    listing.check(strict)
    for found in check_images(paths):
        if isinstance(found, ImageError):
            raise found
    announce(listing)
    return paths


def look_through(source: PictureSource) -> tuple[list[Path], Listing]:
    """The picture files that `source` stands for, without opening any, and what else is there.

    Args:
        source: a directory (its files with one of EXTENSIONS, subfolders left out), a file, a glob pattern, several of
            these separated by commas, or a sequence of these. What exists is meant as it is, commas and brackets
            included.

    Returns:
        At least one path, none twice, sorted in each part. A link that leads nowhere is among them, for the reader to
        name.

    Raises:
        ImageError: a part of `source` is missing, or no picture was found in it.
    """
    if isinstance(source, str | os.PathLike):
        parts = split_list(os.fspath(source), _exists) or [os.fspath(source)]
    else:
        parts = [part for one in source for part in split_list(os.fspath(one), _exists)]
    found: dict[Path, None] = {}
    left: dict[str, None] = {}
    folders: dict[str, None] = {}
    for part in parts:
        pictures, others, subfolders = _one(part)
        if not pictures:
            raise ImageError(f"{part}: no pictures found; known extensions are {' '.join(EXTENSIONS)}")
        found |= dict.fromkeys(pictures)
        left |= dict.fromkeys(others)
        folders |= dict.fromkeys(subfolders)
    if not found:
        raise ImageError("no pictures are named")
    besides = {f"{'folder' if len(folders) == 1 else 'folders'} {FOLDERS}": list(folders)} if folders else {}
    place = parts[0] if len(parts) == 1 else f"{len(parts)} places"
    return list(found), Listing(place, len(found), {UNKNOWN_TYPE: list(left)} if left else {}, besides)


def _one(source: str) -> tuple[list[Path], list[str], list[str]]:
    """Pictures, names of other files, and names of subfolders with pictures, of a directory, a file or a pattern."""
    if os.path.isdir(source):
        return _sorted_out([Path(entry.path) for entry in _entries(source, ImageError)])
    if os.path.lexists(source):
        return [Path(source)], [], []
    if glob.has_magic(source):
        named = Path(source).parts
        found = sorted(map(Path, glob.glob(_pattern(source), recursive=True)), key=order)
        return _sorted_out([path for path in found if not any(is_litter(part) for part in set(path.parts) - {*named})])
    raise ImageError(f"{source or 'an empty path'}: no such file or directory")


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[str], list[str]]:
    seen = [path for path in paths if not is_litter(path.name)]
    folders = [path for path in seen if path.is_dir()]
    is_folder = set(folders)
    pictures = [path for path in seen if has_picture_name(path) and path not in is_folder]
    # What a recursive pattern has found is not missing.
    known = {ancestor for path in pictures for ancestor in path.parents}
    unread = [path.name for path in folders if path not in known and _has_pictures(path)]
    chosen = {*pictures, *folders}
    return pictures, [path.name for path in seen if path not in chosen], unread


def _has_pictures(folder: Path) -> bool:
    return any(map(has_picture_name, walk(folder, ImageError)))


def _exists(path: str) -> bool:
    """Whether a path, or a link there, or something that a pattern stands for, is there."""
    return os.path.lexists(path) or (glob.has_magic(path) and bool(glob.glob(_pattern(path), recursive=True)))


def _pattern(source: str) -> str:
    """A pattern in which folders that are there are meant as they are called: "run [1]/*.png"."""
    head, literal = "", Path(source).parts
    for count in range(len(literal) - 1, 0, -1):
        start = os.path.join(*literal[:count])
        if os.path.isdir(start):
            head, literal = start, literal[count:]
            break
    return os.path.join(glob.escape(head), *literal)


def split_list(text: str, exists: Callable[[str], bool], separator: str = ",") -> list[str]:
    """The parts of a list in which a name may hold the separator too.

    Args:
        text: the list.
        exists: whether a part is something; the longest that is is taken, else the text up to the next separator,
            without blanks around it.
    """
    pieces, parts = text.split(separator), []
    start = 0
    while start < len(pieces):
        for end in range(len(pieces), start, -1):
            part = separator.join(pieces[start:end])
            if len(part) < _LONGEST_PATH and (one := _existing(part, exists)):
                break
        else:
            end, one = start + 1, pieces[start].strip()
        parts.append(one)
        start = end
    return [part for part in parts if part]


def _existing(part: str, exists: Callable[[str], bool]) -> str:
    """A part, or the part without blanks around it, that is something; or nothing."""
    return next((one for one in (part, part.strip()) if one and exists(one)), "")


def is_picture(path: Path) -> bool:
    """Whether `path` has one of EXTENSIONS and is no directory and not hidden; it is not opened."""
    return has_picture_name(path) and not path.is_dir()


def has_picture_name(path: Path) -> bool:
    """Whether a file that is no directory is a picture by its name."""
    name = path.name
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not is_litter(name)


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that file managers and storage devices leave everywhere."""
    return name.startswith(".") or name.lower() in _LITTER


def walk(folder: Path, error: type[VlsegError] = DatasetError) -> Iterator[Path]:
    """All files below that are no litter, in `order`; links to folders are followed, except back.

    Links that lead nowhere are among them.

    Raises:
        VlsegError: a folder cannot be read; of the kind `error`.
    """
    waiting = [iter(_entries(folder, error))]
    above = [os.path.realpath(folder)]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            above.pop()
        elif is_litter(entry.name):
            continue
        elif not is_folder(entry):
            yield Path(entry.path)
        elif (real := os.path.realpath(entry.path)) not in above:
            waiting.append(iter(_entries(entry.path, error)))
            above.append(real)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: str | Path, error: type[VlsegError]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: name_order(entry.name))
    except OSError as problem:
        raise error(f"{files.shown_path(folder)}: cannot be read: {problem.strerror}") from problem


def order(path: Path) -> tuple[bytes, ...]:
    """What paths are sorted by."""
    return tuple(map(name_order, path.parts))


def name_order(name: str) -> bytes:
    """What names are sorted by: their bytes."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair, which no file can be called but JSON may hold
        return name.encode("utf-8", "surrogatepass")


def some(items: Iterable[str]) -> str:
    """The first few of many names, for a message."""
    listed = [files.shown_path(item) for item in items]
    return ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
