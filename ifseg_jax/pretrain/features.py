"""Features of photographs by a frozen backbone, computed once and kept in the folder of a run with what they are of."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ifseg_jax import inference
from ifseg_jax.config import OFAConfig
from ifseg_jax.model import image_size
from ifseg_jax.pretrain.boxes import Boxes, boxes_of
from ifseg_jax.pretrain.regions import Photograph
from ifseg_jax.settings import Inference
from vlseg import files
from vlseg.data.images import resize_image
from vlseg.data.sources import Dataset
from vlseg.progress import Progress

FEATURES_FILE = "features.npz"

MADE_OF = "made_of"
"""The entry of that file that says what its features are of."""


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes, in any order."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def photographs(
    dataset: Dataset, config: OFAConfig, variables: Any, short_side: int, made_of: Mapping[str, Any], folder: Path
) -> list[Photograph]:
    """Features and boxes of all photographs, kept in a file of the run's folder.

    A file there is used if it was made of the same; otherwise that is said, and it is written anew.

    Args:
        dataset: with label maps, of which only words and boxes are used.
        config, variables: of a model whose backbone has its weights.
        short_side: pixels of the photographs' short side; the long side has as many as keep the aspect.
        made_of: JSON-ready, what tells photographs and backbone from others.
        folder: of the run.

    Raises:
        StorageError: the file cannot be written.
    """
    path, identity = folder / FEATURES_FILE, {**made_of, "short_side": short_side}
    if path.exists():
        if _made_of(path) == identity:
            return _read(path, len(dataset))
        print(f"{path} is not of these photographs, weights and size: computed again", flush=True)
    arrays: dict[str, np.ndarray] = {MADE_OF: np.asarray(json.dumps(identity))}
    with Progress(len(dataset), "features", "photograph") as progress:
        for number, example in enumerate(dataset):
            label = np.where(example.label == dataset.ignore_label, -1, example.label)
            boxes = boxes_of(label, len(dataset.names))
            arrays |= {f"words{number}": boxes.words, f"corners{number}": boxes.corners}
            arrays[f"features{number}"] = _features(config, variables, example.image, short_side)
            progress.update()
    with files.atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
    return _read(path, len(dataset))


def _made_of(path: Path) -> Any:
    """What a file of features says that it was made of; None if it does not say so, or is no such file."""
    try:
        with np.load(path) as stored:
            return json.loads(str(stored[MADE_OF]))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _read(path: Path, count: int) -> list[Photograph]:
    with np.load(path) as stored:
        return [
            Photograph(stored[f"features{i}"], Boxes(stored[f"words{i}"], stored[f"corners{i}"])) for i in range(count)
        ]


def _features(config: OFAConfig, variables: Any, image: np.ndarray, short_side: int) -> np.ndarray:
    """Features float16 [2, h, w, C] of a picture and its mirror image."""
    size = image_size(config, image.shape, Inference(short_side=short_side))
    resized = resize_image(image, size)
    both = inference.image_features(config, variables, np.stack([resized, resized[:, ::-1]]))
    return np.asarray(both, np.float16)
