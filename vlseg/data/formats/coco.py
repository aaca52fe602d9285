"""Annotations of COCO as a data set: instances (polygons and run lengths) and panoptic segments, as JSON.

```
coco:annotations/instances_val2017.json             pictures are looked for beside the file, in images/, val2017/ ...
coco:annotations/instances_val2017.json:val2017     the folder of the pictures
coco:panoptic_val2017.json:val2017:panoptic_val2017 panoptic segments, with the folder of their PNGs
```

Classes are the categories in the order of their ids, which need not count up. Crowds are of their category too.
Where objects overlap the smaller lies on top; pixels without one do not count.
"""

import array
import contextlib
import gc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import json_files
from vlseg.data import decoding
from vlseg.data.examples import Pair, PairDataset
from vlseg.data.formats.annotated import (
    AnnotatedDataset,
    Drawing,
    Omissions,
    by_image,
    ignore_label,
    listing,
    size_of,
)
from vlseg.data.formats.outlines import NO_CLASS, Annotation, Outline, Polygon, Runs, flaw, points, sound
from vlseg.data.listing import name_order, some
from vlseg.data.pairs import Folder, refuse_absent
from vlseg.errors import DatasetError, VocabularyError
from vlseg.labels import check_names

HOW = "coco:ANNOTATIONS.json:FOLDER"
_TOGETHER = 1 << 18  # coordinates that are checked together


class Described(NamedTuple):
    """A file of COCO: names, category id -> class, picture id -> its entry, and the annotations."""

    names: tuple[str, ...]
    classes: dict[int, int]
    images: dict[Any, Mapping[str, Any]]
    annotations: list[dict[str, Any]]


def open_coco(
    annotations: str | os.PathLike[str], images: str = "", labels: str = ""
) -> AnnotatedDataset | PairDataset:
    """Reads the annotations; opens no picture.

    Args:
        annotations: the JSON file.
        images: the folder of the pictures, where it is not found beside the file.
        labels: of panoptic segments the folder of the PNGs; by default the one called like the file.

    Raises:
        DatasetError: it is no file of COCO's, or its parts or the files do not fit together.
    """
    with _uncollected():
        return _open(Path(annotations), images, labels)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Holds Python's garbage collector back, which would look through all objects of a large file again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _open(path: Path, images: str, labels: str) -> AnnotatedDataset | PairDataset:
    described = _described(path, json_files.read(path, DatasetError))
    file_names = {key: _file_name(path, image) for key, image in described.images.items()}
    if len(set(file_names.values())) < len(file_names):
        raise DatasetError(f"{path}: names a picture twice")
    found, left = by_image(path, file_names.values(), [Path(images)] if images else _folders(path), HOW)
    if any("segments_info" in annotation for annotation in described.annotations):
        return _panoptic(path, described, {key: found[name] for key, name in file_names.items()}, left, labels)
    if labels:
        raise DatasetError(f"{path}: has no panoptic segments: there is no use for {labels}")
    omissions = Omissions()
    drawn = _Drawn(path, described, omissions)
    for number, annotation in enumerate(described.annotations):
        drawn.add(annotation, number)
    drawn.finish()
    if described.annotations and not any(drawn.of.values()):
        reasons = ", ".join(f"{len(names):,} {reason}" for reason, names in omissions.found.items())
        raise DatasetError(f"{path}: there is no outline to learn from: {reasons}")
    order = sorted(file_names, key=lambda key: name_order(file_names[key]))
    return AnnotatedDataset(
        described.names,
        ignore_label(described.names),
        tuple(Pair(found[file_names[key]], path, _stem(file_names[key])) for key in order),
        tuple(
            Drawing(
                tuple(drawn.of[key]), size_of(described.images[key].get("height"), described.images[key].get("width"))
            )
            for key in order
        ),
        listing(path, len(order), left, omissions),
    )


