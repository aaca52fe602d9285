"""Categories as words: the M category names and the prompt that lists them.

IFSeg describes the task to OFA in words: "what is the segmentation map of the image? object: cat grass dog unknown".
A category is the mean of the embeddings of its sub-words, so all the model needs from a name are its ids.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from ifseg_jax.tokenizers import BOS, EOS, PAD, UNK, Tokenizer, load_tokenizer
from vlseg.errors import VocabularyError
from vlseg.labels import check_names, shown

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "PROMPT",
    "UNK",
    "UNKNOWN",
    "Tokenizer",
    "Words",
    "encode_categories",
    "load_tokenizer",
]

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
      prompt: the text before the names.

    Raises:
      VocabularyError: a bare string or not strings, no name, a blank name, a name given twice (case ignored), or a
        tokenizer that returns something else than ids.
    """
    names = check_names(categories, "category", "categories")
    prefix = _encode(tokenizer, prompt)
    category_ids = tuple(_encode(tokenizer, name) for name in names)
    listed = (index for ids in (*category_ids, _encode(tokenizer, UNKNOWN)) for index in ids)
    return Words(names=names, category_ids=category_ids, prompt_ids=(BOS, *prefix, *listed, EOS))


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    returned = tokenizer(text)
    try:
        ids = tuple(operator.index(index) for index in returned)
    except TypeError as error:
        raise VocabularyError(
            f"the tokenizer returned {shown(returned)} for {text!r}: it must return a list of integer ids"
        ) from error
    if not ids or min(ids) < 0:
        raise VocabularyError(f"the tokenizer returned {shown(ids)} for {text!r}: it must return ids, none below 0")
    return ids
