"""Categories as words: the M category names, the prompt that lists them, and their embeddings (Sec. 2.2).

IFSeg describes the task to OFA in words: "what is the segmentation map of the image? object: cat grass dog unknown".
A category is the mean of the embeddings of its sub-words, so all the model needs from a name are its ids.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax.vocabulary import BOS, EOS, Tokenizer
from vlseg.errors import VocabularyError
from vlseg.labels import check_names, plain, shown
from vlseg.labels.tokens import token_ids

PROMPT = "what is the segmentation map of the image? object:"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Words:
    """M categories in OFA's ids.

    Attributes:
      names: the M category names, each with single spaces.
      category_ids: the sub-word ids of each category, at least one each.
      prompt_ids: the whole source sequence: <s>, prompt, every category, "unknown", </s>.
    """

    names: tuple[str, ...]
    category_ids: tuple[tuple[int, ...], ...]
    prompt_ids: tuple[int, ...]


def encode_categories(categories: Sequence[str], tokenizer: Tokenizer, prompt: str = PROMPT) -> Words:
    """Turns category names into ids, as the official IFSeg data set does.

    Args:
      categories: M >= 1 names. White space around and between their words does not matter.
      tokenizer: from a text to its ids (>= 0, at least one, without <s> and </s>). Called once with the whole prompt,
        once with each name and once with "unknown".
      prompt: the text before the names; "" for none.

    Raises:
      VocabularyError: a bare string or not strings, no name, a blank name, a name given twice, or a tokenizer that
        returns something else than ids.
    """
    names = check_names(categories, "category", "categories", ignore_case=False)
    prefix = _encode(tokenizer, prompt) if prompt.strip() else ()
    category_ids = tuple(_encode(tokenizer, name) for name in names)
    listed = (index for ids in (*category_ids, _encode(tokenizer, UNKNOWN)) for index in ids)
    return Words(names=names, category_ids=category_ids, prompt_ids=(BOS, *prefix, *listed, EOS))


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    ids = tuple(token_ids(tokenizer, text))
    if not ids or min(ids) < 0:
        raise VocabularyError(f"the tokenizer returned {shown(ids)} for {text!r}: it must return ids, none below 0")
    return ids


def rows_of(names: Sequence[str], categories: Sequence[str], tokenizer: Tokenizer | None) -> list[int]:
    """Of each name its place among a model's categories, -1 if it has none; case counts if it does in tokens."""
    rows = {plain(name): row for row, name in enumerate(categories)}
    found = [rows.get(plain(name), -1) for name in names]
    folded = {name.casefold() for name in rows}
    for index, name in enumerate(map(plain, names)):
        if found[index] < 0 and tokenizer is not None and name.casefold() in folded:
            ids = token_ids(tokenizer, name)
            found[index] = next((row for other, row in rows.items() if token_ids(tokenizer, other) == ids), -1)
    return found


@functools.cache
def report_untrained(names: tuple[str, ...]) -> None:
    """Warns once in a process of names that a model with a trained table of its categories has no row for."""
    if names:
        logging.getLogger(__name__).warning(
            "%d labels are none of the categories that the model was trained on, and are asked for by their words "
            "alone: %s",
            *(len(names), shown(list(names))),
        )


class WordEmbeddings(NamedTuple):
    """categories: float32 [M, D], mean over sub-words. prompt: [1, T, D]. bos: [D].

    projection: [M, D], what logits are taken against where that is not the categories' means; see
    `OFAConfig.category_rows`.
    """

    categories: jax.Array
    prompt: jax.Array
    bos: jax.Array
    projection: jax.Array | None = None

    @property
    def projected(self) -> jax.Array:
        """What logits are taken against, [M, D]."""
        return self.categories if self.projection is None else self.projection


class WordIds(NamedTuple):
    """`Words` as arrays. categories: int32 [M, most sub-words], -1 where there are fewer. prompt: int32 [T]."""

    categories: Any
    prompt: Any


def word_ids(words: Words) -> WordIds:
    """The ids of categories and prompt."""
    longest = max(len(ids) for ids in words.category_ids)
    category_ids = np.full((len(words.category_ids), longest), -1, np.int32)
    for row, ids in zip(category_ids, words.category_ids, strict=True):
        row[: len(ids)] = ids
    return WordIds(category_ids, np.asarray(words.prompt_ids, np.int32))


@jax.jit
def embed_ids(table: jax.Array, ids: WordIds) -> WordEmbeddings:
    """Looks up the embeddings of categories and prompt in the word table [V, D]."""
    given = (ids.categories >= 0)[..., None]
    subwords = jnp.where(given, table[ids.categories], 0.0)
    categories = subwords.sum(axis=1) / given.sum(axis=1)
    return WordEmbeddings(categories, table[ids.prompt][None], table[BOS])


def embed_words(table: jax.Array, words: Words) -> WordEmbeddings:
    """`embed_ids` of words."""
    return embed_ids(table, word_ids(words))
