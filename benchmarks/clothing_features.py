"""What a frozen EfficientNet makes of the clothing data set, computed once and kept in the cache directory.

The trainings of `benchmarks.clothing_heads` and `benchmarks.clothing_folds` differ in what comes after the encoder, so
that they share this. A photograph is seen twice, as it is and mirrored, whole and squeezed into one size.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from lseg_jax import encoders, inference
from lseg_jax.config import LSegConfig, SentenceConfig
from lseg_jax.encoders.base import ImageEncoder
from vlseg import files, progress
from vlseg.data.examples import IGNORE_LABEL
from vlseg.data.images import resize_nearest
from vlseg.data.sources import Dataset, open_dataset
from vlseg.nn.resize import resize_picture

HEIGHT, WIDTH = 384, 256
"""Of a view: two to three, as nearly all of the photographs are."""

LABEL_STRIDE = 2
"""Pixels of a view along a side of a cell of its label map."""

VIEWS = 2
LEVELS = range(1, 5)
"""Numbers of the encoder's levels, finest first."""

TEMPLATE = "a photo of a {}"
_BATCH = 4
_FORMAT = 1


class Features(NamedTuple):
    """A data set after the encoder.

    names: of the labels. levels: four arrays float16 [N, 2, h, w, C], of views and mirrored views, finest first.
    labels: uint8 [N, 192, 128] of the views as they are, 255 where a pixel does not count. key: of all that it depends
    on; equal keys, equal features.
    """

    names: tuple[str, ...]
    levels: tuple[np.ndarray, ...]
    labels: np.ndarray
    key: str


def define_flags() -> None:
    """The flags of the commands that train: where data and encoder are, and how long and how often they do."""
    flags.DEFINE_string("train", None, "Training photographs: a folder, or clothing:ROOT:train.", required=True)
    flags.DEFINE_string("val", None, "Photographs that are scored: a folder, or clothing:ROOT:val.", required=True)
    flags.DEFINE_string("encoder", None, "Weights of the image encoder, an EfficientNet-Lite.", required=True)
    flags.DEFINE_integer("steps", None, "Updates of a training, if not as the tables have it.", lower_bound=1)
    flags.DEFINE_integer("seeds", 3, "Trainings of each kind.", lower_bound=1)
    flags.DEFINE_string("out", None, "Where the scores go as JSON.")


def opened(options: Any) -> tuple[Features, Features]:
    """Features of the photographs for training and for scoring that flags name."""
    return features(options.train, options.encoder), features(options.val, options.encoder)


def features(source: str, encoder: str) -> Features:
    """The features of a data set, from the cache or into it.

    Args:
        source: see `vlseg.data.sources.open_dataset`. encoder: see `lseg_jax.encoders.read_image`.

    Raises:
        DatasetError, CheckpointError: as they do.
    """
    dataset = open_dataset(source)
    key = _key(dataset, Path(encoder))
    folder = files.cache_directory() / "benchmarks" / f"clothing_{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        config, variables = encoders.read_image(encoder)
        with files.atomic_directory(folder) as made:
            _compute(dataset, config, variables, made)
    # The finest is larger than all others together, and not needed where those will do.
    levels = tuple(np.load(folder / f"level{number}.npy", mmap_mode="r" if number == 1 else None) for number in LEVELS)
    return Features(dataset.names, levels, np.load(folder / "labels.npy"), key)


def embeddings(names: list[str] | tuple[str, ...]) -> np.ndarray:
    """MiniLM's embeddings of words in the template: float32 [N, 384], l2-normalised."""
    config = LSegConfig(text=SentenceConfig(), template=TEMPLATE)
    return config.text.embed([config.text_of(name) for name in names], {}, config.text.identity({}))


def _key(dataset: Dataset, encoder: Path) -> str:
    """Of the names, the number of photographs, some of their pixels, the encoder's weights and the views' size."""
    digest = hashlib.sha256(repr((_FORMAT, HEIGHT, WIDTH, LABEL_STRIDE, dataset.names, len(dataset))).encode())
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        example = dataset[index]
        digest.update(np.ascontiguousarray(example.image).data)
        digest.update(np.ascontiguousarray(example.label).data)
    digest.update(encoder.read_bytes())
    return digest.hexdigest()[:16]


def _compute(dataset: Dataset, config: ImageEncoder, variables: Any, folder: Path) -> None:
    """Writes the files of `features`."""
    shapes = [(HEIGHT // stride, WIDTH // stride) for stride in (4, 8, 16, 32)]
    net = LSegConfig(text=SentenceConfig(), image=config)
    module: Any = config.module()
    own = {collection: entries["image"] for collection, entries in variables.items()}

    @jax.jit
    def encode(images: jax.Array) -> list[jax.Array]:
        normalized = inference.normalize(net, images)
        views = [normalized, normalized[:, :, ::-1]]
        return [module.apply(own, view) for view in views]

    written: list[np.ndarray] = []
    labels = np.empty((len(dataset), HEIGHT // LABEL_STRIDE, WIDTH // LABEL_STRIDE), np.uint8)
    batches = progress.over(_batches(dataset, labels), -(-len(dataset) // _BATCH), "features", "batch")
    for start, images in batches:
        found = jax.device_get(encode(images))
        if not written:
            channels = [level.shape[-1] for level in found[0]]
            written = [
                np.lib.format.open_memmap(
                    os.fspath(folder / f"level{number}.npy"),
                    mode="w+",
                    dtype=np.float16,
                    shape=(len(dataset), VIEWS, *shape, count),
                )
                for number, (shape, count) in enumerate(zip(shapes, channels, strict=True), start=1)
            ]
        count = min(_BATCH, len(dataset) - start)
        for view, levels in enumerate(found):
            for target, level in zip(written, levels, strict=True):
                target[start : start + count, view] = level[:count]
    for target in written:
        target.flush()  # type: ignore[attr-defined]
    np.save(folder / "labels.npy", labels)


def _batches(dataset: Dataset, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers of first photographs and views [_BATCH, H, W, 3]; fills `labels`. The last batch repeats a view."""
    for start in range(0, len(dataset), _BATCH):
        images = []
        for index in range(start, min(start + _BATCH, len(dataset))):
            example = dataset[index]
            images.append(resize_picture(example.image, HEIGHT, WIDTH).round().astype(np.uint8))
            small = resize_nearest(example.label.astype(np.int32), labels.shape[1:])
            labels[index] = np.where(small == dataset.ignore_label, IGNORE_LABEL, small)
        yield start, np.stack(images + [images[-1]] * (_BATCH - len(images)))
