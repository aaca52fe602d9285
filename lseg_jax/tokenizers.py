"""Labels in CLIP's token ids, as the official `clip.tokenize` makes them (openai/CLIP).

A label is cleaned, cut into byte pairs and framed: start token, ids, end token, zeros up to the context length.
"""

from __future__ import annotations

import functools
import html
import importlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from vlseg.errors import VocabularyError
from vlseg.labels import check_names, shown
from vlseg.labels.tokens import FAST, MERGES, VOCABULARY, token_ids, tokenizer_directory

if TYPE_CHECKING:
    import tokenizers

Tokenizer = Callable[[str], Sequence[int]]
"""From a text to its ids: bare, or between start and end token, and then also padded."""

START, END = "<|startoftext|>", "<|endoftext|>"
"""The last two pieces of CLIP's vocabulary."""

_END_OF_WORD = "</w>"

_EXPECTED = f"CLIP's {FAST}, or {VOCABULARY} + {MERGES} (Hugging Face)"


def clip_tokenizer() -> Tokenizer:
    """CLIP's tokenizer out of installed packages, without any file.

    The ids are the official ones, but for what no label holds: the control tokens `<|startoftext|>` and
    `<|endoftext|>` are text like any other here, the long s after an apostrophe is not taken for the contraction 's,
    and letters that Unicode got lately may count as symbols.

    Returns:
      A function from a text to the list of its ids, int in [0, 49406), without start and end token.

    Raises:
      VocabularyError: a package is missing.
    """
    package = _import(
        "instant_clip_tokenizer",
        'pip install "vlseg-jax[clip]" on CPython 3.11 (Linux x86-64, macOS arm64), '
        f"elsewhere give a tokenizer: a directory with {_EXPECTED}",
    )
    clean = _cleaner()
    encode = package.Tokenizer().encode
    return lambda text: list(encode(clean(text)))


def load_tokenizer(source: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer of CLIP from Hugging Face files.

    Args:
      source: a directory with tokenizer.json or with vocab.json and merges.txt. Or the "owner/name" of a Hugging Face
        model such as "openai/clip-vit-base-patch32", whose tokenizer files are then taken from the local cache or the
        network.

    Returns:
      A function from a text to the list of its ids, without start and end token. It cleans the text first, as the
      official code does and these files alone do not.

    Raises:
      VocabularyError: no such directory, missing or damaged files, another model's vocabulary, a hub name that can
        neither be fetched nor found in the cache, or the package ftfy is missing.
    """
    directory = tokenizer_directory(source, _EXPECTED)
    tokenizer = _read(directory)
    size = tokenizer.get_vocab_size()
    if [tokenizer.token_to_id(token) for token in (START, END)] != [size - 2, size - 1]:
        raise VocabularyError(
            f"tokenizer directory {directory} is not CLIP's ({START} and {END} are not its last two tokens): "
            f"give one that holds {_EXPECTED}"
        )
    # The length of a row is not this function's business.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    clean = _cleaner()
    return lambda text: tokenizer.encode(clean(text), add_special_tokens=False).ids


def tokenize(labels: Sequence[str], tokenizer: Tokenizer, *, context: int = 77, vocabulary: int = 49408) -> np.ndarray:
    """Labels as rows of tokens, as the official `clip.tokenize` with `truncate=True`.

    Labels that are too long are cut behind `context` - 2 ids, with one warning for all of them.

    Args:
      labels: N texts.
      tokenizer: from a text to its ids. A start token in front is dropped, and so is what follows an end token.
      context: length of a row, at least 2.
      vocabulary: number of tokens. The last but one is the start token, the last one the end token.

    Returns:
      int32 [N, context]: start token, ids, end token, zeros.

    Raises:
      VocabularyError: the tokenizer returned something else than ids in [0, vocabulary).
    """
    start, end = vocabulary - 2, vocabulary - 1
    tokens = np.zeros((len(labels), context), np.int32)
    cut = []
    for row, label in zip(tokens, labels, strict=True):
        ids = _encode(tokenizer, label, vocabulary)
        ids = ids[1:] if ids[:1] == [start] else ids
        ids = ids[: ids.index(end)] if end in ids else ids
        if len(ids) > context - 2:
            cut.append(label)
        ids = [start, *ids[: context - 2], end]
        row[: len(ids)] = ids
    report_cut(tuple(cut), len(labels), context - 2)
    return tokens


@functools.cache
def report_cut(cut: tuple[str, ...], count: int, length: int) -> None:
    """Warns once in a process of labels, of `count` in all, that are longer than the `length` tokens of an encoder."""
    if cut:
        logging.getLogger(__name__).warning(
            "%d of %d labels are longer than %d tokens and were cut, the first is %s",
            *(len(cut), count, length, shown(cut[0])),
        )


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that can be told apart, see `vlseg.labels.check_names`; the text encoders know lower case alone."""
    return check_names(labels, "label", "labels")


def import_transformers() -> ModuleType:
    """Hugging Face transformers, which takes a second, without its remark that PyTorch, not needed here, is missing."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    return importlib.import_module("transformers")


def _import(name: str, remedy: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise VocabularyError(
            f"CLIP's tokenizer needs the package {name.replace('_', '-')}, which is missing: {remedy}"
        ) from error


def _cleaner() -> Callable[[str], str]:
    """The official cleaning of a text: mended Unicode, no HTML entities, single spaces, lower case."""
    ftfy = _import("ftfy", "pip install ftfy")

    def clean(text: str) -> str:
        mended = html.unescape(html.unescape(ftfy.fix_text(text)))
        # The official pattern ignores case, under which this mark is neither a letter nor a symbol.
        return " ".join(mended.lower().replace("\N{COMBINING GREEK YPOGEGRAMMENI}", " ").split())

    return clean


def _read(directory: Path) -> tokenizers.Tokenizer:
    files = (FAST,) if (directory / FAST).is_file() else (VOCABULARY, MERGES)
    missing = [name for name in files if not (directory / name).is_file()]
    if missing == [VOCABULARY, MERGES]:
        raise VocabularyError(f"tokenizer directory {directory} holds no tokenizer: expected {_EXPECTED}")
    if missing:
        raise VocabularyError(f"tokenizer directory {directory} lacks {missing[0]}: put it beside the rest")
    from tokenizers.pre_tokenizers import ByteLevel

    try:
        tokenizer = (
            import_transformers().CLIPTokenizer.from_pretrained(directory, local_files_only=True).backend_tokenizer
        )
        # The library takes the end token for what it has no token for. With two for each byte there is no such thing.
        known = tokenizer.get_vocab().keys()
        if not all({byte, byte + _END_OF_WORD} <= known for byte in ByteLevel.alphabet()):
            raise ValueError("some of the 512 tokens of single bytes are missing")
        return tokenizer
    except Exception as error:  # the library raises nothing more specific
        raise VocabularyError(
            f"{' and '.join(files)} of {directory} cannot be read ({' '.join(str(error).split())}): fetch them again"
        ) from error


def _encode(tokenizer: Tokenizer, label: str, vocabulary: int) -> list[int]:
    ids = token_ids(tokenizer, label)
    if outside := [index for index in ids if not 0 <= index < vocabulary]:
        raise VocabularyError(
            f"the tokenizer returned the id {outside[0]} for {shown(label)}, but this model knows 0 to "
            f"{vocabulary - 1}: give the tokenizer that the model was trained with"
        )
    return ids
