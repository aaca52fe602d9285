"""Tokenizers: from a text to the ids of OFA's dictionary.

OFA inherits the dictionary of fairseq's BART: four specials, then the GPT-2 byte-pair vocabulary in the order of
`dict.txt`. Three sets of files hold the same mapping (the official `utils/BPE` folder, and the two Hugging Face
layouts); a fourth, a plain list of words, serves the bundled tiny model. All of them encode by one rule: every
white-space separated word on its own, with one leading space, and no special ids added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlseg import json_files
from vlseg.errors import VocabularyError
from vlseg.labels.tokens import (
    FAST,
    MERGES,
    VOCABULARY,
    check_merges,
    library_errors,
    names_in,
    read_text,
    read_vocabulary,
    tokenizer_directory,
)

if TYPE_CHECKING:
    import tokenizers

Tokenizer = Callable[[str], Sequence[int]]

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")

_OFFICIAL = ("encoder.json", "vocab.bpe", "dict.txt")
_WORDS = ("words.txt",)
_HUGGING_FACE_BPE = (VOCABULARY, MERGES)
_EXPECTED = (
    "encoder.json + vocab.bpe + dict.txt (the official utils/BPE), tokenizer.json or vocab.json + merges.txt "
    "(Hugging Face), or words.txt (one word per line)"
)


def load_tokenizer(directory_or_hub_name: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer that gives OFA ids (int, >= 0, without <s> and </s>).

    Args:
      directory_or_hub_name: a directory with one of these, the first found being used: the official files
        (encoder.json, vocab.bpe, dict.txt of OFA's and IFSeg's `utils/BPE`); words.txt, a closed list of lower-case
        words, one per line, whose ids are the line's index + 4; tokenizer.json; vocab.json and merges.txt. Or the
        "owner/name" of a Hugging Face model such as "OFA-Sys/ofa-base", whose tokenizer files are then taken from
        the local cache or the network.

    Returns:
      A function from a text to the list of its ids. Case is kept, but for words.txt, which is lower-case. What a
      vocabulary lacks becomes `UNK`, but for words.txt, where it is a `VocabularyError`.

    Raises:
      VocabularyError: no such directory, missing or damaged files, ids that are not OFA's, or a hub name that can
        neither be fetched nor found in the cache.
    """
    directory = tokenizer_directory(directory_or_hub_name, _EXPECTED)
    present = names_in(directory)
    for files, load in (
        (_OFFICIAL, _load_official),
        (_WORDS, _load_words),
        ((FAST,), _load_hugging_face_fast),
        (_HUGGING_FACE_BPE, _load_hugging_face_bpe),
    ):
        if present.isdisjoint(files):
            continue
        if missing := [name for name in files if name not in present]:
            raise VocabularyError(f"tokenizer directory {directory} lacks {', '.join(missing)}: put it beside the rest")
        return load(directory)
    raise VocabularyError(f"tokenizer directory {directory} holds no tokenizer: expected {_EXPECTED}")


def _load_official(directory: Path) -> Tokenizer:
    encoder_path, merges_path, dictionary_path = (directory / name for name in _OFFICIAL)
    bpe = _byte_level_bpe(read_vocabulary(encoder_path), encoder_path, _read_merges(merges_path), merges_path)
    ofa_ids = _read_dictionary(dictionary_path)

    def tokenize(text: str) -> list[int]:
        return [ofa_ids.get(str(gpt2_id), UNK) for gpt2_id in _encode_words(bpe, text)]

    return tokenize


def _load_words(directory: Path) -> Tokenizer:
    path = directory / _WORDS[0]
    ids: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if line.split() != [line] or line != line.lower() or line in ids:
            raise VocabularyError(f"{path}, line {number}: {line!r} is not one new lower-case word: correct the list")
        ids[line] = len(SPECIALS) + len(ids)

    def tokenize(text: str) -> list[int]:
        words = text.lower().split()
        for word in words:
            if word not in ids:
                raise VocabularyError(
                    f"the word {word!r} is unknown to this model: use words of {path} or a model with a full vocabulary"
                )
        return [ids[word] for word in words]

    return tokenize


