"""Tokens of labels, against ids that the official tokenizer of openai/CLIP gave and byte pairs in plain Python."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lseg_jax.tokenizers import clip_tokenizer, load_tokenizer, tokenize
from tests import byte_pairs
from vlseg.errors import VocabularyError

GOLDEN = Path(__file__).with_name("golden") / "lseg_vitb32_bottleneck2.npz"
LOGGER = "lseg_jax.tokenizers"

OFFICIAL = [
    ("", []),
    ("a photo of a cat", [320, 1125, 539, 320, 2368]),
    ("Café CRÈME naïve e\u0301tude", [15304, 1075, 12138, 614, 1097, 35689, 563, 3459, 764, 654]),
    ("emoji 😀👍🏽 🇩🇪", [16327, 12832, 43722, 21531]),
    ("猫と犬", [163, 234, 104, 34671, 163, 232, 361]),
    ("Привет, мир", [26302, 16370, 29503, 110, 22176, 141, 480, 267, 38018, 16701, 141, 478]),
    ("&amp;amp; &lt;b&gt; &quot;", [261, 283, 321, 285, 257]),
    ("<b> &amp;amp; &amp;lt;", [283, 321, 285, 261, 283]),
    ("“curly” ‘quotes’ don’t", [257, 20795, 257, 262, 5808, 262, 847, 713]),
    ("1234 2nd 3.14", [272, 273, 274, 275, 273, 1764, 274, 269, 272, 275]),
    ("don't I'LL we've", [847, 713, 328, 1342, 649, 1200]),
    ("  multiple   blanks\t\ttabs\nline  ", [6470, 48599, 29163, 1148]),
    ("straße İstanbul ΣΑΣ", [1894, 127, 253, 324, 328, 16384, 11231, 139, 225, 138, 109, 139, 480]),
    ("ﬁne ½ ② Ａ", [3797, 33613, 158, 239, 350, 320]),
    ("sÃ©rie mojibake â€œ", [37879, 5322, 617, 3252, 11878, 257]),
    ("\u00a0nbsp\u3000wide", [6459, 4393, 3184]),
    ("हिन्दी ไทย", [29446, 26721, 26090, 19389, 29552, 25751, 31718, 245, 33091]),
    ("!!!???...", [11194, 5195, 22641]),
    ("under_score traffic-light", [1798, 318, 4431, 3399, 268, 1395]),
    ("alpha\u0345beta", [8624, 9505]),
    ("\ufeffbom zero\u200bwidth\x00", [19469, 5848, 9844, 23571]),
]


@pytest.fixture(scope="module")
def clip():
    pytest.importorskip("instant_clip_tokenizer")
    return clip_tokenizer()


# --- CLIP's tokenizer from packages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), OFFICIAL)
def test_ids_are_the_official_ones(clip, text, expected):
    assert list(clip(text)) == expected


def test_rows_are_those_of_the_official_code(clip):
    with np.load(GOLDEN) as arrays:
        expected, labels = arrays["tokens"], json.loads(str(arrays["meta"]))["labels"]
    found = tokenize(labels, clip)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_two_hundred_words_are_cut_as_officially(clip):
    (row,) = tokenize(["word " * 200], clip)
    assert row.tolist() == [49406] + [2653] * 75 + [49407]


@pytest.mark.parametrize(
    ("name", "remedy"), [("instant_clip_tokenizer", 'pip install "vlseg-jax[clip]"'), ("ftfy", "pip install ftfy")]
)
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, name, remedy):
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", logging)  # any module that is there
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(VocabularyError, match=re.escape(remedy)) as caught:
        clip_tokenizer()
    assert name.replace("_", "-") in str(caught.value) and "\n" not in str(caught.value)


# --- tokenizers from files --------------------------------------------------------------------------------------------

MERGES = [("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>"), ("Ã", "©</w>"), ("'", "s</w>"), ("a", "a")]
CHUNK = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+")


def ids_by_piece():
    single = list(byte_pairs.alphabet().values())
    merged = [left + right for left, right in MERGES]
    pieces = [*single, *(piece + "</w>" for piece in single), *merged, "<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}


def oracle(text):
    ids, alphabet = ids_by_piece(), byte_pairs.alphabet()
    found = []
    for chunk in CHUNK.findall(text.lower()):
        pieces = [alphabet[byte] for byte in chunk.encode()]
        pieces[-1] += "</w>"
        found += [ids[piece] for piece in byte_pairs.merged(pieces, MERGES)]
    return found


def write_byte_pairs(directory, pieces):
    return byte_pairs.write(directory, pieces, MERGES)


def write_fast(directory, pieces):
    """tokenizer.json as published for CLIP, with the special tokens, padding and truncation that a text may ask for."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=pieces, merges=MERGES, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    ends = [(token, pieces[token]) for token in ("<|endoftext|>", "<|startoftext|>")]
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends)
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(max_length=4)
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("ftfy")
    root = tmp_path_factory.mktemp("tokenizers")
    pieces = ids_by_piece()
    return [write_byte_pairs(root / "byte pairs", pieces), write_fast(root / "fast", pieces)]


@pytest.fixture(scope="module")
def loaded(folders):
    return [load_tokenizer(folder) for folder in folders]


@given(text=st.text(alphabet="acehtsdCAT éß猫ж09'-?_#!😀", max_size=24))
def test_files_give_the_ids_of_plain_byte_pair_encoding(loaded, text):
    assert [list(tokenizer(text)) for tokenizer in loaded] == [oracle(text)] * 2


