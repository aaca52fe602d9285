"""Which tokenizer a model is used with."""

import os
from pathlib import Path

from ifseg_jax import checkpoint
from ifseg_jax.config import OFAConfig
from ifseg_jax.vocabulary import Tokenizer, load_tokenizer
from ifseg_jax.weights import official_tokenizer
from vlseg.checkpoints.directory import Stored


def words_file_of(stored: Stored) -> Path | None:
    """The file with the words of a model that has a vocabulary of its own."""
    path = stored.directory and stored.directory / checkpoint.WORDS_FILE
    return path if path and path.exists() else None


def own_tokenizer(
    stored: Stored, given: Tokenizer | str | os.PathLike[str] | None = None, source: str | os.PathLike[str] = ""
) -> Tokenizer | None:
    """The tokenizer that is given, or else the model's own, or that of the official models; None if there is none.

    Args:
        stored: the model. source: what it was read from, if it may be the name of an official model.
    """
    words_file = words_file_of(stored)
    if given is None and words_file is not None:
        given = words_file.parent
    if given is None and stored.config.vocabulary_size >= OFAConfig.vocabulary_size:
        given = official_tokenizer(source)
    return load_tokenizer(given) if given is not None and not callable(given) else given
