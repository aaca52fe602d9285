"""EfficientNet-Lite against recorded outputs and gradients of timm's (`golden/record_efficientnet.py`)."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lseg_jax import checkpoint, settings, training, verification
from lseg_jax.config import LSegConfig, SentenceConfig
from lseg_jax.encoders import read_image
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.model import LSeg
from lseg_jax.verification import VERIFICATION
from tests import golden_weights, micro
from tests.lseg_jax.golden import record_efficientnet as recorder
from tests.lseg_jax.golden import record_lite0
from vlseg import torch_files
from vlseg.checkpoints import efficientnet as names
from vlseg.checkpoints import rules
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.errors import CheckpointError, ConfigError
from vlseg.nn import efficientnet, numpy_layers

CONFIG = EfficientNetConfig()
TRAINED = dataclasses.replace(CONFIG, norms="trained")


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(recorder.__file__).with_name("efficientnet.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def specs(recorded):
    """Shapes by timm's names, of every size."""
    return json.loads(str(recorded["meta"]))["spec"]


@pytest.fixture(scope="module")
def state(specs):
    """The state dict of lite0 by timm's names."""
    return {name: golden_weights.tensor(name, tuple(shape)) for name, shape in specs["lite0"].items()}


@pytest.fixture(scope="module")
def variables(state, tmp_path_factory):
    """Our variables from a file with it, in the format of old versions of PyTorch's successor."""
    path = tmp_path_factory.mktemp("timm") / "lite0.pth"
    torch_files.save(path, {**state, "bn1.num_batches_tracked": np.array(3)})
    config, variables = read_image(path)
    assert config == CONFIG
    return {kind: tree["image"] for kind, tree in variables.items()}


@pytest.fixture(scope="module")
def small(micro_efficientnet):
    """A model with a network of half the blocks."""
    config = LSegConfig(SentenceConfig(), EfficientNetConfig(micro_efficientnet), features=8)
    return LSeg(config, micro.variables(checkpoint.parameter_shapes(config)))


