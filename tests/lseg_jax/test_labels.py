"""Embeddings of labels: what is cut off and filled up, and what is kept on disk."""

import dataclasses
import logging

import numpy as np
import pytest

from lseg_jax import labels as label_cache
from lseg_jax.config import LSegConfig, SentenceConfig
from lseg_jax.encoders import clip, minilm
from lseg_jax.tokenizers import tokenize

LABELS = ("cat", "a dog on the grass", "other", "дерево", "w" * 30)


@pytest.fixture
def runs(monkeypatch):
    """Shapes of the tokens that the text encoder has run on."""
    shapes = []
    encode = clip._encode

    def counting(config, variables, tokens):
        shapes.append(tokens.shape)
        return encode(config, variables, tokens)

    monkeypatch.setattr(clip, "_encode", counting)
    return shapes


def tokens_of(model, labels):
    settings = model.config.text
    return tokenize(labels, model.tokenizer, context=settings.context, vocabulary=settings.vocabulary)


def whole(model, labels):
    """Embeddings of rows of full length, all in one batch."""
    return np.asarray(clip._encode(model.config.text, {"params": model.variables["params"]["text"]}, labels))


def test_embeddings_have_unit_length(micro_model):
    embeddings = micro_model.encode_text(LABELS)
    assert embeddings.shape == (5, 24) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1.0, rtol=0, atol=1e-5)
    similarities = np.asarray(embeddings @ embeddings.T)
    assert similarities[~np.eye(5, dtype=bool)].max() < 0.999


def test_a_permutation_of_labels_is_one_of_embeddings(micro_model):
    order = [3, 0, 4, 2, 1]
    permuted = micro_model.encode_text([LABELS[i] for i in order])
    np.testing.assert_allclose(permuted, micro_model.encode_text(LABELS)[np.array(order)], rtol=0, atol=1e-6)


def test_embeddings_are_kept(micro_model, runs, cache):
    first = micro_model.encode_text(LABELS)
    assert len(runs) == 1 and len(list((cache / "labels").iterdir())) == 1
    second = dataclasses.replace(micro_model).encode_text(LABELS)
    np.testing.assert_array_equal(first, second)
    assert len(runs) == 1


def test_what_differs_is_kept_apart(micro_model, runs, cache):
    found = [micro_model.encode_text(LABELS)]
    found += [micro_model.encode_text(names) for names in (LABELS[::-1], LABELS[:4], ("Cat", *LABELS[1:]))]
    params = micro_model.variables["params"]
    layers = params["text"]["layers"]
    bias = layers["fc2"]["bias"]
    changed = params["text"] | {"layers": layers | {"fc2": layers["fc2"] | {"bias": bias.at[1, 5].add(1.0)}}}
    variables = {**micro_model.variables, "params": params | {"text": changed}}
    found.append(dataclasses.replace(micro_model, variables=variables).encode_text(LABELS))
    # The number of heads shows in no weight.
    heads = dataclasses.replace(micro_model.config, text=dataclasses.replace(micro_model.config.text, heads=2))
    found.append(dataclasses.replace(micro_model, config=heads).encode_text(LABELS))
    assert len(runs) == len(found) == len(list((cache / "labels").iterdir()))
    for other in found[3:]:
        assert not np.allclose(other, found[0], atol=1e-4)


def test_the_image_encoder_does_not_count(micro_model, micro_depthwise, runs):
    shared = {**micro_depthwise.variables["params"], "text": micro_model.variables["params"]["text"]}
    other = dataclasses.replace(micro_depthwise, variables={**micro_depthwise.variables, "params": shared})
    np.testing.assert_array_equal(micro_model.encode_text(LABELS), other.encode_text(LABELS))
    assert len(runs) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-7],
        lambda content: content[:40],
        lambda content: b"PK\x03\x04" + content[4:],
        lambda content: content.replace(b"(5, 24)", b"(5, 24 "),
        lambda content: content.replace(b"(5, 24)", b"(4, 30)"),
        lambda content: content.replace(b"(5, 24)", b"(9**9,)"),
        lambda content: content.replace(b"<f4", b"<i4"),
        lambda content: content.replace(b"<f4", b"|O "),
        lambda content: b"text" * 100,
    ],
)
def test_damaged_files_are_made_anew(micro_model, runs, cache, damage):
    expected = micro_model.encode_text(LABELS)
    (file,) = (cache / "labels").iterdir()
    content = file.read_bytes()
    assert damage(content) != content
    file.write_bytes(damage(content))
    np.testing.assert_array_equal(micro_model.encode_text(LABELS), expected)
    assert len(runs) == 2 and file.read_bytes() == content
    micro_model.encode_text(LABELS)
    assert len(runs) == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(micro_model, runs, monkeypatch, tmp_path):
    expected = micro_model.encode_text(LABELS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        np.testing.assert_array_equal(micro_model.encode_text(LABELS), expected)
    assert len(runs) == 3


def test_neither_cutting_nor_filling_changes_embeddings(micro_model, runs):
    """Against rows of full length; batches are powers of two, lengths are as short as the longest label allows."""
    labels = [f"{'very ' * (i % 7)}{i}" for i in range(70)]
    tokens = tokens_of(micro_model, labels)
    found = micro_model.encode_text(labels)
    assert [rows for rows, _ in runs] == [64, 8] and max(length for _, length in runs) <= 40
    np.testing.assert_allclose(found, whole(micro_model, tokens), rtol=0, atol=1e-5)
    short = tokens_of(micro_model, ["cat", "dog", "cow"])
    found = micro_model.encode_text(["cat", "dog", "cow"])
    rows, length = runs[-1]
    assert rows == 4 and length <= 16
    np.testing.assert_allclose(found, whole(micro_model, short), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 127])