@pytest.mark.parametrize("text", ["The\u00a0 CAT’s", "&amp;#39;the cat&#39;s"])
def test_files_are_used_behind_the_official_cleaning(loaded, text):
    clean = {"T": "the cat's", "&": "'the cat's"}[text[0]]
    assert [list(tokenizer(text)) for tokenizer in loaded] == [oracle(clean)] * 2


def test_a_path_may_be_a_string(folders):
    assert list(load_tokenizer(str(folders[0]))("cat")) == oracle("cat")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_byte_pairs(tmp_path, ids_by_piece()) / name).unlink()
    with pytest.raises(VocabularyError, match=rf"lacks {name}:"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", '{"a": -1}'),
        ("vocab.json", b"\xff\xfe"),
        ("merges.txt", "#version: 0.2\na b c\n"),
        ("merges.txt", "#version: 0.2\na qq\n"),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content):
    write_byte_pairs(tmp_path, ids_by_piece())
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(VocabularyError, match="fetch") as caught:
        load_tokenizer(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_byte_pairs_that_lack_a_byte_are_refused(tmp_path):
    pieces = {piece: index for index, piece in enumerate(p for p in ids_by_piece() if p != "z</w>")}
    with pytest.raises(VocabularyError, match="512"):
        load_tokenizer(write_byte_pairs(tmp_path, pieces))


@pytest.mark.parametrize("write", [write_byte_pairs, write_fast])
def test_the_vocabulary_of_another_model_is_refused(tmp_path, write):
    pieces = ids_by_piece()
    pieces["a"], pieces["<|startoftext|>"] = pieces["<|startoftext|>"], pieces["a"]
    with pytest.raises(VocabularyError, match="is not CLIP's"):
        load_tokenizer(write(tmp_path, pieces))


@pytest.mark.parametrize("where", ["nowhere", "./no/where", "empty", "file.txt"])
def test_a_place_without_a_tokenizer_says_what_is_expected(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.txt").touch()
    with pytest.raises(VocabularyError) as caught:
        load_tokenizer(where)
    assert all(name in str(caught.value) for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_fetched(folders, monkeypatch):
    def snapshot_download(name, allow_patterns):
        assert name == "openai/clip-vit-base-patch32"
        assert sorted(allow_patterns) == ["merges.txt", "tokenizer.json", "vocab.json"]
        return str(folders[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert list(load_tokenizer("openai/clip-vit-base-patch32")("the cat")) == oracle("the cat")


def test_a_hub_name_that_cannot_be_had_says_what_to_fetch(monkeypatch):
    def snapshot_download(name, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(VocabularyError, match=r"vocab\.json and merges\.txt of openai/clip") as caught:
        load_tokenizer("openai/clip-vit-base-patch32")
    assert "\n" not in str(caught.value)


def test_importing_the_modules_imports_no_tokenizer_library():
    libraries = {"transformers", "tokenizers", "huggingface_hub", "instant_clip_tokenizer", "ftfy"}
    command = f"import sys, ifseg_jax.vocabulary, lseg_jax.tokenizers; print({libraries} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- rows -------------------------------------------------------------------------------------------------------------

START, END = 48, 49


@given(ids=st.lists(st.integers(0, 47), max_size=12), padding=st.integers(0, 3))
def test_start_and_end_tokens_and_padding_are_optional(ids, padding):
    rows = [ids, [START, *ids], [*ids, END, *[0] * padding], [START, *ids, END, *[0] * padding]]
    rows.append([START, *ids, END, *[END] * padding])
    found = tokenize([""] * 5, lambda _: rows.pop(), context=8, vocabulary=50)
    kept = ids[:6]
    expected = [START, *kept, END] + [0] * (6 - len(kept))
    np.testing.assert_array_equal(found, [expected] * 5)


def test_no_labels_have_no_rows():
    assert tokenize([], list, context=5).shape == (0, 5)


def test_arrays_are_ids():
    found = tokenize(["x"], lambda _: np.array([7, 8], np.int64), context=5, vocabulary=50)
    assert found.tolist() == [[START, 7, 8, END, 0]]


def test_one_warning_tells_of_all_labels_that_are_cut(caplog):
    labels = ["aaa", "b" * 500, "c" * 4]
    with caplog.at_level(logging.WARNING, LOGGER):
        found = tokenize(labels, lambda text: [1] * len(text), context=5, vocabulary=50)
    assert found.tolist() == [[START, 1, 1, 1, END]] * 3
    (record,) = caplog.records
    assert record.name == LOGGER
    message = record.getMessage()
    assert "2 of 3 labels" in message and "3 tokens" in message and "'bbb" in message and len(message) < 120


def test_labels_that_just_fit_give_no_warning(caplog):
    tokenize(["aaa"], lambda text: [1] * len(text), context=5, vocabulary=50)
    assert not caplog.records


@pytest.mark.parametrize("outside", [-1, 50, 49408])
def test_ids_of_another_vocabulary_are_refused(outside):
    with pytest.raises(VocabularyError, match=rf"id {outside} for 'dog'.*0 to 49"):
        tokenize(["cat", "dog"], lambda text: [3, outside] if text == "dog" else [3], vocabulary=50)


@pytest.mark.parametrize("returned", [[1.5], ["4"], "45", None, [[4]], {"input_ids": [4]}, np.zeros((1, 77), int)])
def test_what_is_not_a_list_of_ids_is_refused(returned):
    with pytest.raises(VocabularyError, match=r"'dog'.*must return") as caught:
        tokenize(["dog"], lambda _: returned)
    assert "\n" not in str(caught.value)
