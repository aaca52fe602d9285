"""What the tokenizers of all models have in common: where their files are, and a check of what they return."""

import operator
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from vlseg.errors import VocabularyError
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
