"""Files of tokenizers that hold anything, and a library whose panics are no `Exception`."""

import json
import os
from pathlib import Path

import pytest

from ifseg_jax.vocabulary import load_tokenizer
from tests.fuzz.readers import fast_pieces, hub_pieces
from vlseg.errors import LONGEST, VocabularyError
from vlseg.labels import tokens


class Panic(BaseException):
    """As PyO3 raises where Rust panics."""


def test_a_panic_of_the_library_is_an_error_in_one_line() -> None:
    with (
        pytest.raises(VocabularyError, match=r"vocab.json is broken \(called `unwrap`\)"),
        tokens.library_errors("vocab.json is broken"),
    ):
        raise Panic("called\n`unwrap`")
    with pytest.raises(KeyboardInterrupt), tokens.library_errors("it"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cat": 2**32}, "does not map pieces to ids"),
        ({"cat": 2**64}, "does not map pieces to ids"),
        ({"cat": 5}, "several pieces one id"),
        ({"cat": True}, "does not map pieces to ids"),
        ({"\ud800": 9999}, "pieces that are no text"),
    ],
)
def test_ids_that_the_library_fails_on(tmp_path: Path, changed: dict[str, int], message: str) -> None:
    hub_pieces(tmp_path)
    whole = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(whole | changed))
    with pytest.raises(VocabularyError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"<html>", "an HTML page"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("tokenizer.json", b"", "an empty file"),
        ("tokenizer.json", b'{"a":' * 100_000, "nested deeper"),
        ("merges.txt", b"x" * 5_000_000, "is not a pair of pieces"),
        ("merges.txt", None, "is a pipe"),
        ("vocab.json", None, "is a pipe"),
    ],
)
def test_something_else_in_place_of_a_file(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    (fast_pieces if name == "tokenizer.json" else hub_pieces)(tmp_path)
    (tmp_path / name).unlink()
    if content is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VocabularyError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert len(str(caught.value)) <= LONGEST


@pytest.mark.parametrize(
    "model",
    [
        {"vocab": {"aa": 0, "bb": 1}, "merges": [["aa", "bb"]]},
        {"vocab": {"aa": 0, "bb": 1}, "merges": ["aa bb"]},
        {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "continuing_subword_prefix": "##"},
        {"vocab": {"a": 0}, "merges": [["a"]]},
    ],
)
def test_merges_on_which_the_library_panics(tmp_path: Path, capfd: pytest.CaptureFixture[str], model: dict) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", **model}}))
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    assert capfd.readouterr().err == ""
