"""What the predict commands leave: an overlay and a label map of each image, and a report."""

import collections
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vlseg import visualize

REPORT = "predictions.json"


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
    names: list[str] = []
    for path in paths:
        name = path.stem if count[path.stem] == 1 else path.name.replace(".", "_")
        taken = sum(other == name or other.startswith(f"{name}_") for other in names)
        names.append(f"{name}_{taken}" if name in names else name)
    return names


def write(out: Path, name: str, path: Path, segmentation: Segmented) -> dict[str, object]:
    """Writes overlay and label map of one image; returns its entry in the report."""
    visualize.save_image(out / "overlays" / f"{name}.png", segmentation.overlay())
    label_path = out / "labels" / f"{name}.png"
    visualize.save_label_png(label_path, segmentation.label_map, len(segmentation.labels))
    pixels = np.bincount(segmentation.label_map.ravel(), minlength=len(segmentation.labels))
    shares = pixels / segmentation.label_map.size
    height, width = segmentation.label_map.shape
    listed = {label: round(float(share), 6) for label, share in zip(segmentation.labels, shares, strict=True) if share}
    return {"image": str(path), "name": name, "height": height, "width": width, "shares": listed}
