"""Tokenizers, against a byte-pair encoder written from GPT-2's definition in plain Python."""

import unicodedata
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from ifseg_jax.vocabulary import BOS, EOS, PAD, UNK, Tokenizer, load_tokenizer
from tests import byte_pairs
from vlseg.errors import VocabularyError

# Letters with and without accents, other scripts, digits, punctuation with contractions, a symbol of four bytes.
TEXT = st.text(alphabet="abcdeghtsCATé猫 \t09'’s-?:#.!😀", max_size=24)
# What the byte-pair encoder of these tests merges, most frequent first. Two lead to pieces no other merge makes.
MERGES = [
    ("Ġ", "c"), ("a", "t"), ("Ġc", "at"), ("t", "h"), ("Ġ", "d"), ("#", "#"), ("h", "e"), ("Ġ", "th"),
    ("Ġth", "e"), ("Ã", "©"), ("'", "s"), ("c", "at"), ("a", "a"), ("aa", "aa"), ("Ġ", "?"), ("0", "0"),
]  # fmt: skip
MISSING_FROM_DICTIONARY = ("at", "x")


def chunks(text: str) -> list[str]:
    """GPT-2's first cut: contractions, else an optional space and a run of letters, of numbers, or of the rest."""

    def kind(character: str) -> str:
        category = unicodedata.category(character)[0]
        return category if category in "LN" else "other"

    found, start = [], 0
    while start < len(text):
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, start)), "")
        end = start + len(contraction)
        if not contraction:
            end = start + 1 + (text[start] == " ")
            while end < len(text) and kind(text[end]) == kind(text[end - 1]):
                end += 1
        found.append(text[start:end])
        start = end
    return found


def bpe(chunk: str) -> list[str]:
    alphabet = byte_pairs.alphabet()
    return byte_pairs.merged([alphabet[byte] for byte in chunk.encode()], MERGES)


def pieces_of(text: str) -> list[str]:
    return [piece for word in text.split() for chunk in chunks(f" {word}") for piece in bpe(chunk)]


def pieces() -> list[str]:
    return [*byte_pairs.alphabet().values(), *dict.fromkeys(left + right for left, right in MERGES)]


def ofa_order() -> list[str]:
    """The pieces in the order of the dictionary, which is not that of the encoder."""
    kept = [piece for piece in pieces() if piece not in MISSING_FROM_DICTIONARY]
    return [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]


def oracle(text: str) -> list[int]:
    order = ofa_order()
    return [UNK if piece in MISSING_FROM_DICTIONARY else 4 + order.index(piece) for piece in pieces_of(text)]


def write_official(directory: Path) -> Path:
    gpt2_ids = {piece: index for index, piece in enumerate(pieces())}
    byte_pairs.write(directory, gpt2_ids, MERGES, ("encoder.json", "vocab.bpe"))
    lines = [f"{gpt2_ids[piece]} {1000 - i}\n" for i, piece in enumerate(ofa_order())]
    (directory / "dict.txt").write_text("".join([*lines, "madeupword0000 0\n"]))
    return directory


def hugging_face_ids() -> dict[str, int]:
    """The same ids as the official files; here every piece has one, so the missing two come last."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *ofa_order(), *MISSING_FROM_DICTIONARY]
    return {token: index for index, token in enumerate(tokens)}


def write_hugging_face(directory: Path) -> Path:
    return byte_pairs.write(directory, hugging_face_ids(), MERGES)


def write_hugging_face_fast(directory: Path) -> Path:
    """tokenizer.json as `transformers` saves it, with the special ids, padding and truncation a text may ask for."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=hugging_face_ids(), merges=MERGES))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", EOS), ("<s>", BOS))
    tokenizer.enable_padding(length=16, pad_id=PAD, pad_token="<pad>")
    tokenizer.enable_truncation(max_length=4)
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    words = root / "words"
    words.mkdir()
    (words / "words.txt").write_text("what\nis\nobject:\nunknown\ncat\ndog\nimage?\nétang\n", encoding="utf-8")
    return {
        "official": write_official(root / "official"),
        "hugging_face": write_hugging_face(root / "hugging_face"),
        "hugging_face_fast": write_hugging_face_fast(root / "hugging_face_fast"),
        "words": words,
    }


@pytest.fixture(scope="module")
def tokenizers_of(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", ["Ġcat"]),
        ("the cat", ["Ġthe", "Ġcat"]),
        ("Cat", ["Ġ", "C", "at"]),
        ("cat's ??", ["Ġcat", "'s", "Ġ?", "?"]),
        ("aaaaa", ["Ġ", "aaaa", "a"]),
        ("é##", ["Ġ", "Ã©", "##"]),
        ("  \t ", []),
    ],
)
def test_the_oracle_itself_splits_by_hand_checked_examples(text: str, expected: list[str]) -> None:
    assert pieces_of(text) == expected


