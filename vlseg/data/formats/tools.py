"""Data sets of annotation tools by how a person names them, `coco:`, `labelme:` and so on, or by their path alone."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlseg.data.formats import colour_masks, roboflow
from vlseg.data.formats.coco import open_coco
from vlseg.data.formats.cvat import FILE, open_cvat
from vlseg.data.formats.labelme import is_labelme, open_labelme
from vlseg.data.formats.roboflow import open_roboflow
from vlseg.data.listing import split_list
from vlseg.data.orientation import check_rule
from vlseg.errors import ConfigError, DatasetError

READERS: Mapping[str, Callable[..., Any]] = {
    "coco": open_coco,
    "labelme": open_labelme,
    "cvat": open_cvat,
    "roboflow": open_roboflow,
}
"""By the word before the colon."""

USAGE = {
    "coco": "coco:ANNOTATIONS.json, coco:ANNOTATIONS.json:PICTURES or coco:ANNOTATIONS.json:PICTURES:PNGS",
    "labelme": "labelme:FOLDER or labelme:FOLDER:PICTURES",
    "cvat": "cvat:annotations.xml, or the folder of it or of masks in colours, each also with :PICTURES",
    "roboflow": "roboflow:FOLDER, of masks with _classes.csv",
}


def recognised(path: Path) -> str:
    """How a local path is read that no word and colon stand before: a key of READERS, or "folder"."""
    if path.is_file():
        return {".json": "coco", ".xml": "cvat"}.get(path.suffix.lower(), "folder")
    if (path / "labels").is_dir() or not path.is_dir():
        return "folder"
    if (path / FILE).is_file() or (path / colour_masks.FILE).is_file():
        return "cvat"
    if (path / roboflow.FILE).is_file():
        return "roboflow"
    described = descriptions(path)
    if any(is_labelme(one) for one in described[:1]):
        return "labelme"
    return "coco" if described else "folder"


def descriptions(folder: Path) -> list[Path]:
    """JSON files in a folder, or in its folder of annotations."""
    inner = folder / "annotations"
    found = [*folder.iterdir(), *(inner.iterdir() if inner.is_dir() else ())]
    return sorted(one for one in found if one.suffix.lower() == ".json" and one.is_file())


def open_annotated(kind: str, source: str, label_orientation: str = "", **options: Any) -> Any:
    """The data set of a tool.

    Args:
        kind: a key of READERS. source: as USAGE has it, or a path.
        label_orientation: as in `open_folder`. options: of the reader.

    Raises:
        ConfigError: it is no such source. DatasetError: as the reader has it.
    """
    text = source.removeprefix(f"{kind}:")
    if "://" in text:
        raise ConfigError(f"{source}: annotations are read from local folders: copy them to a local disk")
    parts = [os.path.expanduser(part) for part in split_list(text, os.path.exists, ":")]
    if not 1 <= len(parts) <= {"coco": 3, "roboflow": 1}.get(kind, 2):
        raise ConfigError(f"{source}: write {USAGE[kind]}")
    path = Path(parts[0])
    if kind == "coco" and path.is_dir():
        described = descriptions(path)
        if len(described) != 1:
            several = f"several, name one: {', '.join(map(str, described[:5]))}" if described else "none"
            raise DatasetError(f"{path}: a folder with one JSON file of annotations is wanted, but it has {several}")
        parts[0] = str(described[0])
    in_colours = kind == "cvat" and (path / colour_masks.FILE).is_file()
    dataset = (colour_masks.open_colour_masks if in_colours else READERS[kind])(*parts, **options)
    return dataclasses.replace(dataset, label_orientation=check_rule(label_orientation))