@functools.cache
def shapes_of(variant):
    """Our parameters of a size, by path: shapes without values."""
    module = EfficientNetConfig(variant).module()
    return rules.flatten(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def encoder_of(model):
    """The variables of its image encoder alone."""
    return {kind: tree["image"] for kind, tree in model.variables.items() if "image" in tree}


def renamed(state, variant="lite0"):
    """The state dict by the names of EfficientNet-PyTorch, with the classifier that it has."""
    known = names.timm_names(len(efficientnet.blocks(variant)))
    ours = {official: state[theirs] for official, theirs in known.items()}
    return ours | {"_fc.weight": np.ones((3, 1280), np.float32), "_conv_head.weight": np.ones((1280, 320, 1, 1), "f4")}


def by_timms_names(variables):
    """The state dict of our variables of lite0."""
    flat = rules.flatten({kind: {"image": tree} for kind, tree in variables.items()})
    known = names.timm_names(len(efficientnet.blocks("lite0")))
    return {known[rule.official]: rule.layout.to_official(np.asarray(flat[rule.path])) for rule in CONFIG.rules()}


@functools.cache
def levels_of(config, train=False):
    """Levels of images and the statistics afterwards, as a model computes them."""

    def run(module, images):
        return config.levels(module, [], images, train=train)

    return jax.jit(
        lambda variables, images: config.module().apply(variables, images, method=run, mutable=["batch_stats"])
    )


@pytest.mark.parametrize("name", list(recorder.SIZES))
def test_has_the_levels_of_timm(recorded, variables, name):
    found, _ = levels_of(CONFIG)(variables, recorder.images(name))
    for number, (level, channels) in enumerate(zip(found, CONFIG.channels, strict=True)):
        expected = recorded[f"{name}_{number}"]
        assert level.shape == expected.shape and level.shape[-1] == channels
        np.testing.assert_allclose(level, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_published_weights_have_the_levels_of_timm():
    """Of the package that the requirements name; `golden/record_lite0.py` says what was recorded of which images."""
    recorded = json.loads(Path(record_lite0.__file__).with_name("lite0.json").read_text())
    assert names.WEIGHTS["efficientnet_lite0"].sha256 == recorded["sha256"]
    config, variables = read_image("efficientnet_lite0")
    images = record_lite0.images()
    assert images.shape == recorder.images("even").shape  # one program with theirs
    found, _ = levels_of(config)({kind: tree["image"] for kind, tree in variables.items()}, images)
    for level, expected in zip(found, recorded["levels"], strict=True):
        ours, scale = record_lite0.described(level), expected["deviation"]
        assert ours["shape"] == expected["shape"]
        assert ours["deviation"] == pytest.approx(scale, rel=1e-5)
        assert ours["mean"] == pytest.approx(expected["mean"], abs=1e-5 * scale)
        np.testing.assert_allclose(ours["values"], expected["values"], rtol=0, atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, TRAINED], ids=lambda config: config.norms)
def test_has_the_gradients_of_pytorch(recorded, specs, variables, config):
    """In float64 on both sides: batch statistics of few positions amplify rounding, float32's to 1.5 % of a norm."""
    images, module = recorder.images("even").astype(np.float64), config.module("float64")

    def run(module, images):
        return config.levels(module, [], images, train=True)

    def objective(params, statistics):
        levels, changed = module.apply(
            {"params": params, "batch_stats": statistics}, images, method=run, mutable=["batch_stats"]
        )
        total = jnp.float64(0)
        for number, level in enumerate(levels):
            assert level.dtype == jnp.float64
            total += jnp.vdot(level, recorder.probe(f"level {number}", level.shape), precision="highest")
        return total, changed

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), dict(variables))
        gradient, changed = jax.jit(jax.grad(objective, has_aux=True))(wide["params"], wide["batch_stats"])
    theirs = by_timms_names({"params": gradient, "batch_stats": changed["batch_stats"]})
    wanted = recorder.parameters(specs["lite0"])
    summaries = np.asarray([recorder.summary(name, theirs[name]) for name in wanted])
    expected = recorded[config.norms]
    # A product with normal numbers is as uncertain as the norm is long. Of an offset before another norm the gradient
    # is zero.
    assert (np.abs(summaries - expected) <= 1e-7 * expected[:, :1] + 1e-7).all()
    if config.norms == "trained":
        after = [recorder.summary(name, theirs[name]) for name in recorder.statistics_names(specs["lite0"])]
        np.testing.assert_allclose(after, recorded["statistics"], rtol=1e-7, atol=1e-7)
    else:
        jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


def test_frozen_norms_ignore_the_batch(small):
    """In training frozen norms compute what they do in evaluation; trained ones do not, and their statistics move."""
    images, variables, config = recorder.images("even"), encoder_of(small), small.config.image
    plain, _ = levels_of(config)(variables, images)
    frozen, same = levels_of(config, train=True)(variables, images)
    trained, moved = levels_of(dataclasses.replace(config, norms="trained"), train=True)(variables, images)
    np.testing.assert_array_equal(frozen[0], plain[0])
    assert np.abs(trained[0] - plain[0]).max() > 0.1
    before, kept, changed = (one["batch_stats"]["stem_bn"]["mean"] for one in (variables, same, moved))
    np.testing.assert_array_equal(kept, before)
    assert not np.allclose(changed, before)


@pytest.mark.parametrize("variant", list(efficientnet.VARIANTS))
def test_has_the_parameters_of_timm_in_every_size(specs, variant):
    spec = {name: tuple(shape) for name, shape in specs[variant].items()}
    used = {name: shape for name, shape in spec.items() if not names.TIMM.skipped.match(name)}
    known = names.timm_names(len(efficientnet.blocks(variant)))
    assert sorted(known.values()) == sorted(used)
    shapes = {official: used[theirs] for official, theirs in known.items()}
    config = EfficientNetConfig.from_shapes(shapes)
    assert config == EfficientNetConfig(variant)
    ours = shapes_of(variant)
    found = {rule.path.replace("/image/", "/", 1): shapes[rule.official] for rule in config.rules()}
    assert found.keys() == ours.keys()
    assert {name: np.prod(shape) for name, shape in found.items()} == {name: leaf.size for name, leaf in ours.items()}


