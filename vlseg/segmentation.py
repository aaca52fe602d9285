"""What a person gets of an image: its label map, pictures of it, and masks for other programs."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from vlseg import coco_masks, visualize
from vlseg.labels import NONE
from vlseg.scores import Scores

_ROWS = 64  # of a label map that are counted at a time, since np.bincount makes int64 of what it is given
_SHOWN = 5  # labels that a `repr` names


@dataclasses.dataclass(frozen=True)
class Rejection:
    """When a pixel is "none of these" (the first failure case that LSeg's authors show, Li et al. 2022).

    Attributes:
        min_similarity: least score of the best label, see `Scores.top`.
        min_margin: least difference of the best label's score to the second's.
    """

    min_similarity: float | None = None
    min_margin: float | None = None

    def __bool__(self) -> bool:
        return self != Rejection()

    def of(self, scores: np.ndarray) -> np.ndarray:
        """bool [H, W], True where a pixel is rejected, of the scores [H, W, k] of its best labels, best first."""
        rejected = np.zeros(scores.shape[:2], bool)
        if self.min_similarity is not None:
            rejected |= scores[..., 0] < self.min_similarity
        if self.min_margin is not None and scores.shape[-1] > 1:
            rejected |= scores[..., 0] - scores[..., 1] < self.min_margin
        return rejected


NOTHING_REJECTED = Rejection()
"""Every pixel has a label."""


@dataclasses.dataclass(frozen=True, repr=False)
class Segmentation:
    """The segmentation of one image. In a notebook it shows itself as its overlay.

    Attributes:
        label_map: int32 [H, W], indices into `labels`, at the image's original size.
        labels: the label names; with rejection, "none of these" comes last.
        top_labels: int32 [H, W, k], the best labels of each pixel, best first, rejected or not.
        top_similarities: float32 [H, W, k], their scores, see `Scores.top`.
        image: the image, uint8 [H, W, 3].
        scores: what the model made of it.
    """

    label_map: np.ndarray
    labels: tuple[str, ...]
    top_labels: np.ndarray
    top_similarities: np.ndarray
    image: np.ndarray
    scores: Scores

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        present = sorted(((share, label) for label, share in self.shares().items() if share), key=lambda item: -item[0])
        shown = [f"{label} {100 * share:.0f} %" for share, label in present[:_SHOWN]]
        rest = [f"{len(present) - _SHOWN} more"] if len(present) > _SHOWN else []
        return f"Segmentation({width} x {height} pixels: {', '.join([*shown, *rest])})"

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.overlay().save(picture, "PNG")
        return picture.getvalue()

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [H, W, N], of the labels asked for; computed anew at each access because it is large."""
        return self.scores.probabilities()

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image under its coloured label map, with a legend."""
        return visualize.overlay(self.image, self.label_map, self.labels, alpha)

    def shares(self) -> dict[str, float]:
        """The share of the image's pixels that each label has, in [0, 1]; of all labels."""
        pixels = np.zeros(len(self.labels), np.int64)
        for start in range(0, len(self.label_map), _ROWS):
            part = self.label_map[start : start + _ROWS]
            pixels += np.bincount(part[part >= 0], minlength=len(pixels))
        return dict(zip(self.labels, (pixels / self.label_map.size).tolist(), strict=True))

    def masks(self) -> dict[str, np.ndarray]:
        """Where each label is: bool [H, W], of all labels."""
        return {label: self.label_map == number for number, label in enumerate(self.labels)}

    def confidence(self) -> np.ndarray:
        """The probability of the best label of every pixel, rejected or not: float32 [H, W], in [0, 1]."""
        return self.scores.most_probable()[1]

    def to_coco(self, image_id: int = 1, file_name: str = "", *, polygons: bool = False) -> dict[str, Any]:
        """The masks as COCO's annotations (Lin et al. 2014), for `json.dump` and `pycocotools`.

        Every label that has pixels is one annotation; its `category_id` is its place among the labels, counted from 1.
        Pixels that are none of the labels are in none.

        Args:
            image_id, file_name: of the image.
            polygons: whether outlines are given, along the edges of pixels, instead of run lengths. Both give the same
                mask again, to the pixel.
        """
        height, width = self.label_map.shape
        annotations: list[dict[str, Any]] = []
        for number, label in enumerate(self.labels):
            mask = self.label_map == number
            if label == NONE or not mask.any():
                continue
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            (top, bottom), (left, right) = ((int(side[0]), int(side[-1]) + 1) for side in (rows, columns))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number + 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": coco_masks.polygons(mask) if polygons else coco_masks.run_lengths(mask),
                }
            )
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        categories = [
            {"id": number, "name": label} for number, label in enumerate(self.labels, start=1) if label != NONE
        ]
        return {"images": [image], "annotations": annotations, "categories": categories}
