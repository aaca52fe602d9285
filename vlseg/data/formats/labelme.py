"""Annotations of LabelMe (3 to 5) as a data set: a JSON file for each picture.

```
labelme:FOLDER              JSON files beside the pictures that they name
labelme:FOLDER:PICTURES     the pictures in a folder of their own
```

Classes are those of FOLDER/labels.txt or names.txt, or else all labels in alphabetical order; `_background_` is
"background". Shapes that are called `__ignore__` do not count. Shapes of one label and one group are one object; where
objects overlap the smaller lies on top. A picture that has no file any more is taken out of its JSON.
"""

import base64
import binascii
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlseg import json_files
from vlseg.data.examples import Pair
from vlseg.data.formats.annotated import AnnotatedDataset, Drawing, Omissions, ignore_label, listing, size_of
from vlseg.data.formats.outlines import NO_CLASS, Annotation, Bitmap, Ellipse, Outline, box, points
from vlseg.data.images import MAX_PIXELS, decode_image
from vlseg.data.listing import UNKNOWN_TYPE, has_picture_name, some, walk
from vlseg.data.pairs import Folder, refuse, refuse_broken_links
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import check_names, names_from, plain

IGNORED_LABEL = "__ignore__"
SPECIAL = {"_background_": "background"}
"""LabelMe's own words, and plain ones."""

NAMES_FILES = ("labels.txt", "names.txt")
THIN = ("line", "linestrip", "point", "points")
"""Shapes without an area."""


def open_labelme(root: str | os.PathLike[str], images: str = "", names: str = "") -> AnnotatedDataset:
    """Reads all JSON files of a folder; opens no picture.

    Args:
        root: the folder of the JSON files. images: that of the pictures, where it is another one.
        names: of the classes, with commas or as a file.

    Raises:
        DatasetError: a file is damaged, a picture is missing or has no JSON file, or a label is none of the names.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    pictures = Path(images) if images else root
    found = list(walk(root))
    contents = {path: content for path in found if path.suffix.lower() == ".json" if (content := _content(path))}
    if not contents:
        raise DatasetError(f"{root}: holds no JSON files of LabelMe's")
    finders: dict[Path, Folder] = {}
    files_of = {path: _picture(path, content, root, pictures, finders) for path, content in contents.items()}
    _check_pictures(root, pictures, files_of)
    omissions = Omissions()
    objects = {path: _objects(path, content, root, omissions) for path, content in contents.items()}
    known = _names(root, names, [label for grouped in objects.values() for label, _ in grouped])
    drawings = tuple(
        Drawing(_annotations(objects[path], known), size_of(content.get("imageHeight"), content.get("imageWidth")))
        for path, content in contents.items()
    )
    read = {path.resolve() for path in files_of.values()}
    others = [path for path in found if path not in contents and path.resolve() not in read]
    others = [path for path in others if path.parent != root or path.name not in NAMES_FILES]
    pairs = tuple(Pair(files_of[path], path, path.relative_to(root).with_suffix("").as_posix()) for path in contents)
    left = {UNKNOWN_TYPE: [str(path.relative_to(root)) for path in others]}
    return AnnotatedDataset(
        known, ignore_label(known), pairs, drawings, listing(root, len(pairs), left, omissions), _embedded
    )


def is_labelme(path: Path) -> bool:
    """Whether a JSON file seems to be LabelMe's, by its beginning."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return b'"shapes"' in head or b'"imageData"' in head


def _content(path: Path) -> Mapping[str, Any] | None:
    """What a file of LabelMe's says, without the picture; None if it is another kind of JSON."""
    refuse_broken_links([path])
    content = json_files.read(path, DatasetError)
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    # Pictures of a whole folder would not fit into the memory.
    return {**content, "imageData": bool(content.get("imageData"))}


def _picture(path: Path, content: Mapping[str, Any], root: Path, pictures: Path, finders: dict[Path, Folder]) -> Path:
    """The picture of a JSON file, or the file itself if it holds the picture; `finders` are folders seen before."""
    named = content.get("imagePath")
    here = path.parent if pictures == root else pictures / path.parent.relative_to(root)
    folder = finders.setdefault(here, Folder(here))
    if isinstance(named, str) and named:
        # Windows writes backslashes, and folders may have been moved.
        plain_name = named.replace("\\", "/")
        for name in (plain_name, plain_name.rpartition("/")[2]):
            if name and os.path.isfile(picture := folder.find(name)):
                return picture
            refuse_broken_links([here / name])
    if content["imageData"]:
        return path
    raise DatasetError(f"{path}: its picture {named or ''} is not in {here}, and not in the file")


def _check_pictures(root: Path, pictures: Path, files_of: Mapping[Path, Path]) -> None:
    """Raises DatasetError for two JSON files of one picture, and for pictures without one."""
    first: dict[Path, Path] = {}
    for path, picture in files_of.items():
        other = first.setdefault(picture.resolve(), path)
        if other != path:
            raise DatasetError(f"{root}: {other.name} and {path.name} are both of {picture.name}; remove one")
    found = [path for path in walk(pictures) if has_picture_name(path)]
    refuse_broken_links(found)
    lonely = [str(path.relative_to(pictures)) for path in found if path.resolve() not in first]
    refuse(root, "JSON files of pictures", lonely)