def test_is_verified_beside_numpy(small, monkeypatch):
    """`verify` compares the first level with NumPy's, and sees an encoder that computes something else."""

    def checked():
        return {check.what: check.passed for check in VERIFICATION.layers(small)}

    assert checked() == {"EfficientNet, first level": True, "decoder, residual unit": True}
    monkeypatch.setattr(efficientnet, "EPSILON", 1e-2)
    changed = VERIFICATION.layers(LSeg(small.config, {kind: dict(tree) for kind, tree in small.variables.items()}))
    monkeypatch.setattr(verification, "efficientnet_beginning", functools.partial(_with_epsilon, 1e-3))
    assert next(changed).passed is False


def _with_epsilon(epsilon, image, strides, parameters, statistics, _):
    return numpy_layers.efficientnet_beginning(image, strides, parameters, statistics, epsilon)


def test_remat_has_no_effect(monkeypatch):
    """Refused in one line as a setting, and where a checkpoint or a file says which encoder it is."""
    (idle,) = (idle for idle in settings.IDLE if idle.settings == ("model.remat",))
    for kind, said in {"efficientnet": "in an EfficientNet, which is not cut up", "vit": "", "nonsense": ""}.items():
        chosen = {"checkpoint": "", "pretrained": {"image": ""}, "model": {"image": {"kind": kind}}}
        assert idle.reason(ConfigDict(chosen)) == said
    model = LSeg(LSegConfig(SentenceConfig(), CONFIG, features=8, remat="layer"), {})
    monkeypatch.setattr(training, "_initial_model", lambda *_: model)
    with pytest.raises(ConfigError, match=r"remat=layer has no effect in an EfficientNet, .* leave it out"):
        training.initial_model(ConfigDict({"model": {"remat": "layer"}}), settings.Training())


def test_official_checkpoints_have_none(small, tmp_path):
    stored = Stored(small.config, Weights(small.variables, {}), {})
    with pytest.raises(ConfigError, match="the official code has no such text encoder"):
        checkpoint.write_official(tmp_path / "a.ckpt", stored)
    clip = dataclasses.replace(small.config, text=micro.LSEG.text)
    with pytest.raises(ConfigError, match=r"the official code has no such image encoder; export a directory"):
        checkpoint.write_official(tmp_path / "a.ckpt", stored._replace(config=clip))


def test_both_schemes_are_the_same_bits(state, variables, tmp_path):
    torch_files.save(tmp_path / "official.pth", renamed(state))
    config, other = read_image(tmp_path / "official.pth")
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, {kind: tree["image"] for kind, tree in other.items()}, dict(variables))


def test_conversion_goes_both_ways(state, variables):
    for name, value in by_timms_names(variables).items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("_blocks.15._project_conv.weight", "its 16 blocks are those of no EfficientNet-Lite"),
        ("_bn0.bias", "_bn0.bias"),
    ],
)
def test_files_that_lack_something_are_refused(state, tmp_path, lost, message):
    whole = renamed(state)
    del whole[lost]
    torch_files.save(tmp_path / "part.pth", whole)
    with pytest.raises(CheckpointError, match=message):
        read_image(tmp_path / "part.pth")


def test_padding_changes_nothing(small):
    """The valid part of every level is the level of the image alone."""
    padded = np.random.default_rng(3).standard_normal((2, 96, 128, 3)).astype(np.float32)
    size = np.array([[64, 96], [64, 96]], np.int32)
    run, variables = jax.jit(small.config.image.module().apply), encoder_of(small)
    found = run(variables, padded, size)
    for row, (height, width) in enumerate(size):
        alone = run(variables, padded[row : row + 1, :height, :width])
        for level, expected in zip(found, alone, strict=True):
            valid = level[row : row + 1, : expected.shape[1], : expected.shape[2]]
            np.testing.assert_allclose(valid, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("variant", "height", "width"), [("lite0", 224, 224), ("lite4", 96, 160)])
def test_counts_every_kernel_where_it_is_used(variant, height, width):
    config = EfficientNetConfig(variant)
    kernels = {path: leaf.size for path, leaf in shapes_of(variant).items() if path.endswith(("kernel", "stem"))}
    strides = np.cumprod([2, *(block.stride for block in efficientnet.blocks(variant))])
    products = 0
    for path, size in kernels.items():
        number = 0 if path.endswith("stem") else int(path.split("/")[1].removeprefix("block")) + ("expand" not in path)
        products += 2 * size * -(-height // strides[number]) * -(-width // strides[number])
    assert config.flops(height, width) == products
