"""The public model: what users call, from labels to overlays."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lseg_jax
from lseg_jax import LSeg, Rejection, Scheme, checkpoint
from tests.commands import picture
from vlseg.errors import CheckpointError, ConfigError, ImageError, StorageError, VocabularyError
from vlseg.labels import NONE

LABELS = ("cat", "a dog", "grass", "sky", "other")


@pytest.fixture(scope="module")
def result(micro_model):
    return micro_model.segment(picture(50, 70), LABELS, top_k=3)


# Labels


@settings(max_examples=5)
@given(order=st.permutations(range(5)))
@pytest.mark.parametrize("name", ["micro_model", "micro_depthwise", "micro_bottleneck"])
def test_the_order_of_labels_does_not_change_the_segmentation(request, name, order):
    model = request.getfixturevalue(name)
    image = picture(50, 70)
    plain = model.segment(image, LABELS, top_k=2)
    permuted = model.segment(image, [LABELS[i] for i in order], top_k=2)
    np.testing.assert_allclose(permuted.top_similarities, plain.top_similarities, rtol=0, atol=1e-5)
    clear = plain.top_similarities[..., 0] - plain.top_similarities[..., 1] > 1e-5
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(np.array(order)[permuted.label_map][clear], plain.label_map[clear])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels"),
        (["cat", " "], "blank"),
        (["cat", "Cat"], "same label"),
        ("cat", "one string"),
        ([1, 2], "not a list of strings"),
    ],
)
def test_labels_that_cannot_be_used(micro_model, labels, message):
    for function in (
        micro_model.names,
        micro_model.encode_text,
        lambda names: micro_model.segment(picture(9, 9), names),
    ):
        with pytest.raises(VocabularyError, match=message):
            function(labels)


def test_a_model_may_have_labels_of_its_own(micro_model):
    for function in (micro_model.names, micro_model.encode_text, lambda: micro_model.segment(picture(9, 9))):
        with pytest.raises(VocabularyError, match="no labels of its own"):
            function()
    model = dataclasses.replace(micro_model, labels=("кот", "猫"))
    assert model.names() == ("кот", "猫") and model.names([" a  b "]) == ("a b",)
    assert model.segment(picture(20, 20)).labels == ("кот", "猫")


def test_a_tokenizer_of_another_model(micro_model):
    foreign = dataclasses.replace(micro_model, tokenizer=lambda text: [64])
    with pytest.raises(VocabularyError, match="the id 64"):
        foreign.encode_text(["cat"])


# Segmentation


def test_segmentation_of_one_image(result):
    assert result.labels == LABELS
    assert result.label_map.shape == (50, 70) and result.label_map.dtype == np.int32
    assert result.top_labels.shape == (50, 70, 3) and result.top_labels.dtype == np.int32
    assert result.top_similarities.shape == (50, 70, 3) and result.top_similarities.dtype == np.float32
    np.testing.assert_array_equal(result.image, picture(50, 70))
    np.testing.assert_array_equal(result.label_map, result.top_labels[..., 0])
    assert (np.diff(result.top_similarities, axis=-1) <= 0).all() and np.abs(result.top_similarities).max() <= 1
    assert (np.diff(np.sort(result.top_labels, axis=-1), axis=-1) > 0).all()
    assert len(np.unique(result.label_map)) > 1
    probabilities = result.probabilities
    assert probabilities.shape == (50, 70, 5) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=0, atol=1e-5)
    best = np.take_along_axis(probabilities, result.label_map[..., None], -1)[..., 0]
    np.testing.assert_allclose(best, probabilities.max(-1), rtol=1e-4)
    overlay = result.overlay()
    assert overlay.width >= 70 and overlay.height >= 50


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 2000), (2000, 3), (9, 120), (129, 40)])
def test_images_of_any_size(micro_model, size):
    found = micro_model.segment(Image.fromarray(picture(*size)), LABELS)
    assert found.label_map.shape == size and (found.label_map >= 0).all()
    assert found.overlay().width >= size[1] and found.overlay().height >= size[0]


@pytest.mark.parametrize("top_k", [0, -1, 6])
def test_as_many_best_labels_as_there_are(micro_model, top_k):
    with pytest.raises(ConfigError, match=f"top_k is {top_k}; .* from 1 to the number of labels, 5"):
        micro_model.segment(picture(20, 20), LABELS, top_k=top_k)


# Rejection


def test_rejection(micro_model, result):
    best, second = result.top_similarities[..., 0], result.top_similarities[..., 1]
    least, lead = float(np.median(best)), float(np.median(best - second))
    for rejection, rejected in (
        (Rejection(min_similarity=least), best < np.float32(least)),
        (Rejection(min_margin=lead), best - second < np.float32(lead)),
        (Rejection(least, lead), (best < np.float32(least)) | (best - second < np.float32(lead))),
        (Rejection(min_similarity=-2.0), np.zeros_like(best, bool)),
        (Rejection(min_similarity=2.0), np.ones_like(best, bool)),
    ):
        found = micro_model.segment(picture(50, 70), LABELS, rejection=rejection)
        assert found.labels == (*LABELS, NONE) and found.label_map.dtype == np.int32
        np.testing.assert_array_equal(found.label_map, np.where(rejected, 5, result.label_map))
        assert found.top_labels.shape == (50, 70, 1)
        np.testing.assert_array_equal(found.top_labels[..., 0], result.label_map)
        assert found.probabilities.shape == (50, 70, 5)
        assert found.overlay().height >= 50


def test_a_single_label_has_no_rival(micro_model):
    found = micro_model.segment(picture(20, 20), ["cat"], rejection=Rejection(min_margin=0.5))
    assert found.labels == ("cat", NONE) and (found.label_map == 0).all()
    assert not Rejection() and Rejection(min_similarity=0.0) and Rejection(min_margin=0.0)


def test_the_word_for_rejected_pixels_is_taken(micro_model):
    with pytest.raises(VocabularyError, match=NONE):
        micro_model.segment(picture(20, 20), ["cat", NONE.upper()], rejection=Rejection(0.1))
    assert micro_model.segment(picture(20, 20), ["cat", NONE]).labels == ("cat", NONE)


# Arrays


def test_embeddings_of_pixels(micro_model):
    images = np.stack([picture(64, 64), picture(64, 64, 1)])
    embeddings = micro_model.encode_pixels(images)
    assert embeddings.shape == (2, 32, 32, 24) and embeddings.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(micro_model.encode_pixels(images / 127.5 - 1), embeddings, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((1, 64, 48, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.int32),
        np.zeros((1, 64, 64, 3), bool),
    ],
)
def test_arrays_that_are_no_images(micro_model, images):
    for function in (micro_model.encode_pixels, lambda images: micro_model.logits(images, LABELS)):
        with pytest.raises(ImageError):
            function(images)


@pytest.mark.parametrize(
    ("size", "long_side", "expected"), [((50, 70), None, (64, 64)), ((50, 150), 96, (32, 96)), ((90, 9), 64, (64, 32))]
)
def test_a_whole_image_as_the_encoder_takes_it(micro_model, micro_resnet, size, long_side, expected):
    images = micro_model.preprocess(picture(*size), long_side)
    assert images.shape == (1, *expected, 3) and images.dtype == jnp.float32
    image = picture(*size) / 255
    corners = images[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    wanted = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, (wanted - 0.5) / 0.5, rtol=0, atol=1e-5)
    corners = micro_resnet.preprocess(picture(*size), long_side)[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    wanted = (wanted - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(corners, wanted, rtol=0, atol=1e-5)


# Saving and loading


def assert_equal(one: LSeg, other: LSeg) -> None:
    for model in (one, other):
        assert {value.dtype for value in jax.tree.leaves(model.variables)} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, dict(one.variables), dict(other.variables))


def test_round_trip_keeps_everything(micro_bottleneck, tmp_path):
    scheme = Scheme(100, 96, 0.5, (0.5, 1.25), True)
    model = dataclasses.replace(micro_bottleneck, inference=scheme, labels=LABELS)
    model.save(tmp_path / "model")
    again = lseg_jax.load(tmp_path / "model", tokenizer=model.tokenizer)
    assert (again.config, again.inference, again.labels) == (model.config, scheme, LABELS)
    assert_equal(again, model)
    with pytest.raises(StorageError, match="exists already"):
        model.save(tmp_path / "model")
    dataclasses.replace(again, labels=("cat",)).save(tmp_path / "model", overwrite=True)
    assert lseg_jax.load(tmp_path / "model").labels == ("cat",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_loading_an_official_checkpoint(micro_depthwise, tmp_path):
    checkpoint.write_official(tmp_path / "a.ckpt", micro_depthwise.stored())
    model = lseg_jax.load(tmp_path / "a.ckpt", dtype="bfloat16")
    assert model.config == dataclasses.replace(micro_depthwise.config, dtype="bfloat16")
    assert (model.inference, model.labels, model.tokenizer) == (Scheme(), (), None)
    assert_equal(model, micro_depthwise)


def test_load_refuses(micro_model, tmp_path):
    with pytest.raises(ConfigError, match="'int8' is none of"):
        lseg_jax.load(tmp_path, dtype="int8")
    with pytest.raises(CheckpointError, match="neither a file, a directory nor one of tiny, clothing"):
        lseg_jax.load(tmp_path / "absent")
    micro_model.save(tmp_path / "model")
    with pytest.raises(VocabularyError, match="no tokenizer directory"):
        lseg_jax.load(tmp_path / "model", tokenizer=str(tmp_path / "absent"))
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content["model"]["image"]["kind"] == "vit" and content["labels"] == []
