"""Pictures whose labels are drawn from annotation files: what COCO, LabelMe and CVAT have in common."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from vlseg import files
from vlseg.data.examples import IGNORE_LABEL, IGNORED, Example, LazySequence, Pair
from vlseg.data.formats.outlines import Annotation, Outline, Polygon, draw, flaw, points
from vlseg.data.images import MAX_PIXELS, read_picture, read_shape
from vlseg.data.listing import Listing, is_picture, name_order, some
from vlseg.data.orientation import Picture, Shape, label_like
from vlseg.data.pairs import Folder, refuse_broken_links
from vlseg.errors import DatasetError

NOT_NAMED = "not named in the annotations"


class Drawing(NamedTuple):
    """What is drawn on a picture: annotations, and the height and width that they were made for, if that is known."""

    annotations: tuple[Annotation, ...]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class AnnotatedDataset(LazySequence[Example]):
    """Pictures with drawn annotations; pixels without one do not count.

    Attributes:
        names: category names, by id.
        ignore_label: the id of pixels that do not count.
        pairs: the pictures, and the file with the annotations of each.
        drawings: of each picture.
        listing: what is not read.
        read: the pixels of a picture that has no file of its own, from the file with its annotations.
        label_orientation: of `vlseg.data.orientation.RULES`.
    """

    names: tuple[str, ...]
    ignore_label: int
    pairs: tuple[Pair, ...]
    drawings: tuple[Drawing, ...]
    listing: Listing
    read: Callable[[Path], NDArray[np.uint8]] | None = None
    label_orientation: str = ""

    def __len__(self) -> int:
        return len(self.pairs)

    def _read(self, index: int) -> Example:
        picture = self._picture(index)
        return Example(picture.pixels, self._drawn(index, picture.shape), self.pairs[index].name)

    def label(self, index: int) -> NDArray[np.int32]:
        """The label map of an example, int32 [H, W]; of its picture no more than the header is read.

        Raises:
            As `self[index]`, but damaged pixels of the picture go unnoticed.
        """
        path = self.picture_file(index)
        return self._drawn(index, read_shape(path) if path else self._picture(index).shape)

    def _picture(self, index: int) -> Picture:
        pair = self.pairs[index]
        if self.read and pair.image == pair.label:
            return Picture(self.read(pair.label), 1)
        return read_picture(pair.image)

    def _drawn(self, index: int, shape: Shape) -> NDArray[np.int32]:
        """The label map of a picture of that shape, for which, or for what its file stores, annotations were made."""
        pair, (annotations, size) = self.pairs[index], self.drawings[index]
        height, width, orientation = shape
        if size and size != (height, width) and (orientation < 5 or size != (width, height)):
            raise DatasetError(
                f"{files.shown_path(pair.label)}: says that {files.shown_path(pair.name)} is {size[1]} x {size[0]} "
                f"pixels, but it is {width} x {height}"
            )
        try:
            label = draw(annotations, *(size or (height, width)), self.ignore_label)
        except DatasetError as error:
            raise DatasetError(f"{files.shown_path(pair.label)}: {files.shown_path(pair.name)}: {error}") from error
        return label_like(label, shape, self.label_orientation, files.shown_path(pair.name))

    def picture_file(self, index: int) -> Path | None:
        """The file of a picture; None if its pixels lie in the annotations."""
        pair = self.pairs[index]
        return pair.image if pair.image != pair.label else None


class Omissions:
    """Annotations that have no pixels, by the reason."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Adds one; `reason` follows "annotations", `name` says which."""
        self.found.setdefault(f"annotations {reason}", []).append(name)

    def polygons(self, parts: Iterable[object], size: tuple[int, int] | None, name: str) -> tuple[Outline, ...]:
        """Those polygons, each a list of numbers or of pairs, that can have pixels; the others are added.

        Raises:
            DatasetError: one is not made of numbers.
        """
        drawn: list[Outline] = []
        for part in parts:
            found = points(part)
            reason = flaw(found, size)
            if reason:
                self.add(reason, name)
            else:
                drawn.append(Polygon(found))
        return tuple(drawn)


def ignore_label(names: Sequence[str]) -> int:
    """The label of pixels that do not count: 255, unless that is a class."""
    return IGNORE_LABEL if len(names) <= IGNORE_LABEL else IGNORED


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """Height and width as an annotation file has them, which no picture need have; None if it does not say."""
    if not (isinstance(height, int | float) and isinstance(width, int | float) and min(height, width) > 0):
        return None
    return round(min(height, MAX_PIXELS)), round(min(width, MAX_PIXELS))


def by_image(
    source: Path, names: Iterable[str], folders: Sequence[Path], how: str
) -> tuple[dict[str, Path], dict[str, Sequence[str]]]:
    """The files of pictures that an annotation file names, and the other pictures beside them.

    Args:
        source: the annotation file.
        names: of pictures, in it.
        folders: where they may be; the first is taken that holds all of them, or most.
        how: how a person names the folder.

    Returns:
        name -> file; and why pictures are not read -> their names, as `Listing.left`.

    Raises:
        DatasetError: a picture is not there; two names stand for one file.
    """
    wanted = list(names)
    if not wanted:
        raise DatasetError(f"{source}: names no pictures")
    found: dict[str, Path] = {}
    chosen = None
    for folder in dict.fromkeys(folders):
        inside = _inside(Folder(folder), wanted) if folder.is_dir() else {}
        if len(inside) > len(found):
            found, chosen = inside, folder
        if len(found) == len(wanted):
            break
    if chosen is None:
        looked = some([str(folder) for folder in dict.fromkeys(folders)])
        raise DatasetError(f"{source}: {wanted[0]} and the other pictures are not in {looked}; name the folder: {how}")
    missing = [name for name in wanted if name not in found]
    if missing:
        refuse_broken_links([chosen / name for name in missing])
        raise DatasetError(
            f"{chosen}: {len(missing)} of {len(wanted)} pictures of {source.name} are missing: {some(missing)}"
        )
    read: dict[str, str] = {}
    for name, path in found.items():
        if read.setdefault(str(path), name) != name:
            raise DatasetError(f"{source}: {name} is named in two ways, also as {read[str(path)]}")
    others = [
        os.path.relpath(os.path.join(folder, name), chosen)
        for folder in sorted({os.path.dirname(path) for path in read})
        for name in sorted(os.listdir(folder or "."), key=name_order)
        if os.path.join(folder, name) not in read and is_picture(Path(folder, name))
    ]
    return found, {NOT_NAMED: others} if others else {}


def _inside(folder: Folder, names: Iterable[str]) -> dict[str, Path]:
    """Those pictures that a folder holds, by their names, or by the ends of these: names may tell of folders above.

    Names that were written for an address ("a%20b.jpg") are also looked for as they are meant.
    """
    found = {}
    for name in names:
        options = [name]
        if "/" in name or "\\" in name:
            parts = name.replace("\\", "/").split("/")
            options += ["/".join(parts[start:]) for start in range(len(parts))]
        if "%" in name:
            options += list(map(unquote, options))
        for option in options:
            path = folder.find(option) if option else folder.root
            if os.path.isfile(path):
                found[name] = path
                break
    return found


def listing(place: Path, read: int, left: Mapping[str, Sequence[str]], omissions: Omissions) -> Listing:
    """What is not read of annotated pictures."""
    return Listing(str(place), read, left, omissions.found)
