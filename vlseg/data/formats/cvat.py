"""Annotations of CVAT as a data set: "CVAT for images 1.1", an XML file for all pictures.

```
cvat:annotations.xml             pictures are looked for in images/ and beside the file
cvat:annotations.xml:FOLDER      the folder of the pictures
cvat:FOLDER                      an export, as it is unpacked
```

Classes are the labels in the order of the project. Polygons, boxes, ellipses and masks count; shapes of one label and
one group are one object. Where objects overlap the smaller lies on top, whatever z_order says.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np

from vlseg import files
from vlseg.data.examples import Pair
from vlseg.data.formats.annotated import AnnotatedDataset, Drawing, Omissions, by_image, ignore_label, listing, size_of
from vlseg.data.formats.outlines import LARGEST, Annotation, Ellipse, Outline, Runs, box
from vlseg.data.listing import name_order
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import check_names, plain

HOW = "cvat:annotations.xml:FOLDER"
FILE = "annotations.xml"
MAX_BYTES = 1 << 30
MAX_DEPTH = 32
THIN = ("polyline", "points", "cuboid", "skeleton")
"""Shapes without an area of their own."""


class Shape(NamedTuple):
    """An element of a picture: its kind, its attributes, and the line of the file that it begins on."""

    kind: str
    attributes: Mapping[str, str]
    line: int


class Contents(NamedTuple):
    """What a file says: the labels, and each picture's attributes with its shapes."""

    labels: list[str]
    images: list[tuple[Mapping[str, str], list[Shape]]]


def open_cvat(annotations: str | os.PathLike[str], images: str = "") -> AnnotatedDataset:
    """Reads the annotations; opens no picture.

    Args:
        annotations: the XML file, or the folder that holds it.
        images: the folder of the pictures, where it is not found beside the file.

    Raises:
        DatasetError: it is no file of CVAT's for images, or the files do not fit together.
    """
    path = Path(annotations) / FILE if Path(annotations).is_dir() else Path(annotations)
    contents = read(path)
    by_name = {_name(path, image): (image, shapes) for image, shapes in contents.images}
    if len(by_name) < len(contents.images):
        raise DatasetError(f"{path}: names a picture twice")
    folders = [Path(images)] if images else [path.parent / "images", path.parent / "images/default", path.parent]
    found, left = by_image(path, by_name, folders, HOW)
    names = _names(path, contents)
    omissions = Omissions()
    pairs, drawings = [], []
    for name in sorted(found, key=name_order):
        image, shapes = by_name[name]
        size = _size(path, image)
        pairs.append(Pair(found[name], path, Path(name).with_suffix("").as_posix()))
        drawings.append(Drawing(_annotations(path, name, shapes, size, names, omissions), size))
    return AnnotatedDataset(
        names, ignore_label(names), tuple(pairs), tuple(drawings), listing(path, len(pairs), left, omissions)
    )


def read(path: Path) -> Contents:
    """The contents of an XML file that may hold anything: of bounded size and depth, without a DTD and its entities.

    Raises:
        DatasetError: it is no such XML, or not CVAT's for images.
    """
    files.check_regular(path, DatasetError)
    if path.stat().st_size > MAX_BYTES:
        raise DatasetError(f"{path}: is larger than {MAX_BYTES:,} bytes")
    content = files.read_regular(path, DatasetError)
    reader = _Reader(path)
    try:
        reader.parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter of encodings that it does not know
        raise DatasetError(f"{path}: is {files.kind_of(content[:512]) or 'no XML, or is damaged'} ({error})") from error
    if not reader.contents.images:
        raise DatasetError(f"{path}: has no picture; export annotations as 'CVAT for images 1.1'")
    return reader.contents


class _Reader:
    """Takes the elements of an XML file one by one."""

    def __init__(self, path: Path) -> None:
        self.contents = Contents([], [])
        self._path = path
        self._open: list[str] = []
        self._text = ""
        self._label: tuple[str, bool] = ("", False)  # the name, and whether it is a part of another label
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: Any) -> None:
        # Entities of a DTD can grow without bound, or read other files.
        raise DatasetError(f"{self._path}: has a document type definition (DTD), which CVAT does not write")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "annotations":
            raise DatasetError(f"{self._path}: is XML of {name!r}, not the annotations of CVAT")
        if len(self._open) >= MAX_DEPTH:
            raise DatasetError(f"{self._path}: is XML nested deeper than {MAX_DEPTH} levels")
        if name == "track":
            raise DatasetError(f"{self._path}: is 'CVAT for video'; export it as 'CVAT for images 1.1'")
        if name == "image" and self._open == ["annotations"]:
            self.contents.images.append((attributes, []))
        elif self._open == ["annotations", "image"]:
            self.contents.images[-1][1].append(Shape(name, attributes, self.parser.CurrentLineNumber))
        elif name == "label":
            self._label = ("", False)
        self._open.append(name)
        self._text = ""

    def _characters(self, text: str) -> None:
        # Only names are of use, and these are short.
        if self._open[-2:] in (["label", "name"], ["label", "parent"]):
            self._text += text

    def _end(self, name: str) -> None:
        self._open.pop()
        inside = self._open[-1] if self._open else ""
        if inside == "label" and name in ("name", "parent"):
            label, is_part = self._label
            self._label = (self._text, is_part) if name == "name" else (label, bool(self._text.strip()))
        elif name == "label" and inside == "labels" and not self._label[1]:
            self.contents.labels.append(self._label[0])


