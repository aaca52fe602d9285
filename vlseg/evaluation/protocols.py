"""Eight data sets that are scored with words alone: the words for their classes, and what counts as their background.

The words for the background of VOC and COCO-Object, and "background" alone for that of Context, are those of SCLIP
(Wang et al. 2024); left out is "bed" for COCO-Object, where it is a class. The thresholds are those of GroupViT (Xu et
al. 2022). See `vlseg.evaluation.scoring` for the conventions.
"""

from typing import NamedTuple

from vlseg import labels

_BACKGROUND = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building",
    "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail",
    "fence",
)  # fmt: skip


class Protocol(NamedTuple):
    """How a data set is scored.

    words: of each class, in the order of its ids. background, threshold: see `scoring.Vocabulary`.
    """

    words: tuple[tuple[str, ...], ...]
    background: str = "none"
    threshold: float | None = None


def _classes(name: str, *background: str) -> tuple[tuple[str, ...], ...]:
    """The words of a list of `vlseg.labels`, one a class, after those of a background if there are any."""
    classes = tuple((word,) for word in labels.load(name))
    return (background, *classes) if background else classes


PROTOCOLS = {
    "voc20": Protocol(_classes("voc_20")),
    "voc21": Protocol(_classes("voc_20", *_BACKGROUND), "words", 0.95),
    "context59": Protocol(_classes("pascal_context_59")),
    "context60": Protocol(_classes("pascal_context_59", "background"), "words", 0.35),
    "coco_object": Protocol(
        _classes("coco_object_80", *(word for word in _BACKGROUND if word != "bed")), "words", 0.95
    ),
    "coco_stuff": Protocol(_classes("coco_stuff_171")),
    "cityscapes": Protocol(_classes("cityscapes_19")),
    "ade20k": Protocol(_classes("ade20k_150")),
}
"""By the name of the data set in the catalog."""
