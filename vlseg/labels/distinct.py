"""Words that a text encoder cannot tell apart, or cannot read: they would be segmented as if they were one.

All text encoders here (MiniLM, CLIP's, OFA's) were trained on English. Of words that show by their letters that they
are of another language it is said, once, where their tokens are looked at. German or French words in plain letters
cannot be told from English ones.
"""

import functools
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlseg.errors import VocabularyError

ROUNDING = 1e-5
"""Vectors that differ by less than this part of their length are equal but for the rounding of float32."""

SHOWN = 5
"""Groups of words, and words of a group, in a message."""


def check_embeddings(words: Sequence[str], embeddings: Any) -> None:
    """Refuses words whose embeddings are equal to within rounding; for the moment at which words become embeddings.

    Args:
        words: N of them.
        embeddings: float [N, C], what pixels are compared with. Under a transformation of JAX, where they have no
            values yet, nothing is checked.

    Raises:
        VocabularyError: which lists the groups of such words.
    """
    if isinstance(embeddings, jax.core.Tracer):
        return
    rows = np.asarray(embeddings, np.float32).astype(np.float64)
    if len(rows) > 1:
        _refuse([[words[index] for index in group] for group in _equal_rows(rows)])


def check_tokens(words: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
    """Refuses words with the same tokens: their embeddings may differ, but only by rounding.

    Of words with other letters than English has it says so, once in a process.

    Args:
        words: N of them. tokens: the ids that the encoder reads for each, cut to its length.

    Raises:
        VocabularyError: which lists the groups of such words.
    """
    groups: dict[tuple[int, ...], dict[str, None]] = {}  # a word that is given twice is the same word
    for word, ids in zip(words, tokens, strict=True):
        groups.setdefault(tuple(ids), {})[word] = None
    _refuse(list(map(list, groups.values())))
    _report_foreign(words)


def is_foreign(word: str) -> bool:
    """Whether a word has letters that English has not: of another script than Latin, or with accents."""
    letters = unicodedata.normalize("NFC", word)  # an accent that stands alone is none, as emoji have it
    return any(not letter.isascii() and unicodedata.category(letter)[0] == "L" for letter in letters)


def check_known(words: Sequence[str], tokens: Sequence[Sequence[int]], unknown: int | None) -> None:
    """Refuses words of which the vocabulary has nothing: all that the encoder sees is its token for unknown text.

    Of words that it knows a part of it says so.

    Args:
        words: N of them. tokens: the ids of each, without those that frame a text. unknown: the id of that token; None
            if the vocabulary has none.

    Raises:
        VocabularyError: which lists the words.
    """
    strange = [word for word, ids in zip(words, tokens, strict=True) if word and not set(ids) - {unknown}]
    if strange:
        raise VocabularyError(
            f"the text encoder's vocabulary has nothing of {_listed(strange, ', ')}: write it in words and a script "
            "that the encoder was trained on"
        )
    _report_unknown(tuple(word for word, ids in zip(words, tokens, strict=True) if unknown in ids))


_told: set[str] = set()
"""Words of which it was said that they are not English."""


def _report_foreign(words: Sequence[str]) -> None:
    """Warns, of each word once in a process."""
    foreign = [word for word in dict.fromkeys(words) if is_foreign(word) and word not in _told]
    _told.update(foreign)
    if foreign:
        logging.getLogger(__name__).warning(
            "the text encoder reads English, and results for words of other languages are poor: %s",
            _listed(foreign, ", "),
        )


@functools.cache
def _report_unknown(words: tuple[str, ...]) -> None:
    """Warns once in a process."""
    if words:
        logging.getLogger(__name__).warning("the text encoder's vocabulary lacks a part of %s", _listed(words, ", "))


def _equal_rows(rows: np.ndarray) -> list[list[int]]:
    """Groups of equal rows float64 [N, C], as their indices; in time N log N where few are equal."""
    lengths = np.linalg.norm(rows, axis=1)
    direction = np.random.default_rng(0).standard_normal(rows.shape[1])
    # Equal rows are near each other in any projection, so only neighbours in one have to be compared.
    projected = rows @ (direction / np.linalg.norm(direction))
    near = ROUNDING * lengths.max()
    groups: list[list[int]] = []
    recent: list[list[int]] = []
    for index in np.argsort(projected, kind="stable"):
        recent = [group for group in recent if projected[index] - projected[group[-1]] <= near]
        for group in recent:
            largest = max(lengths[index], lengths[group[0]])
            if np.linalg.norm(rows[index] - rows[group[0]]) <= ROUNDING * largest:
                group.append(int(index))
                break
        else:
            groups.append([int(index)])
            recent.append(groups[-1])
    return sorted(sorted(group) for group in groups)


def _refuse(groups: Sequence[Sequence[str]]) -> None:
    """Refuses groups of more than one word."""
    same = [group for group in groups if len(group) > 1]
    if same:
        listed = "; ".join(_listed(group, " = ") for group in same[:SHOWN])
        more = f"; and {len(same) - SHOWN} groups more" if len(same) > SHOWN else ""
        raise VocabularyError(
            f"the text encoder cannot tell these labels apart: {listed}{more}; leave all but one of each group out, or "
            "use other words"
        )


def _listed(words: Sequence[str], between: str) -> str:
    named = between.join(repr(word if len(word) <= 60 else f"{word[:57]}...") for word in words[:SHOWN])
    return f"{named} and {len(words) - SHOWN} more" if len(words) > SHOWN else named