def _name(path: Path, image: Mapping[str, str]) -> str:
    """The path of a picture below the folder of images, in which subsets of a project have folders."""
    if not image.get("name"):
        raise DatasetError(f"{path}: a picture has no name")
    name, subset = image["name"].replace("\\", "/"), image.get("subset", "")
    return name if not subset or name.startswith(f"{subset}/") else f"{subset}/{name}"


def _size(path: Path, image: Mapping[str, str]) -> tuple[int, int] | None:
    try:
        return size_of(*(int(image[side]) if side in image else None for side in ("height", "width")))
    except ValueError as error:
        raise DatasetError(f"{path}: {image['name']}: its width and height are no numbers") from error


def _names(path: Path, contents: Contents) -> tuple[str, ...]:
    """The labels of the project; of a file that does not list them all that occur, in alphabetical order."""
    used = sorted({shape.attributes.get("label", "") for _, shapes in contents.images for shape in shapes})
    try:
        # A file of several tasks lists their labels again and again.
        return check_names(list(dict.fromkeys(contents.labels or used)), source=str(path), ignore_case=False)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error


def _annotations(
    path: Path,
    image: str,
    shapes: list[Shape],
    size: tuple[int, int] | None,
    names: tuple[str, ...],
    omissions: Omissions,
) -> tuple[Annotation, ...]:
    """The objects of a picture."""
    found: dict[tuple[int, object], list[Outline]] = {}
    for shape in shapes:
        if shape.kind == "tag":
            omissions.add("of whole pictures (tags)", image)
            continue
        label, group = plain(shape.attributes.get("label", "")), shape.attributes.get("group_id", "0")
        where = f"{path}, line {shape.line}: {shape.kind}"
        if label not in names:
            raise DatasetError(f"{where} has the label {label!r}, which is none of the project's")
        if shape.kind in THIN:
            omissions.add("without an area", f"{image} ({shape.kind})")
            continue
        try:
            parts = _parts(shape, size, omissions, image)
        except (DatasetError, KeyError, ValueError, OverflowError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DatasetError(f"{where}: {what}") from error
        if parts:
            number = names.index(label)
            found.setdefault((number, group if group != "0" else shape.line), []).extend(parts)
    return tuple(Annotation(number, tuple(parts)) for (number, _), parts in found.items())


def _parts(shape: Shape, size: tuple[int, int] | None, omissions: Omissions, name: str) -> tuple[Outline, ...]:
    """The outlines of a shape."""
    attributes = shape.attributes
    if shape.kind == "polygon":
        corners = [_numbers(pair.split(",")) for pair in attributes["points"].split(";") if pair.strip()]
        return omissions.polygons([corners], size, name)
    rotation = _numbers([attributes.get("rotation", "0")])[0]
    if shape.kind == "box":
        left, top, right, bottom = _numbers([attributes[side] for side in ("xtl", "ytl", "xbr", "ybr")])
        return omissions.polygons([box(left, top, right, bottom, rotation).points], size, name)
    if shape.kind == "ellipse":
        x, y, radius_x, radius_y = _numbers([attributes[part] for part in ("cx", "cy", "rx", "ry")])
        return (Ellipse(x, y, radius_x, radius_y, rotation),)
    if shape.kind == "mask":
        top, left, height, width = (int(float(attributes[part])) for part in ("top", "left", "height", "width"))
        counts = np.array([int(count) for count in attributes["rle"].split(",")], np.int64)
        return (Runs(counts, (height, width), (top, left), by_column=False),)
    raise DatasetError("shapes of this kind are not known")


def _numbers(texts: list[str]) -> list[float]:
    found = [float(text) for text in texts]
    if not all(abs(number) <= LARGEST for number in found):
        raise DatasetError("points lie beyond any picture, or are not numbers")
    return found