def _objects(
    path: Path, content: Mapping[str, Any], root: Path, omissions: Omissions
) -> dict[tuple[str, object], list[Outline]]:
    """Label and group, or what tells objects apart -> the parts of an object."""
    shapes = content["shapes"]
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DatasetError(f"{path}: shapes is no list of objects")
    size = _size(content)
    found: dict[tuple[str, object], list[Outline]] = {}
    for number, shape in enumerate(shapes):
        label, group = shape.get("label"), shape.get("group_id")
        if not isinstance(label, str) or not plain(label):
            raise DatasetError(f"{path}: shape {number} has no label")
        if group is not None and not isinstance(group, int | str):
            raise DatasetError(f"{path}: shape {number} has group_id {group!r}")
        try:
            parts = _parts(shape, size, omissions, str(path.relative_to(root)))
        except DatasetError as error:
            raise DatasetError(f"{path}: shape {number} ({plain(label)}): {error}") from error
        if parts:
            found.setdefault((_word(label), ("shape", number) if group is None else group), []).extend(parts)
    return found


def _parts(
    shape: Mapping[str, Any], size: tuple[int, int] | None, omissions: Omissions, name: str
) -> tuple[Outline, ...]:
    """The outlines of a shape."""
    kind = shape.get("shape_type") or "polygon"
    corners = points(shape.get("points"))
    if kind in THIN:
        omissions.add("without an area", f"{name} ({kind})")
        return ()
    if shape.get("mask"):
        return (_mask(shape["mask"], corners),)
    if kind == "circle" and len(corners) == 2:
        radius = float(np.hypot(*(corners[1] - corners[0])))
        return (Ellipse(float(corners[0, 0]), float(corners[0, 1]), radius, radius),)
    if kind == "rectangle" and len(corners) == 2:
        return omissions.polygons([box(*corners.min(0), *corners.max(0)).points], size, name)
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        raise DatasetError(f"shapes of type {kind!r} with {len(corners)} points are not known")
    return omissions.polygons([corners], size, name)


def _word(label: str) -> str:
    return SPECIAL.get(plain(label), plain(label))


def _mask(encoded: Any, corners: NDArray[np.float64]) -> Bitmap:
    """A mask between two corners, which belong to it."""
    if len(corners) != 2:
        raise DatasetError("a mask needs two corners")
    left, top = np.rint(corners.min(0)).astype(int).tolist()
    try:
        with Image.open(io.BytesIO(_decoded(encoded)), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError("a mask is larger than any picture")
            mask = np.asarray(image)
    except DatasetError:
        raise
    except Exception as error:  # on damaged data Pillow raises almost anything
        raise DatasetError("a mask is no PNG, or is damaged") from error
    right, bottom = np.rint(corners.max(0)).astype(int).tolist()
    if mask.ndim != 2 or mask.shape != (bottom - top + 1, right - left + 1):
        raise DatasetError(f"a mask of shape {list(mask.shape)} does not fit between its corners")
    return Bitmap(top, left, mask > 0)


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise DatasetError("is no text in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DatasetError("is no base64, or is cut off") from error


def _embedded(path: Path) -> NDArray[np.uint8]:
    """The picture in a JSON file."""
    try:
        data = _decoded(json_files.read(path, DatasetError).get("imageData"))
    except DatasetError as error:
        raise DatasetError(f"{path}: imageData {error}") from error
    return decode_image(data, f"imageData of {path}")


def _names(root: Path, given: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The classes: those that are given, those of a file in the folder, or all labels that occur."""
    used = {label: None for label in labels if label != IGNORED_LABEL}
    file = next((root / name for name in NAMES_FILES if (root / name).is_file()), None)
    source = given or file
    try:
        if source:
            names = tuple(_word(name) for name in names_from(source) if name != IGNORED_LABEL)
            strangers = [label for label in used if label not in names]
            if strangers:
                raise DatasetError(
                    f"{root}: {len(strangers)} labels are none of the names in {source}: {some(sorted(strangers))}"
                )
            return names
        if not used:
            raise DatasetError(f"{root}: no shape has an area in its picture: there is nothing to learn from")
        return check_names(sorted(used), source=str(root), ignore_case=False)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    return size_of(content.get("imageHeight"), content.get("imageWidth"))


def _annotations(
    objects: Mapping[tuple[str, object], Sequence[Outline]], names: Sequence[str]
) -> tuple[Annotation, ...]:
    ids = {**{name: index for index, name in enumerate(names)}, IGNORED_LABEL: NO_CLASS}
    return tuple(Annotation(ids[label], tuple(parts)) for (label, _), parts in objects.items())
