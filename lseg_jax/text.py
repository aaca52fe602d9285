"""Embeddings of labels: computed in chunks of few shapes, and kept on disk by content.

A text encoder is frozen, so what it says of a label never changes. Every chunk of labels is a file in the cache
directory (`vlseg.files.cache_directory`) whose name is a hash of the encoder's weights and of the chunk's tokens.
"""

import functools
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lseg_jax import minilm
from lseg_jax.config import LSegConfig
from lseg_jax.lseg import LSegNet
from vlseg import files, state_dicts
from vlseg.errors import StorageError

CHUNK = 1024
"""Labels of a file in the cache."""

BATCH = 64
"""Labels of a forward pass."""

LENGTH_STEP = 8
"""Tokens behind the longest label's end are cut off, up to a multiple of this: they cannot count."""


def embed_tokens(config: LSegConfig, variables: Mapping[str, Any], identity: str, tokens: np.ndarray) -> np.ndarray:
    """Embeddings of tokenised labels by the CLIP text encoder of a model.

    Args:
        config, variables: of the model.
        identity: `fingerprint(variables)`.
        tokens: int32 [N, context], see `lseg_jax.tokenizers.tokenize`.

    Returns:
        float32 [N, C], l2-normalised.
    """
    text = {"params": {"text": variables["params"]["text"]}}

    def encode(part: slice) -> np.ndarray:
        return np.concatenate(
            [np.asarray(_encode(config, text, rows))[:count] for rows, count in batches(tokens[part])]
        )

    def content(part: slice) -> bytes:
        # Not all of the configuration shows in the weights: the number of heads does not. Devices round differently.
        device = jax.devices()[0].device_kind
        return f"{identity} {config.text} {device}".encode() + np.ascontiguousarray(tokens[part], np.int32).tobytes()

    return _embed(len(tokens), config.text.features, content, encode)


def embed_sentences(labels: Sequence[str]) -> np.ndarray:
    """Embeddings of labels by the sentence encoder MiniLM: float32 [N, 384], l2-normalised.

    Raises:
        VocabularyError: its package is not installed.
    """
    encoder = minilm.load_sentence_encoder()

    def content(part: slice) -> bytes:
        return repr((encoder.identity, *labels[part])).encode()

    return _embed(len(labels), minilm.WIDTH, content, lambda part: encoder.encode(labels[part]))


def fingerprint(variables: Mapping[str, Any]) -> str:
    """A hash of the text encoder's parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(state_dicts.flatten(variables["params"]["text"]).items()):
        array = np.asarray(value, order="C")
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def batches(tokens: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens int32 [N, context] in batches of few shapes, each with the number of its rows that count."""
    for start in range(0, len(tokens), BATCH):
        part = tokens[start : start + BATCH]
        end = int(part.argmax(axis=1).max()) + 1  # the end token has the highest id
        rows = min(BATCH, 1 << (len(part) - 1).bit_length())
        length = -(-end // LENGTH_STEP) * LENGTH_STEP
        yield np.pad(part[:, :length], ((0, rows - len(part)), (0, 0)), mode="edge"), len(part)


@functools.partial(jax.jit, static_argnames="config")
def _encode(config: LSegConfig, variables: Any, tokens: jax.Array) -> jax.Array:
    model: Any = LSegNet(config)
    return model.apply(variables, tokens, method=LSegNet.encode_text)


def _embed(
    count: int, features: int, content: Callable[[slice], bytes], encode: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Rows of `encode`, float32 [count, features], chunk by chunk from the cache or into it."""
    embeddings = np.empty((count, features), np.float32)
    starts = range(0, count, CHUNK)
    for start in tqdm(starts, desc="encode labels", disable=len(starts) < 2 or not sys.stderr.isatty()):
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
        stored = np.load(path, allow_pickle=False)
        return stored if stored.shape == shape and stored.dtype == np.float32 else None
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
