"""What the tokenizers of all models have in common: where their files are, and a check of what they return."""

import contextlib
import operator
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlseg import files, json_files, paths
from vlseg.errors import VlsegError, VocabularyError, one_line
from vlseg.labels import shown

FAST = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def tokenizer_directory(source: str | os.PathLike[str], expected: str) -> Path:
    """The directory of a tokenizer given as such or as the "owner/name" of a model of the hub, fetched or cached.

    Args:
        source: where it is. expected: the files that such a directory may hold, for errors.

    Raises:
        VocabularyError: no such directory, or a hub name that can neither be fetched nor found in the cache.
    """
    path = Path(source).expanduser()
    paths.check_reachable(path, VocabularyError)
    if path.is_dir():
        return path
    if path.exists():
        raise VocabularyError(f"tokenizer {path} is a file: give the directory that holds {expected}")
    if not isinstance(source, str) or not _NAME.fullmatch(source):
        raise VocabularyError(f"no tokenizer directory {path}: give one that holds {expected}")
    # Not AutoTokenizer, which refuses repositories of model types that it does not know.
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=[FAST, VOCABULARY, MERGES]))
    except (OSError, ValueError) as error:  # the hub's own errors all derive from these
        raise VocabularyError(
            f"no directory {source}, and the Hugging Face hub did not give it ({type(error).__name__}): download "
            f"{VOCABULARY} and {MERGES} of {source} into a directory and give that directory"
        ) from error


MAX_BYTES = 2**28
"""Of a tokenizer's file, which have a few million."""

MAX_ID = 2**31 - 1


def names_in(directory: Path) -> set[str]:
    """The names in the directory of a tokenizer; VocabularyError if it may not be looked into."""
    try:
        return {entry.name for entry in directory.iterdir()}
    except OSError as error:
        raise VocabularyError(f"tokenizer directory {directory} cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    """A text file of a tokenizer.

    Raises:
        VocabularyError: it is missing, a pipe or the like, something else than text, or too large.
    """
    files.check_regular(path, VocabularyError)
    if path.stat().st_size > MAX_BYTES:
        raise VocabularyError(f"{path}: is too large for a file of a tokenizer")
    content = files.read_regular(path, VocabularyError)
    if kind := files.kind_of(content):
        raise VocabularyError(f"{path} cannot be read: it is {kind}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} cannot be read ({one_line(error)}): fetch it again") from error


def read_vocabulary(path: Path) -> dict[str, int]:
    """Pieces of a tokenizer with their ids, each in [0, MAX_ID] and of one piece; VocabularyError otherwise."""
    vocabulary = json_files.parse(read_text(path), f"{path} cannot be used, fetch it again: it", VocabularyError)
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not all(type(index) is int and 0 <= index <= MAX_ID for index in ids):
        raise VocabularyError(f"{path} does not map pieces to ids: fetch it again")
    if not all(map(_is_text, vocabulary)):
        raise VocabularyError(f"{path} has pieces that are no text: fetch it again")
    if len(set(ids)) < len(ids):
        raise VocabularyError(f"{path} gives several pieces one id: fetch it again")
    found: dict[str, int] = vocabulary
    return found


def _is_text(piece: str) -> bool:
    """Whether a text can be written in UTF-8, which halves of surrogate pairs cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in piece)


def check_merges(content: Any, path: Path) -> None:
    """Checks the merges of a tokenizer.json, on which the library panics, with lines of its own on standard error.

    Args:
        content: the JSON. path: what messages name.

    Raises:
        VocabularyError: a merge gives a piece that the vocabulary lacks.
    """
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        return
    vocabulary, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    merges, skipped = model.get("merges"), len(prefix) if isinstance(prefix, str) else 0
    for merge in merges if isinstance(merges, list) else ():
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise VocabularyError(f"{path}: {shown(merge)} is not a pair of pieces: fetch it again")
        if not {*pair, pair[0] + pair[1][skipped:]} <= vocabulary.keys() or len(pair[1]) < skipped:
            raise VocabularyError(f"{path} merges {shown(pair)} into a piece that it lacks: fetch it again")


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turns what the tokenizers library raises into VocabularyErrors: "WHAT (its message): fetch it again".

    The library is written in Rust, whose panics come as exceptions that are no `Exception`.
    """
    try:
        yield
    except (VlsegError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise VocabularyError(f"{what} ({one_line(error)}): fetch it again") from error


def token_ids(tokenizer: Callable[[str], Sequence[int]], text: str) -> list[int]:
    """The ids of a text; VocabularyError if it is no text, or the tokenizer returns anything but integers."""
    check_text(text)
    returned = tokenizer(text)
    try:
        return [operator.index(index) for index in returned]
    except TypeError as error:
        raise VocabularyError(
            f"the tokenizer returned {shown(returned)} for {shown(text)}: it must return a list of integer ids"
        ) from error


def check_text(text: str) -> None:
    """Refuses halves of characters, on which tokenizers fail; what was read in a wrong encoding may hold them."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise VocabularyError(f"{shown(text)} is no text in Unicode: correct it")
