"""How well a pre-trained model names boxes of photographs that it has not seen: where image-free adaptation begins."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax.config import OFAConfig
from ifseg_jax.model import IFSeg
from ifseg_jax.ofa import OFA
from ifseg_jax.pretrain.boxes import Boxes
from ifseg_jax.pretrain.regions import LISTED, cut
from ifseg_jax.vocabulary import BOS, EOS

BATCH = 32
"""Boxes of a forward pass."""


@dataclasses.dataclass(frozen=True)
class Naming:
    """Shares, in [0, 1]: of boxes named right; of words, each counting the same; of the commonest word among boxes."""

    boxes: int
    right: float
    by_word: float
    commonest: float


def naming_accuracy(model: IFSeg, photographs: Iterable[tuple[np.ndarray, Boxes]], names: Sequence[str]) -> Naming:
    """Asks for the names in every box, one box at a time as in `ifseg_jax.pretrain.regions`.

    The answer is the word that is likeliest at the first place, all `names` being listed in the question.

    Args:
        model: with the vocabulary that it was pre-trained with.
        photographs: features of its backbone [h, w, C], and boxes of the names.
        names: M words.
    """
    assert model.tokenizer is not None, "a pre-trained model has a vocabulary of its own"
    ids = jnp.asarray([model.tokenizer(name)[0] for name in names])
    question = [BOS, *model.tokenizer(f"{LISTED} {' '.join(names)} unknown"), EOS]
    side = model.config.image_grid
    regions, words = [], []
    for features, boxes in photographs:
        for word, corners in zip(*boxes, strict=True):
            regions.append(cut(features, corners, side, side))
            words.append(word)
    truth, found = np.asarray(words), []
    for start in range(0, len(regions), BATCH):
        part = np.stack(regions[start : start + BATCH])
        padded = np.concatenate([part, np.repeat(part[:1], BATCH - len(part), axis=0)])
        logits = _first_words(model.config, model.variables, jnp.asarray(padded, jnp.float32), jnp.asarray([question]))
        found.append(np.asarray(logits[:, ids].argmax(axis=-1))[: len(part)])
    right = np.concatenate(found) == truth
    means = [right[truth == word].mean() for word in np.unique(truth)]
    commonest = np.bincount(truth).max() / len(truth)
    return Naming(len(truth), float(right.mean()), float(np.mean(means)), float(commonest))


@functools.partial(jax.jit, static_argnames="config")
def _first_words(config: OFAConfig, variables: Any, features: jax.Array, question: jax.Array) -> jax.Array:
    """Logits of the first word of each answer, float32 [B, V]."""

    def decode(model: OFA) -> jax.Array:
        encoded = model.encoder(model.embed_words(question), None, model.image_embeddings(features))
        return model.decode_words(jnp.full((len(features), 1), BOS), encoded)[:, 0]

    model: Any = OFA(config)
    logits: jax.Array = model.apply(variables, method=decode)
    return logits