def _described(path: Path, content: Any) -> Described:
    """The parts of a file, each of the type that it should be."""
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise DatasetError(f"{path}: is no file of COCO's: it has not images, annotations and categories")
    parts = [content[part] for part in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) and all(isinstance(entry, dict) for entry in part) for part in parts):
        raise DatasetError(f"{path}: images, annotations and categories are no lists of objects")
    images, annotations, categories = parts
    used = {annotation.get("category_id") for annotation in annotations if _is_id(annotation.get("category_id"))}
    used |= {
        segment.get("category_id")
        for annotation in annotations
        for segment in _segments(path, annotation)
        if _is_id(segment.get("category_id"))
    }
    names, classes = _categories(path, categories, used)
    by_id: dict[Any, Mapping[str, Any]] = {}
    for image in images:
        if not _is_id(image.get("id")) or image["id"] in by_id:
            raise DatasetError(f"{path}: a picture has no id, or that of another one: {image.get('id')!r}")
        by_id[image["id"]] = image
    return Described(names, classes, by_id, annotations)


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _categories(
    path: Path, categories: Sequence[Mapping[str, Any]], used: set[Any]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names by class, and category id -> class, in the order of the ids.

    Of categories of one name those that nothing is annotated with are left out: Roboflow adds one for a whole project.
    """
    for category in categories:
        number = category.get("id")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(category.get("name"), str):
            raise DatasetError(f"{path}: a category has no whole number as its id, or no name: {dict(category)!r}")
    if len({category["id"] for category in categories}) < len(categories):
        raise DatasetError(f"{path}: two categories have one id")
    counts = [category["name"] for category in categories]
    kept = [c for c in categories if c["id"] in used or counts.count(c["name"]) == 1]
    kept.sort(key=lambda category: category["id"])
    try:
        names = check_names([category["name"] for category in kept], source=str(path), ignore_case=False)
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    return names, {category["id"]: index for index, category in enumerate(kept)}


def _file_name(path: Path, image: Mapping[str, Any]) -> str:
    """The name of a picture; LVIS has its address only."""
    name = image.get("file_name") or image.get("coco_url")
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{path}: picture {image.get('id')!r} has no file_name")
    return "/".join(re.split("[?#]", name)[0].split("/")[-2:]) if "://" in name else name


def _stem(name: str) -> str:
    return Path(name.replace("\\", "/")).with_suffix("").as_posix()


def _folders(path: Path) -> list[Path]:
    """Where the pictures of a file may be."""
    # annotations/instances_val2017.json: val2017/ or images/val2017/; CVAT has images/ and Roboflow the file's folder.
    words = [word for word in path.name.split(".")[0].split("_") if word]
    roots = [path.parent, path.parent.parent] if path.parent.name else [path.parent]
    inner = [Path(), Path("images"), *(Path(base, word) for word in reversed(words) for base in ("", "images"))]
    return [root / folder for root in roots for folder in inner]


def _category(described: Described, annotation: Mapping[str, Any]) -> int:
    """The class of an annotation, whose picture is listed."""
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if not _is_id(image) or image not in described.images:
        raise DatasetError(f"is of picture {image!r}, which is not listed")
    if not _is_id(category) or category not in described.classes:
        raise DatasetError(f"is of category {category!r}, which is not listed")
    return described.classes[category]


class _Drawn:
    """The outlines of annotations, of which a file may have a million: polygons are checked many at a time.

    Attributes:
        of: picture id -> what is drawn on it.
    """

    def __init__(self, path: Path, described: Described, omissions: Omissions) -> None:
        self.of: dict[Any, list[Annotation]] = {key: [] for key in described.images}
        self._sizes = {key: size_of(image.get("height"), image.get("width")) for key, image in described.images.items()}
        self._path, self._described, self._omissions = path, described, omissions
        self._values = array.array("d")
        self._waiting: list[tuple[Any, int, str, list[int | Runs]]] = []

    def add(self, annotation: dict[str, Any], number: int) -> None:
        """Adds an annotation, out of which its outline is taken, since a file's may fill the memory."""
        name = str(annotation.get("id", f"number {number}"))
        segmentation = annotation.pop("segmentation", None)
        try:
            category = _category(self._described, annotation)
            if not segmentation:
                self._omissions.add("without an outline", name)
                return
            entries = segmentation if isinstance(segmentation, list) else [segmentation]
            if not all(isinstance(entry, list | dict) for entry in entries):
                raise DatasetError(
                    "segmentation is neither a list of polygons, each a list of numbers, nor run lengths"
                )
            parts = [self._polygon(entry) if isinstance(entry, list) else _runs(entry) for entry in entries]
        except DatasetError as error:
            raise DatasetError(f"{self._path}: annotation {name}: {error}") from error
        category = NO_CLASS if annotation.get("ignore") == 1 else category
        self._waiting.append((annotation["image_id"], category, name, parts))
        if len(self._values) > _TOGETHER:
            self.finish()

    def _polygon(self, entry: list[Any]) -> int:
        """Keeps a polygon's points; how many they are."""
        if len(entry) % 2 == 0 and set(map(type, entry)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                self._values.extend(entry)
                return len(entry) // 2
        found = points(entry)
        self._values.extend(found.ravel())
        return len(found)

    def finish(self) -> None:
        """Makes outlines of all points that are kept."""
        found = np.frombuffer(self._values, np.float64).reshape(-1, 2)
        counts = np.array([n for *_, parts in self._waiting for n in parts if isinstance(n, int)], np.int64)
        unknown = (np.inf, np.inf)
        sizes = [self._sizes[key] or unknown for key, *_, parts in self._waiting for n in parts if isinstance(n, int)]
        good = np.zeros(len(counts), bool)
        filled = counts > 0
        good[filled] = sound(found, counts[filled], np.array(sizes, np.float64).reshape(-1, 2)[filled])
        polygons = zip(np.split(found, np.cumsum(counts)[:-1]), good.tolist(), strict=True) if len(counts) else iter(())
        for key, category, name, parts in self._waiting:
            outlines: list[Outline] = []
            for part in parts:
                if isinstance(part, Runs):
                    outlines.append(part)
                    continue
                corners, is_good = next(polygons)
                reason = "" if is_good else self._flaw(corners, key, name)
                if reason:
                    self._omissions.add(reason, name)
                else:
                    outlines.append(Polygon(corners))
            if outlines:
                self.of[key].append(Annotation(category, tuple(outlines)))
        self._values, self._waiting = array.array("d"), []

    def _flaw(self, corners: NDArray[np.float64], key: Any, name: str) -> str:
        try:
            return flaw(points(corners), self._sizes[key])
        except DatasetError as error:
            raise DatasetError(f"{self._path}: annotation {name}: {error}") from error


def _runs(entry: Mapping[str, Any]) -> Runs:
    size, counts = entry.get("size"), entry.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise DatasetError("run lengths have no size")
    if not isinstance(counts, list | str):
        raise DatasetError("run lengths are neither a list nor a string")
    return Runs(counts, (size[0], size[1]))


def _segments(path: Path, annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    segments = annotation.get("segments_info", [])
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise DatasetError(f"{path}: segments_info is no list of objects")
    return segments


def _panoptic(
    path: Path, described: Described, pictures: Mapping[Any, Path], left: Mapping[str, Sequence[str]], labels: str
) -> PairDataset:
    """Panoptic segments, one PNG a picture."""
    folder = Path(labels) if labels else path.with_suffix("")
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder of PNGs with segments; name it: {HOW}:PNGS")
    maps, segments, finder = {}, {}, Folder(folder)
    for annotation in described.annotations:
        image, name = annotation.get("image_id"), annotation.get("file_name")
        if not _is_id(image) or image not in pictures or image in maps or not isinstance(name, str):
            raise DatasetError(
                f"{path}: an annotation has no file_name, or its picture {image!r} is not listed or twice"
            )
        maps[image] = finder.find(name)
        segments[maps[image].name] = _segment_classes(path, described, annotation)
    missing = [pictures[image].name for image in pictures if image not in maps]
    if missing:
        raise DatasetError(f"{path}: {len(missing)} of {len(pictures)} pictures have no segments: {some(missing)}")
    refuse_absent(folder, "PNGs with segments", maps.values())
    order = sorted(pictures, key=lambda image: name_order(pictures[image].as_posix()))
    pairs = tuple(Pair(pictures[image], maps[image], pictures[image].stem) for image in order)
    ignored = ignore_label(described.names)
    decode = decoding.segments_of(path, segments, ignored)
    return PairDataset(described.names, pairs, decode, ignored, listing=listing(path, len(pairs), left, Omissions()))


def _segment_classes(path: Path, described: Described, annotation: Mapping[str, Any]) -> dict[int, int]:
    """Number of a segment -> class."""
    found = {}
    for segment in _segments(path, annotation):
        number, category = segment.get("id"), segment.get("category_id")
        if type(number) is not int or not _is_id(category) or category not in described.classes:
            raise DatasetError(f"{path}: segment {number!r} is of category {category!r}, which is not listed")
        found[number] = described.classes[category]
    return found