def test_batches_hold_every_row_once(count):
    tokens = np.zeros((count, 77), np.int32)
    tokens[:, 0], tokens[:, 1] = np.arange(count), 49407
    parts = [(rows, number) for rows, number in clip.batches(tokens)]
    for rows, number in parts:
        assert len(rows) == 1 << (number - 1).bit_length() and rows.shape[1] <= 16
        np.testing.assert_array_equal(rows[number:], np.broadcast_to(rows[number - 1], rows[number:].shape))
    found = np.concatenate([rows[:number, :2] for rows, number in parts])
    np.testing.assert_array_equal(found, tokens[:, :2])


def test_a_text_of_full_length_is_not_cut():
    tokens = np.full((2, 77), 5, np.int32)
    tokens[0, 3] = tokens[1, 76] = 49407
    ((rows, number),) = clip.batches(tokens)
    assert number == 2
    np.testing.assert_array_equal(rows, tokens)


def test_chunks_are_as_one_piece(micro_model, runs, cache, monkeypatch):
    labels = [f"label {i}" for i in range(11)]
    expected = micro_model.encode_text(labels)
    monkeypatch.setattr(label_cache, "CHUNK", 4)
    np.testing.assert_allclose(micro_model.encode_text(labels), expected, rtol=0, atol=1e-6)
    assert len(list((cache / "labels").iterdir())) == 1 + 3
    # What two lists begin with is encoded once.
    count = len(runs)
    micro_model.encode_text([*labels[:8], "another"])
    assert len(runs) == count + 1


def test_labels_that_are_too_long_are_cut_with_one_warning(micro_model, caplog):
    with caplog.at_level(logging.WARNING):
        found = micro_model.encode_text(["x" * 50, "y" * 60, "cat"])
    (record,) = caplog.records
    assert "2 of 3 labels are longer than 38 tokens" in record.getMessage()
    np.testing.assert_allclose(found[0], micro_model.encode_text(["x" * 38])[0], rtol=0, atol=1e-6)


@dataclasses.dataclass
class Sentences:
    """A sentence encoder that counts."""

    identity: str = "sentences 1"
    runs: int = 0

    def encode(self, labels):
        self.runs += 1
        return np.array([[len(label)] * minilm.WIDTH for label in labels], np.float32)


def test_sentences_are_kept_too(micro_model, monkeypatch):
    encoder = Sentences()
    monkeypatch.setattr(minilm, "load_sentence_encoder", lambda: encoder)
    model = dataclasses.replace(micro_model, config=LSegConfig(SentenceConfig(), micro_model.config.image))
    for _ in range(2):
        np.testing.assert_array_equal(model.encode_text(["cat", "gräs", "\ud800"])[:, 0], [3, 4, 1])
    assert encoder.runs == 1
    encoder.identity = "sentences 2"
    dataclasses.replace(model).encode_text(["cat", "gräs", "\ud800"])
    assert encoder.runs == 2
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, template="a {} {0}"))
    np.testing.assert_array_equal(model.encode_text(["cat", "{}"])[:, 0], [9, 8])
    # Where one label ends and the next begins counts.
    for labels, lengths in ((["a\0b", "c"], [3, 1]), (["a", "b\0c"], [1, 3])):
        np.testing.assert_array_equal(model.config.text.embed(labels, {}, "test")[:, 0], lengths)
