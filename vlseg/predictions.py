"""What the predict commands leave: an overlay and a label map of each image, and a report."""

import collections
import itertools
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vlseg import files, visualize

REPORT = "predictions.json"

_PNG_LABELS = 2**16


class Segmented(Protocol):
    """A segmented image of either system."""

    @property
    def label_map(self) -> np.ndarray:
        """int32 [H, W], indices into `labels`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names."""

    def overlay(self) -> Image.Image:
        """The image under its coloured label map, with a legend."""


def output_names(paths: list[Path]) -> list[str]:
    """A file name without suffix for each image; equal stems keep their suffix and number apart."""
    count = collections.Counter(path.stem for path in paths)
    names: dict[str, None] = {}
    for path in paths:
        name = path.stem if count[path.stem] == 1 else path.name.replace(".", "_")
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        names[next(free for free in itertools.chain([name], numbered) if free not in names)] = None
    return list(names)


def write(out: Path, name: str, path: Path, segmentation: Segmented) -> dict[str, object]:
    """Writes overlay and label map of one image; returns its entry in the report."""
    visualize.save_image(out / "overlays" / f"{name}.png", segmentation.overlay())
    _save_labels(out / "labels" / name, segmentation)
    pixels = np.bincount(segmentation.label_map.ravel(), minlength=len(segmentation.labels))
    shares = pixels / segmentation.label_map.size
    height, width = segmentation.label_map.shape
    listed = {label: round(float(share), 6) for label, share in zip(segmentation.labels, shares, strict=True) if share}
    return {"image": str(path), "name": name, "height": height, "width": width, "shares": listed}


def _save_labels(stem: Path, segmentation: Segmented) -> None:
    """Writes the label map as PNG, or as .npy if there are more labels than a PNG can tell apart."""
    if len(segmentation.labels) <= _PNG_LABELS:
        visualize.save_label_png(stem.with_name(f"{stem.name}.png"), segmentation.label_map, len(segmentation.labels))
        return
    with files.atomic_file(stem.with_name(f"{stem.name}.npy")) as file:
        np.save(file, segmentation.label_map)
