"""Embeddings of labels, kept on disk by content.

A text encoder is frozen, so its embedding of a label never changes. Every chunk of labels is a file in the cache
directory (`vlseg.files.cache_directory`) whose name is a hash of the encoder's identity and of the chunk's content.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlseg import files, progress
from vlseg.errors import StorageError

CHUNK = 1024
"""Labels of a file in the cache."""


def cached(
    count: int, features: int, content: Callable[[slice], bytes], encode: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Embeddings of labels, chunk by chunk from the cache or into it.

    Args:
        count: of labels. features: width of an embedding.
        content: of the labels of a slice: all that their embeddings depend on.
        encode: computes the embeddings of a slice, float32 [n, features].

    Returns:
        float32 [count, features].
    """
    embeddings = np.empty((count, features), np.float32)
    starts = range(0, count, CHUNK)
    for start in progress.over(starts, len(starts), "encode labels", "chunk", shown=len(starts) > 1):
        part = slice(start, min(start + CHUNK, count))
        path = files.cache_directory() / "labels" / f"{hashlib.sha256(content(part)).hexdigest()}.npy"
        stored = _load(path, (part.stop - part.start, features))
        if stored is None:
            stored = encode(part)
            _keep(path, stored)
        embeddings[part] = stored
    return embeddings


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        files.check_regular(path, StorageError)
        stored = np.load(path, allow_pickle=False)
        return stored if stored.shape == shape and stored.dtype == np.float32 and np.isfinite(stored).all() else None
    except Exception:  # the library fails in many ways over a damaged file
        return None


def _keep(path: Path, embeddings: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(path) as file:
            np.save(file, embeddings)
    except (OSError, StorageError) as error:
        # A cache that cannot be written costs time, not results.
        logging.getLogger(__name__).info("label embeddings are not kept: %s", error)
