"""An EfficientNet-Lite in the place of the ResNet: its tokens, padded buckets, files, and what cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import checkpoint, flops, inference, objective
from ifseg_jax.config import OFAConfig
from ifseg_jax.model import load
from ifseg_jax.settings import Adaptation
from ifseg_jax.verification import VERIFICATION
from tests import micro
from vlseg.checkpoints import rules
from vlseg.errors import ConfigError
from vlseg.nn import efficientnet
from vlseg.nn.efficientnet import EfficientNet

CONFIG = dataclasses.replace(
    micro.IFSEG, backbone="efficientnet", resnet_stages=OFAConfig.resnet_stages, resnet_width=OFAConfig.resnet_width
)
LABELS = ("grass", "water", "car")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A micro model of this kind on disk."""
    path = tmp_path_factory.mktemp("model") / "model"
    micro.save_ifseg(path, CONFIG, inference={"short_side": 64, "long_side": 160, "knn_iterations": 1})
    return path


@pytest.fixture(scope="module")
def model(directory):
    return load(directory)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_token_is_three_maps(model):
    """Of a picture alone: the mean of the finer map, the map of the token, the coarser one between its centres."""
    image = pixels(1, 64, 96, 3)
    variables = {kind: tree["encoder"]["efficientnet"] for kind, tree in model.variables.items()}
    normal = (image.astype(np.float32) - 127) / 128
    _, fine, middle, coarse = jax.jit(EfficientNet("lite0").apply)(variables, normal)
    found = np.asarray(model.image_features(inference.scaled(image)))
    assert found.shape == (1, 4, 6, CONFIG.feature_width)
    expected = np.asarray(fine).reshape(1, 4, 2, 6, 2, -1).mean(axis=(2, 4))
    np.testing.assert_allclose(found[..., :40], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[..., 40:152], middle, rtol=1e-3, atol=1e-4)
    around = np.asarray(coarse)
    np.testing.assert_allclose(found[0, 0, 0, 152:], around[0, 0, 0], rtol=1e-3, atol=1e-4)
    between = 0.75 * (0.75 * around[0, 0, 0] + 0.25 * around[0, 0, 1]) + 0.25 * (
        0.75 * around[0, 1, 0] + 0.25 * around[0, 1, 1]
    )
    np.testing.assert_allclose(found[0, 1, 1, 152:], between, rtol=1e-3, atol=1e-4)


def test_a_padded_bucket_equals_the_picture_alone(model):
    """Logits and features, whatever the padding holds."""
    image = pixels(1, 64, 96, 3)
    padded = np.full((1, 96, 128, 3), 201, np.uint8)
    padded[:, :64, :96] = image
    words = model.embed(LABELS)
    alone = inference.predict(CONFIG, model.variables, words, jnp.asarray(image))
    inside = inference.predict(CONFIG, model.variables, words, jnp.asarray(padded), jnp.asarray([[64, 96]]))
    assert inside.cells.tolist() == [[4, 6]]
    np.testing.assert_allclose(inside.features[:, :4, :6], alone.features, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(inside.logits[:, :4, :6], alone.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((512, 341), (96, 64)), ((100, 100), (64, 64)), ((64, 1000), (32, 160)), ((9, 4000), (32, 160))],
)
def test_pictures_are_resized_to_multiples_of_32(model, monkeypatch, size, resized):
    """The valid part of a bucket has the size at which padding as in TensorFlow is exact."""
    seen = []

    def stop(images: list[np.ndarray], stride: int, short_side: int) -> None:
        seen.extend(image.shape[:2] for image in images)
        raise InterruptedError

    monkeypatch.setattr(inference, "pad_images", stop)
    with pytest.raises(InterruptedError):
        model.scores([pixels(*size, 3)], model.embed(LABELS), [model.inference], 1)
    assert seen == [resized]


def test_a_directory_holds_it_and_an_official_file_cannot(directory, model, tmp_path):
    model.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.config == CONFIG
    for name, value in rules.flatten(model.variables).items():
        np.testing.assert_array_equal(rules.flatten(again.variables)[name], value, err_msg=name)
    with pytest.raises(ConfigError, match="no model with backbone=efficientnet; export a directory"):
        checkpoint.write_official(tmp_path / "a.pt", model.stored())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg"}, "'vgg' is none of resnet, efficientnet"),
        ({"backbone": "efficientnet", "resnet_width": 32}, "resnet_width=32 has no effect with backbone=efficientnet"),
        ({"efficientnet_variant": "lite1"}, "efficientnet_variant=lite1 has no effect with backbone=resnet"),
        ({"backbone": "efficientnet", "efficientnet_variant": "b0"}, "'b0' is none of lite0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        OFAConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, set()),
        ({"freeze_entire_resnet": False, "freeze_resnet": True}, {"stem", "kernel"}),
        ({"freeze_entire_resnet": False}, {"stem", "kernel", "scale", "bias"}),
    ],
)
def test_what_supervised_training_changes(model, settings, trained):
    found, kept = objective.split(model.variables, CONFIG, Adaptation(**settings))
    ours = {name for name in found if "/efficientnet/" in name}
    assert {name.rsplit("/", 1)[-1] for name in ours} == trained
    assert all("batch_stats" not in name for name in found)
    assert ("params/encoder/image_projection/kernel" in found) == bool(settings)
    assert found.keys() | kept.keys() == rules.flatten(model.variables).keys()


def test_operations():
    assert flops.trunk(CONFIG, 64, 96) == efficientnet.flops("lite0", 64, 96)
    assert flops.image_projection(CONFIG, 24) == 2 * 24 * 472 * CONFIG.width


def test_verify_says_what_it_does_not_compare(model):
    first = next(VERIFICATION.layers(model))
    assert first.passed is None and "not compared" in first.found
