"""Batches of labelled images for training, as pure functions of the step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lseg_jax.objective import Batch
from lseg_jax.settings import Training
from vlseg import progress
from vlseg.data import transforms
from vlseg.data.episodes import Episode, FewShotDataset
from vlseg.data.examples import IGNORE_LABEL, IGNORED, Example, label_of
from vlseg.data.sources import Dataset
from vlseg.data.stream import Stream

COUNTED = 2000
"""Images that say how frequent labels are."""

OTHERS = "others"
"""The label of everything but the class that is asked for, in the zero-shot experiments (Li et al. 2022, Sec. 5.1)."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some examples of a data set: int [M], their places in it."""

    dataset: Dataset
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Example:
        return self.dataset[int(self.places[index])]


def named_batches(
    datasets: Sequence[Dataset],
    settings: Training,
    shown: Sequence[np.ndarray] = (),
    weights: Sequence[float] | None = None,
    **reading: Any,
) -> Callable[[int], Batch]:
    """Batches over data sets, whose labels are their own: the label set is the data set's number.

    Args:
        shown: of each data set the `classes_shown`, where `Training.class_share` asks for them.
        weights: how often each data set comes, in proportion; by default by its size.
        reading: here and below, keyword arguments of `vlseg.data.stream.Stream`.
    """
    parts: list[Any] = list(datasets)
    sources, share = list(range(len(datasets))), settings.class_share
    for number, classes in enumerate(shown):
        own = [Chosen(datasets[number], np.flatnonzero(images)) for images in classes.T if images.any()]
        parts += own
        sources += [number] * len(own)
    if shown:
        by_dataset = [float(len(dataset)) for dataset in datasets] if weights is None else list(weights)
        whole = [(1 - share) * weight for weight in by_dataset]
        weights = whole + [
            share * by_dataset[number] / sources[len(whole) :].count(number) for number in sources[len(whole) :]
        ]

    def prepare(example: Example, part: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, label = _view(example, datasets[sources[part]].ignore_label, settings, rng)
        return image, label, sources[part]

    return _batches(Stream(parts, settings.batch_size, settings.seed, weights=weights, **reading), prepare)


def pair_batches(dataset: Dataset, settings: Training, **reading: Any) -> Callable[[int], Batch]:
    """Batches of "others" against one class of each image: the label set is the class's number."""

    def prepare(example: Example, _: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, label = _view(example, dataset.ignore_label, settings, rng)
        present = np.unique(label[label != IGNORED])
        chosen = int(rng.choice(present)) if len(present) else 0
        target = np.where(label == IGNORED, IGNORED, label == chosen)
        return image, target.astype(np.int32), chosen

    return _batches(Stream([dataset], settings.batch_size, settings.seed, **reading), prepare)


def episode_batches(dataset: FewShotDataset, settings: Training, **reading: Any) -> Callable[[int], Batch]:
    """Batches of the episodes of a benchmark, squeezed into squares: the label set is the place in `class_ids`."""
    places = {class_id: place for place, class_id in enumerate(dataset.class_ids)}

    def prepare(episode: Episode, _: int, __: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, mask = squeezed(episode.image, episode.mask, settings.crop_size)
        # The authors train the boundaries of objects, which evaluation ignores, as "others".
        return image, np.where(mask == IGNORE_LABEL, 0, mask), places[episode.class_id]

    parts = dataset.by_class() if dataset.balanced else [dataset]
    weights = [1.0] * len(parts) if dataset.balanced else None
    return _batches(Stream(parts, settings.batch_size, settings.seed, weights=weights, **reading), prepare)


def count_labels(dataset: Dataset) -> np.ndarray:
    """Labelled pixels of every class: int64 [N], of at most `COUNTED` images, which lie evenly in the data set.

    Only label maps are read, see `vlseg.data.examples.label_of`.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), COUNTED)).round().astype(int)
    counts = np.zeros(len(dataset.names), np.int64)
    for index in progress.over(chosen, len(chosen), "counting labels", "image"):
        label = label_of(dataset, int(index))
        known = label[(label != dataset.ignore_label) & (label >= 0) & (label < len(counts))]
        counts += np.bincount(known, minlength=len(counts))
    return counts


def classes_shown(dataset: Dataset) -> np.ndarray:
    """Which image shows which class: bool [images, N]. Reads every label map, and no more, as `count_labels`."""
    found = np.zeros((len(dataset), len(dataset.names)), bool)
    for index in progress.over(range(len(dataset)), len(dataset), "looking for classes", "image"):
        labels = np.unique(label_of(dataset, index))
        found[index, labels[(labels != dataset.ignore_label) & (labels >= 0) & (labels < found.shape[1])]] = True
    return found


def squeezed(image: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 [H, W, 3] and a mask [H, W] as squares, as the authors' few-shot code resizes them.

    Images with Pillow's bilinear filter, which averages where it shrinks; masks by nearest neighbour.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    # Single precision decides which of two neighbours is the nearer one.
    rows, columns = (
        np.floor(np.arange(side, dtype=np.float32) * np.float32(length / side)).astype(np.int64)
        for length in mask.shape
    )
    return np.asarray(resized), mask[rows[:, None], columns]


def _view(
    example: Example, ignore_label: int, settings: Training, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random view of an example, with IGNORED for what does not count."""
    label = np.where(example.label == ignore_label, IGNORED, example.label).astype(np.int32)
    image, label = transforms.scale_and_crop(
        example.image,
        label,
        rng,
        base_size=settings.base_size,
        crop_size=settings.view_size,
        scale_range=settings.scale_range,
        ignore_label=IGNORED,
    )
    return (transforms.distort_colours(image, rng) if settings.distort_colours else image), label


def _batches(
    stream: Stream, prepare: Callable[[Any, int, np.random.Generator], tuple[np.ndarray, np.ndarray, int]]
) -> Callable[[int], Batch]:
    """Batches of what is made of an example, the number of its data set and its randomness."""

    def batch(step: int) -> Batch:
        images, targets, sets = zip(*(prepare(*draw) for draw in stream.draws(step)), strict=True)
        return Batch(np.stack(images), np.stack(targets).astype(np.int32), np.asarray(sets, np.int32))

    return batch
