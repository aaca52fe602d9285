"""Files of features know what they are of; image tokens are compared with words as the encoder reads both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.pretrain import features
from ifseg_jax.pretrain.boxes import boxes_of
from ifseg_jax.pretrain.features import FEATURES_FILE, digest, photographs
from ifseg_jax.pretrain.photographs import SHARPNESS, answers
from ifseg_jax.pretrain.regions import ANSWER, Asked
from vlseg.data.examples import Example

CONFIG = OFAConfig(
    width=16, ffn_width=16, heads=2, encoder_layers=1, decoder_layers=1, backbone="efficientnet", vocabulary_size=12,
    image_grid=4, segmentation_grid=4, image_bucket=4, token_bucket=8, max_positions=32, remat="none", query_blocks=1,
)  # fmt: skip


class Photographs(list):
    """Pictures with label maps as a data set."""

    names, ignore_label = ("background", "hair"), 255


@pytest.fixture
def dataset():
    label = np.zeros((64, 32), np.int32)
    label[8:24, 4:20], label[0] = 1, 255
    pictures = [np.full((64, 32, 3), value, np.uint8) for value in (10, 200)]
    return Photographs(Example(picture, label, str(number)) for number, picture in enumerate(pictures))


@pytest.fixture
def computed(monkeypatch):
    """Stands for the backbone: a feature is the picture's value and the short side; calls are listed."""
    calls = []

    def compute(config, variables, image, short_side):
        calls.append(short_side)
        return np.full((2, 4, 2, 3), int(image[0, 0, 0]) + short_side, np.float16)

    monkeypatch.setattr(features, "_features", compute)
    return calls


def test_features_are_computed_once(dataset, computed, tmp_path, capsys):
    made_of = {"source": {"names": ["hair"]}, "encoder": {"sha256": "1"}}
    first, again = (photographs(dataset, CONFIG, {}, 32, made_of, tmp_path) for _ in range(2))
    assert computed == [32, 32] and capsys.readouterr().out == ""
    boxes = boxes_of(np.where(dataset[0].label == 255, -1, dataset[0].label), 2)
    for found in (first, again):
        assert [each.features[0, 0, 0, 0] for each in found] == [42, 232]
        for each in found:
            assert np.array_equal(each.boxes.words, boxes.words) and np.array_equal(each.boxes.corners, boxes.corners)


@pytest.mark.parametrize("change", ["source", "encoder", "short_side", "foreign", "broken"])
def test_features_of_something_else_are_computed_again(change, dataset, computed, tmp_path, capsys):
    made_of = {"source": {"names": ["hair"]}, "encoder": {"sha256": "1"}}
    photographs(dataset, CONFIG, {}, 32, made_of, tmp_path)
    short_side = 32
    if change == "short_side":
        short_side = 64
    elif change == "foreign":  # such as a version before this one wrote
        np.savez(tmp_path / FEATURES_FILE, features0=np.zeros(3), words0=np.zeros(1))
    elif change == "broken":
        (tmp_path / FEATURES_FILE).write_bytes(b"PK\3\4 no archive")
    else:
        made_of |= {change: {"sha256": "2"}}
    computed.clear()
    found = photographs(dataset, CONFIG, {}, short_side, made_of, tmp_path)
    assert computed == [short_side] * 2
    assert found[1].features[0, 0, 0, 0] == 200 + short_side
    assert "computed again" in capsys.readouterr().out
    photographs(dataset, CONFIG, {}, short_side, made_of, tmp_path)
    assert len(computed) == 2


def test_digests_tell_arrays_apart():
    one = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2)}
    assert digest(one) == digest(dict(reversed(one.items())))
    others = [
        {**one, "a": one["a"].reshape(2, 3)},
        {**one, "a": one["a"].view(np.int32)},
        {**one, "a": one["a"] + np.eye(1, 6, 2, dtype=np.float32)[0] * 1e-3},
        {"a": one["a"], "c": one["b"]},
    ]
    assert len({digest(one), *map(digest, others)}) == 5


def test_image_tokens_like_words_are_named_by_them():
    """A projection that maps one-hot features to word embeddings: each token has its word's name, at full sharpness."""
    model = OFA(CONFIG)
    names = jnp.asarray([5, 9, 7])
    shown = jnp.full((1, 4, 4), -1)
    named = np.random.default_rng(0).integers(3, size=(1, 4, 4))
    words = jnp.zeros((1, ANSWER), jnp.int32)
    asked = Asked(jax.nn.one_hot(named, 3), shown, shown, words, words, words, jnp.zeros((1, ANSWER)))
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, asked, names, method=answers)
    params = variables["params"]
    params["word_embedding"]["table"] = params["word_embedding"]["table"] * 50
    kernel = params["word_embedding"]["table"][names]
    params["encoder"]["image_projection"] = {"kernel": kernel, "bias": jnp.zeros(CONFIG.width)}
    logits, alike = model.apply({"params": params}, asked, names, method=answers, rngs={"dropout": jax.random.key(2)})
    assert logits.shape == (1, ANSWER, CONFIG.vocabulary_size) and alike.shape == (1, 4, 4, 3)
    np.testing.assert_array_equal(alike.argmax(-1), named)
    np.testing.assert_allclose(alike.max(-1), SHARPNESS, rtol=1e-5)
    # Cosines of layer-normalised sums with the type embedding, written out.
    read = np.asarray(kernel + params["encoder"]["type_embedding"][1], np.float64)
    read = (read - read.mean(-1, keepdims=True)) / read.std(-1, keepdims=True)
    read /= np.linalg.norm(read, axis=-1, keepdims=True)
    np.testing.assert_allclose(alike, SHARPNESS * (read @ read.T)[named], atol=1e-3)