def _load_hugging_face_fast(directory: Path) -> Tokenizer:
    import tokenizers

    path = directory / FAST
    text = read_text(path)
    content = json_files.parse(text, f"{path} is not a tokenizer, fetch it again: it", VocabularyError)
    check_merges(content, path)
    with library_errors(f"{path} is not a tokenizer"):
        tokenizer = tokenizers.Tokenizer.from_str(text)
        # Ids must not depend on a batch that this function never makes.
        tokenizer.no_padding()
        tokenizer.no_truncation()
    _check_specials({index: tokenizer.id_to_token(index) for index in range(len(SPECIALS))}, path)
    return lambda text: _encode_words(tokenizer, text)


def _load_hugging_face_bpe(directory: Path) -> Tokenizer:
    vocabulary_path, merges_path = (directory / name for name in _HUGGING_FACE_BPE)
    vocabulary = read_vocabulary(vocabulary_path)
    _check_specials({index: token for token, index in vocabulary.items()}, vocabulary_path)
    bpe = _byte_level_bpe(vocabulary, vocabulary_path, _read_merges(merges_path), merges_path)
    return lambda text: _encode_words(bpe, text)


def _encode_words(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    with library_errors("the tokenizer cannot be used"):
        return [index for word in text.split() for index in tokenizer.encode(f" {word}", add_special_tokens=False).ids]


def _byte_level_bpe(
    vocabulary: dict[str, int], vocabulary_path: Path, merges: list[tuple[str, str]], merges_path: Path
) -> tokenizers.Tokenizer:
    """GPT-2's byte-level byte-pair encoding."""
    import tokenizers

    # The library drops what it has no piece for. With a piece for each byte there is no such thing.
    if any(byte not in vocabulary for byte in tokenizers.pre_tokenizers.ByteLevel.alphabet()):
        raise VocabularyError(f"{vocabulary_path} lacks some of the 256 byte pieces of GPT-2: fetch it again")
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise VocabularyError(
                f"{merges_path} merges {left!r} and {right!r}, which {vocabulary_path} does not know: "
                "take both files from one tokenizer"
            )
    with library_errors(f"{vocabulary_path} and {merges_path} are not a tokenizer"):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _check_specials(tokens: Mapping[int, str | None], path: Path) -> None:
    """Refuses the vocabulary of another model (GPT-2's, for one), whose ids would silently mean other words."""
    for index, special in enumerate(SPECIALS):
        if tokens.get(index) not in (special, None):
            raise VocabularyError(
                f"{path} is not OFA's vocabulary (id {index} is {tokens[index]!r}, not {special}): "
                "give the tokenizer of an OFA or BART model"
            )


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = _read_lines(path)
    # Only the first line is a comment: "#" is also a piece that merges.
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = []
    for line in lines:
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise VocabularyError(f"{path}: {line!r} is not a pair of pieces: fetch the file again")
        merges.append((pair[0], pair[1]))
    return merges


def _read_dictionary(path: Path) -> dict[str, int]:
    """fairseq's dictionary: lines of "<GPT-2 id> <count>" -> OFA id by GPT-2 id."""
    ids: dict[str, int] = {}
    for line in _read_lines(path):
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdecimal() or symbol in ids:
            raise VocabularyError(f"{path}: {line!r} is not a new '<GPT-2 id> <count>': fetch the file again")
        ids[symbol] = len(SPECIALS) + len(ids)
    return ids


def _read_lines(path: Path) -> list[str]:
    lines = read_text(path).rstrip("\n").split("\n")
    if lines == [""]:
        raise VocabularyError(f"{path} is empty: fetch it again")
    return lines