@given(text=TEXT)
def test_official_files_give_the_ids_of_plain_byte_pair_encoding(
    tokenizers_of: dict[str, Tokenizer], text: str
) -> None:
    assert list(tokenizers_of["official"](text)) == oracle(text)


@given(text=TEXT)
def test_hugging_face_files_give_the_same_ids(tokenizers_of: dict[str, Tokenizer], text: str) -> None:
    ids = hugging_face_ids()
    expected = [ids[piece] for piece in pieces_of(text)]
    assert list(tokenizers_of["hugging_face"](text)) == expected
    assert list(tokenizers_of["hugging_face_fast"](text)) == expected


@given(first=TEXT, second=TEXT)
def test_words_are_encoded_one_by_one(tokenizers_of: dict[str, Tokenizer], first: str, second: str) -> None:
    for name in ("official", "hugging_face", "hugging_face_fast"):
        tokenize = tokenizers_of[name]
        assert tokenize(f" {first}\n {second} ") == [*tokenize(first), *tokenize(second)]


def test_a_piece_the_dictionary_lacks_is_unknown(tokenizers_of: dict[str, Tokenizer]) -> None:
    assert tokenizers_of["official"]("at")[-1] == UNK
    assert tokenizers_of["official"]("x")[-1] == UNK


def test_a_list_of_words_gives_the_line_after_the_specials(tokenizers_of: dict[str, Tokenizer]) -> None:
    assert tokenizers_of["words"]("What IS  object: ÉTANG") == [4, 5, 6, 11]


def test_a_list_of_words_is_strict(folders: dict[str, Path], tokenizers_of: dict[str, Tokenizer]) -> None:
    with pytest.raises(VocabularyError, match=r"'zebra'.*words\.txt") as caught:
        tokenizers_of["words"]("cat zebra")
    assert str(folders["words"]) in str(caught.value)


def test_the_official_files_go_before_the_others(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder in (folders["hugging_face"], folders["official"]):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load_tokenizer(tmp_path)("at") == oracle("at")


def test_a_path_may_be_a_string(folders: dict[str, Path]) -> None:
    assert load_tokenizer(str(folders["words"]))("cat") == [8]


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe", "dict.txt"])
def test_each_missing_official_file_is_named(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = write_official(tmp_path / "partial")
    (folder / name).unlink()
    with pytest.raises(VocabularyError, match=rf"lacks {name}:"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("encoder.json", "{"),
        ("encoder.json", "[1, 2]"),
        ("encoder.json", '{"a": -1}'),
        ("encoder.json", '{"a": true}'),
        ("encoder.json", '{"a": 0}'),
        ("encoder.json", ""),
        ("encoder.json", b"\xff\xfe"),
        ("vocab.bpe", ""),
        ("vocab.bpe", "#version: 0.2\na b c\n"),
        ("vocab.bpe", "#version: 0.2\na q\n"),
        ("vocab.bpe", "#version: 0.2\na \n"),
        ("dict.txt", "7\n"),
        ("dict.txt", "7 many\n"),
        ("dict.txt", "7 1\n7 1\n"),
        ("vocab.json", '{"!": 0, "a": 1}'),
        ("vocab.json", '{"<s>": 0, "<unk>": 1}'),
        ("merges.txt", "<html>\n"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"!": 0}, "unk_token": "!"}}'),
        ("words.txt", ""),
        ("words.txt", "cat\n\ndog\n"),
        ("words.txt", "cat\nDog\n"),
        ("words.txt", "cat\nhot dog\n"),
        ("words.txt", "cat\ndog\ncat\n"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: str | bytes) -> None:
    folder = tmp_path / "damaged"
    if name in ("encoder.json", "vocab.bpe", "dict.txt"):
        write_official(folder)
    elif name in ("vocab.json", "merges.txt"):
        write_hugging_face(folder)
    else:
        folder.mkdir()
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(VocabularyError) as caught:
        load_tokenizer(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["nowhere", "./no/where", "empty", "file.txt"])
def test_a_place_without_a_tokenizer_says_what_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.txt").touch()
    with pytest.raises(VocabularyError) as caught:
        load_tokenizer(where)
    for file in ("encoder.json", "vocab.bpe", "dict.txt", "tokenizer.json", "vocab.json", "merges.txt", "words.txt"):
        assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_fetched(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        assert name == "OFA-Sys/ofa-base"
        assert sorted(allow_patterns) == ["merges.txt", "tokenizer.json", "vocab.json"]
        return str(folders["hugging_face"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    ids = hugging_face_ids()
    assert load_tokenizer("OFA-Sys/ofa-base")("the cat") == [ids["Ġthe"], ids["Ġcat"]]


def test_a_hub_name_that_cannot_be_had_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(VocabularyError, match=r"vocab\.json and merges\.txt of OFA-Sys/ofa-base") as caught:
        load_tokenizer("OFA-Sys/ofa-base")
    assert "\n" not in str(caught.value)
