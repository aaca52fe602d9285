"""An EfficientNet-Lite in the place of the ResNet: its tokens, padded buckets, files, and what cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import checkpoint, flops, inference, objective
from ifseg_jax.backbone import EfficientNetTokens, read_image_encoder
from ifseg_jax.config import OFAConfig
from ifseg_jax.model import load
from ifseg_jax.settings import Adaptation
from ifseg_jax.verification import VERIFICATION
from tests import efficientnets, micro
from vlseg import torch_files
from vlseg.checkpoints import efficientnet as weights
from vlseg.checkpoints import rules
from vlseg.errors import CheckpointError, ConfigError
from vlseg.nn import efficientnet
from vlseg.nn.efficientnet import EfficientNet

UNCHANGED = {"resnet_stages": OFAConfig.resnet_stages, "resnet_width": OFAConfig.resnet_width}
CONFIG = dataclasses.replace(micro.IFSEG, backbone="efficientnet", **UNCHANGED)
LABELS = ("grass", "water", "car")


@pytest.fixture(scope="module")
def config(micro_efficientnet):
    return dataclasses.replace(CONFIG, efficientnet_variant=micro_efficientnet)


@pytest.fixture(scope="module")
def directory(config, tmp_path_factory):
    """A micro model of this kind on disk."""
    path = tmp_path_factory.mktemp("model") / "model"
    micro.save_ifseg(path, config, inference={"short_side": 64, "long_side": 160, "knn_iterations": 1})
    return path


@pytest.fixture(scope="module")
def model(directory):
    return load(directory)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def maps(monkeypatch):
    """Maps of an image of 64 x 96 pixels in place of the network's, and a function from images to tokens.

    It also returns the pixels that the network was given.
    """
    rng, seen = np.random.default_rng(1), []
    found = [rng.standard_normal((1, 64 // s, 96 // s, 4), np.float32) for s in (4, 8, 16, 32)]

    def network(self: EfficientNet, x: jax.Array, size: jax.Array | None = None, *, train: bool) -> list[jax.Array]:
        seen.append(x)
        grown = [(0, 0), (0, (x.shape[1] - 64) // 4), (0, (x.shape[2] - 96) // 4), (0, 0)]
        pads = [[(a, b // (2**level)) for a, b in grown] for level in range(4)]
        return [jnp.asarray(np.pad(each, pad, constant_values=9)) for each, pad in zip(found, pads, strict=True)]

    monkeypatch.setattr(EfficientNet, "__call__", network)

    @jax.jit
    def tokens(image: jax.Array, size: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        (joined,) = EfficientNetTokens()(image, size)
        return joined, seen[-1]

    return found, tokens


def test_a_token_is_three_maps(maps):
    """The mean of the finer map, the map of the token, and the coarser one between its centres."""
    (_, fine, middle, coarse), tokens = maps
    image = pixels(1, 64, 96, 3)
    found, seen = tokens(image / np.float32(127.5) - 1)
    np.testing.assert_allclose(seen, (image.astype(np.float32) - 127) / 128, atol=1e-5)
    assert found.shape == (1, 4, 6, 12)
    np.testing.assert_allclose(found[..., :4], fine.reshape(1, 4, 2, 6, 2, 4).mean(axis=(2, 4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[..., 4:8], middle)
    for row, column in np.ndindex(4, 6):
        y, x = (np.clip((place + 0.5) / 2 - 0.5, 0, side - 1) for place, side in ((row, 2), (column, 3)))
        above, left = int(y), int(x)
        below, right = min(above + 1, 1), min(left + 1, 2)
        expected = (1 - y % 1) * ((1 - x % 1) * coarse[0, above, left] + x % 1 * coarse[0, above, right])
        expected += y % 1 * ((1 - x % 1) * coarse[0, below, left] + x % 1 * coarse[0, below, right])
        np.testing.assert_allclose(found[0, row, column, 8:], expected, rtol=1e-4, atol=1e-5)


def test_padding_does_not_reach_tokens(maps):
    """Maps of a padded bucket hold anything outside of the valid part."""
    _, tokens = maps
    alone, _ = tokens(np.zeros((1, 64, 96, 3), np.float32))
    inside, _ = tokens(np.zeros((1, 128, 128, 3), np.float32), np.asarray([[64, 96]]))
    assert inside.shape == (1, 8, 8, 12)
    np.testing.assert_allclose(inside[:, :4, :6], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_padded_bucket_equals_the_picture_alone(config, model):
    """Logits and features, whatever the padding holds."""
    image = pixels(1, 64, 96, 3)
    padded = np.full((1, 96, 128, 3), 201, np.uint8)
    padded[:, :64, :96] = image
    words = model.embed(LABELS)
    alone = inference.predict(config, model.variables, words, jnp.asarray(image))
    inside = inference.predict(config, model.variables, words, jnp.asarray(padded), jnp.asarray([[64, 96]]))
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


def test_a_directory_holds_it_and_an_official_file_cannot(config, model, tmp_path):
    model.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.config == config
    stored = rules.flatten(again.variables)
    for name, value in rules.flatten(model.variables).items():
        np.testing.assert_array_equal(stored[name], value, err_msg=name)
    with pytest.raises(ConfigError, match="no model with backbone=efficientnet; export a directory"):
        checkpoint.write_official(tmp_path / "a.pt", model.stored())


def test_published_weights_of_either_form(config, tmp_path, monkeypatch):
    """By the name of a package, and from a file by timm's names."""
    state = efficientnets.state(config.efficientnet_variant)
    table = weights.rules(config.efficientnet_variant, "encoder/efficientnet")
    expected = {rule.path: rule.layout.to_ours(state[rule.official]) for rule in table}
    assert expected.keys() == {name for name in checkpoint.parameter_shapes(config) if "/efficientnet/" in name}
    torch_files.save(tmp_path / "timm.pth", efficientnets.timm_state(config.efficientnet_variant))
    efficientnets.install(monkeypatch, tmp_path / "packages", state)
    for source in ("efficientnet_lite0", str(tmp_path / "timm.pth")):
        found = read_image_encoder(source, config)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_weights_of_something_else_are_refused(tmp_path):
    timm, squeezed = efficientnets.timm_state(), efficientnets.squeezed_state()
    lacking = {name: value for name, value in timm.items() if name != "bn1.bias"}
    folder = tmp_path / "folder"
    folder.mkdir()
    torch_files.save(folder / "pytorch_model.bin", timm)
    (folder / "config.json").write_text('{"architecture": "efficientnet_lite0"}')
    for name, state in {"lite0": timm, "b0": squeezed, "lacking": lacking, "other": {"a.weight": np.ones(3)}}.items():
        torch_files.save(tmp_path / f"{name}.pth", state)
    larger = dataclasses.replace(CONFIG, efficientnet_variant="lite1")
    for source, config, message in (
        (
            "lite0.pth",
            larger,
            r"lite0\.pth: this is EfficientNet-lite0; the model's is lite1: give weights of",
        ),
        ("b0.pth", CONFIG, r"b0\.pth: this is an EfficientNet-B0, which squeezes and excites"),
        ("lacking.pth", CONFIG, "missing: bn1.bias"),
        (
            "other.pth",
            CONFIG,
            "something unknown with the names a.weight; what is expected here is an Effi",
        ),
        ("folder", CONFIG, "this is timm's own efficientnet_lite0"),
        ("none.pth", CONFIG, "no such file; by name there are efficientnet_lite0, efficientnet_lite1"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            read_image_encoder(str(tmp_path / source), config)
        assert "\n" not in str(error.value)


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
def test_what_supervised_training_changes(config, model, settings, trained):
    found, kept = objective.split(model.variables, config, Adaptation(**settings))
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
