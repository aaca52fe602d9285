"""Models on disk: both formats, and files that are not what they say."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import lseg_jax
from lseg_jax import checkpoint, official
from lseg_jax.config import LSegConfig, ResNetConfig, SentenceConfig, TextConfig, ViTConfig
from vlseg import torch_files
from vlseg.checkpoints import directory as directories
from vlseg.checkpoints import rules
from vlseg.checkpoints.directory import CONFIG_FILE, OFFICIAL_FILE, WEIGHTS_FILE, Stored, Weights
from vlseg.checkpoints.rules import ArrayTensor
from vlseg.errors import CheckpointError, ConfigError, StorageError, VlsegError

CARRIED = {
    "clip_pretrained.logit_scale": np.array(4.6, np.float32),
    "clip_pretrained.visual.proj": np.arange(6, dtype=np.float16).reshape(2, 3),
    "scratch.refinenet1.resConfUnit1.bn1.num_batches_tracked": np.array(70, np.int64),
    "scratch.refinenet4.resConfUnit1.conv1.weight": np.ones((2, 2, 3, 3), np.float32),
}


def flat(variables):
    return {name: np.asarray(value) for name, value in rules.flatten(variables).items()}


def write(path, stored):
    directories.write(path, checkpoint.FORMAT, stored)


def weights_of(model, dtype=np.float32):
    variables = jax.tree.map(lambda value: np.asarray(value, dtype), dict(model.variables))
    return Weights(variables, {name: ArrayTensor(value) for name, value in CARRIED.items()})


def assert_same(one: Weights, other: Weights):
    ours, theirs = flat(one.variables), flat(other.variables)
    assert ours.keys() == theirs.keys() and one.carried.keys() == other.carried.keys()
    carried = ({name: tensor.read() for name, tensor in part.carried.items()} for part in (one, other))
    for a, b in ((ours, theirs), tuple(carried)):
        for name, value in a.items():
            assert (b[name].dtype, b[name].shape) == (value.dtype, value.shape), name
            np.testing.assert_array_equal(b[name], value, err_msg=name)


def state_of(model):
    """The official state dict and hyperparameters of a model."""
    return {f"net.{name}": value for name, value in official.to_official(weights_of(model), model.config).items()}


@pytest.fixture(params=["micro_depthwise", "micro_resnet"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_through_both_formats(model, tmp_path, dtype):
    """Every bit and every data type, in a directory, in an official checkpoint, and back."""
    first = weights_of(model, dtype)
    write(tmp_path / "a", Stored(model.config, first, {"labels": ["cat"]}))
    a = checkpoint.read(tmp_path / "a")
    assert a.config == model.config and a.settings["labels"] == ["cat"]
    assert_same(a.weights, first)
    checkpoint.write_official(tmp_path / "b.ckpt", a)
    b = checkpoint.read(tmp_path / "b.ckpt")
    assert b.config == model.config
    assert_same(b.weights, first)


def test_official_files_are_as_lightning_writes_them(micro_bottleneck, tmp_path):
    checkpoint.write_official(tmp_path / "a.ckpt", Stored(micro_bottleneck.config, weights_of(micro_bottleneck)))
    content = torch_files.load(tmp_path / "a.ckpt")
    assert content["hyper_parameters"] == {
        "backbone": None,
        "num_features": 16,
        "arch_option": 1,
        "block_depth": 2,
        "activation": "lrelu",
    }
    state = content["state_dict"]
    assert all(name.startswith("net.") for name in state)
    kernel = micro_bottleneck.variables["params"]["projection"]["kernel"]
    np.testing.assert_array_equal(state["net.scratch.head1.weight"].read()[:, :, 0, 0], kernel.T)


@pytest.mark.parametrize(
    ("key", "name"),
    [(("vit", 16, 512), "clip_vitl16_384"), (("vit", 32, 768), "clipRN50x16_vitb32_384"), (("vit", 8, 512), None)],
)
def test_names_of_encoders(key, name):
    _, patch, features = key
    config = LSegConfig(TextConfig(features=features), ViTConfig(patch=patch))
    assert checkpoint.backbone(config) == name
    resnet = dataclasses.replace(config, image=ResNetConfig())
    assert checkpoint.backbone(resnet) == ("clip_resnet101" if features == 512 else None)


@pytest.mark.parametrize("prefix", ["net.", ""])
@pytest.mark.parametrize("wrapped", [True, False])
def test_prefix_and_wrapping_do_not_matter(micro_model, tmp_path, prefix, wrapped):
    state = {prefix + name.removeprefix("net."): value for name, value in state_of(micro_model).items()}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state} if wrapped else state)
    stored = checkpoint.read(tmp_path / "a.ckpt")
    assert stored.config == micro_model.config
    assert_same(stored.weights, weights_of(micro_model))


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"arch_option": 1, "block_depth": 3, "activation": "relu"}, ("bottleneck", 3, "relu")),
        ({"arch_option": 2, "block_depth": 0, "activation": "tanh"}, ("depthwise", 1, "tanh")),
        ({"arch_option": 2, "block_depth": 2, "activation": None}, ("depthwise", 2, "lrelu")),
    ],
)
@pytest.mark.parametrize("form", ["dict", "record", "namespace", "omegaconf"])
def test_hyperparameters(micro_depthwise, tmp_path, monkeypatch, recorded, expected, form):
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_depthwise), "hyper_parameters": recorded})
    if form != "dict":  # what classes of Lightning, argparse and omegaconf are read as
        name = "pytorch_lightning.utilities.parsing.AttributeDict"
        nodes = {
            key: torch_files.Record("omegaconf.nodes.AnyNode", state={"_val": value}) for key, value in recorded.items()
        }
        filled = {
            "record": {"items": list(recorded.items())},
            "namespace": {"state": recorded},
            "omegaconf": {"state": {"_content": nodes, "_metadata": None}},
        }[form]
        content = {"hyper_parameters": torch_files.Record(name, **filled)}
        monkeypatch.setattr(checkpoint.torch_files, "load", lambda path: content)
    config = checkpoint.read(tmp_path / "a.ckpt").config
    assert (config.block, config.block_depth, config.activation) == expected


@pytest.mark.parametrize("recorded", [None, {}, {"arch_option": 0}, {"arch_option": [1]}, {"arch_option": 3}, "all"])
def test_a_block_that_nobody_names(micro_depthwise, tmp_path, recorded):
    content = {"state_dict": state_of(micro_depthwise)} | (
        {"hyper_parameters": recorded} if recorded is not None else {}
    )
    torch_files.save(tmp_path / "a.ckpt", content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt has a block .* give block .*block_depth and activation"):
        checkpoint.read(tmp_path / "a.ckpt")
    stored = checkpoint.read(tmp_path / "a.ckpt", block="depthwise", block_depth=2, activation="tanh")
    assert stored.config == dataclasses.replace(micro_depthwise.config, activation="tanh")
    with pytest.raises(ConfigError, match="'sideways' is none of"):
        checkpoint.read(tmp_path / "a.ckpt", block="sideways", block_depth=1)
    with pytest.raises(ConfigError, match="'gelu' is none of"):
        checkpoint.read(tmp_path / "a.ckpt", block="depthwise", block_depth=1, activation="gelu")


@pytest.mark.parametrize("depth", [{}, {"block_depth": None}, {"block_depth": "many"}])
def test_a_block_of_unknown_depth(micro_depthwise, tmp_path, depth):
    recorded = {"arch_option": 2, **depth}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_depthwise), "hyper_parameters": recorded})
    with pytest.raises(CheckpointError, match=r"a\.ckpt has a block .* how often .* give block_depth"):
        checkpoint.read(tmp_path / "a.ckpt")
    assert checkpoint.read(tmp_path / "a.ckpt", block_depth=0).config.block_depth == 1  # the official loop runs once


@pytest.mark.parametrize("recorded", [{}, {"activation": "gelu"}, {"activation": ["relu"]}, {"activation": 1}])
def test_a_block_of_unknown_activation(micro_depthwise, tmp_path, recorded):
    recorded = {"arch_option": 2, "block_depth": 2, **recorded}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_depthwise), "hyper_parameters": recorded})
    with pytest.raises(CheckpointError, match=r"a\.ckpt has a block .*--activation=relu or lrelu or tanh"):
        checkpoint.read(tmp_path / "a.ckpt")
    assert checkpoint.read(tmp_path / "a.ckpt", activation="tanh").config.activation == "tanh"
    # The official loop leaves out the activation of the last repeat, so that it does not matter here.
    assert checkpoint.read(tmp_path / "a.ckpt", block_depth=1).config.block_depth == 1


@pytest.mark.parametrize("recorded", [{"block_depth": 10**9}, {"block_depth": True}, {"block_depth": 2.0}])
def test_a_depth_that_cannot_be(micro_depthwise, tmp_path, recorded):
    recorded = {"arch_option": 2, "activation": "relu", **recorded}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_depthwise), "hyper_parameters": recorded})
    with pytest.raises(CheckpointError, match=r"does not say how often .*--block_depth.*at most 100"):
        checkpoint.read(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "entries",
    [
        {"args": {"arch_option": 1, "block_depth": 2, "activation": "relu"}},
        {"hyper_parameters": {"args": {"arch_option": 1, "block_depth": 2, "activation": "relu"}}},
        {"epoch": 1, "hparams": {"arch_option": 1, "block_depth": 2, "activation": "relu"}},
    ],
)
def test_hyperparameters_in_other_places(micro_depthwise, tmp_path, entries):
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_depthwise), **entries})
    config = checkpoint.read(tmp_path / "a.ckpt").config
    assert (config.block, config.block_depth, config.activation) == ("bottleneck", 2, "relu")


@pytest.mark.parametrize("prefix", ["module.net.", "model.", "net._orig_mod."])
def test_other_prefixes_and_extra_modules(micro_model, tmp_path, caplog, prefix):
    state = {prefix + name.removeprefix("net."): value for name, value in state_of(micro_model).items()}
    extra = {f"{prefix}auxlayer.conv.weight": np.ones(3, np.float32), f"{prefix}scratch.aux.bias": np.ones(3)}
    content = {"state_dict": state | extra | {"criterion.weight": np.ones(2)}, "ema": {"a": np.ones(2)}}
    torch_files.save(tmp_path / "a.ckpt", content)
    stored = checkpoint.read(tmp_path / "a.ckpt")
    assert_same(stored.weights, weights_of(micro_model))
    (record,) = caplog.records
    assert "auxlayer (1 tensor)" in record.message and "criterion (1 tensor)" in record.message
    assert "the entry 'ema'" in record.message and (prefix.startswith("net") or "prefix" in record.message)


def test_two_models_in_one_file(micro_model, tmp_path):
    state = state_of(micro_model)
    twice = state | {name.replace("net.", "model.", 1): value for name, value in state.items()}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": twice})
    with pytest.raises(CheckpointError, match=r"a\.ckpt: it holds several models, under model\. and net\."):
        checkpoint.read(tmp_path / "a.ckpt")


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "float8_e4m3fn"])
def test_parameters_that_are_no_floats(micro_model, tmp_path, dtype):
    state = state_of(micro_model)
    state |= {"net.scratch.head1.bias": state["net.scratch.head1.bias"].astype(dtype)}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state})
    with pytest.raises(CheckpointError, match=rf"parameters must be .*float64, but scratch\.head1\.bias is {dtype}"):
        checkpoint.read(tmp_path / "a.ckpt")


def test_zero_shot_models_have_no_block_whatever_their_settings(micro_model, tmp_path):
    recorded = {"arch_option": 1, "block_depth": 4, "activation": "relu"}
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": state_of(micro_model), "hyper_parameters": recorded})
    config = checkpoint.read(tmp_path / "a.ckpt").config
    assert (config.block, config.block_depth) == ("none", 0)
    with pytest.raises(CheckpointError, match="has no block"):
        checkpoint.read(tmp_path / "a.ckpt", block="depthwise")
    for given in ({"activation": "relu"}, {"block_depth": 2}):
        with pytest.raises(ConfigError, match=r"has no block, which .* are about; leave them out"):
            checkpoint.read(tmp_path / "a.ckpt", **given)


def lost(*names):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lost("net.scratch.head1.bias"), r"missing: scratch\.head1\.bias"),
        (lambda state: state | {"net.stranger": np.ones(2)}, r"not known: stranger"),
        (
            lambda state: state | {"net.scratch.head1.bias": np.ones(3)},
            r"scratch\.head1\.bias is \[3\] instead of \[24",
        ),
        (lost("net.clip_pretrained.token_embedding"), r"it has no clip_pretrained\.token_embedding\.weight"),
        (lost("net.pretrained.model.blocks.3."), "3 layers"),
        (lost("net.pretrained.model.blocks."), "layers is 0"),
        (lost("net.clip_pretrained.transformer."), "layers is 0"),
        (lost("net.pretrained.model.pos_embed"), r"it has no pretrained\.model\.pos_embed"),
        (lost("net.pretrained."), r"it has no pretrained\.model\.patch_embed"),
        (lambda state: {"conv.weight": np.ones((3, 3))}, "not an LSeg checkpoint"),
    ],
)
def test_official_checkpoints_that_do_not_fit(micro_model, tmp_path, change, message):
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": change(state_of(micro_model))})
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: .*{message}") as caught:
        checkpoint.read(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


def test_a_resnet_without_a_stage(micro_resnet, tmp_path):
    torch_files.save(tmp_path / "a.ckpt", {"state_dict": lost("net.pretrained.layer4")(state_of(micro_resnet))})
    with pytest.raises(CheckpointError, match=r"stages is \(1, 1, 2, 0\)"):
        checkpoint.read(tmp_path / "a.ckpt")


def test_files_that_are_cut(micro_model, tmp_path):
    path = tmp_path / "a.ckpt"
    checkpoint.write_official(path, Stored(micro_model.config, weights_of(micro_model)))
    content = path.read_bytes()
    for part in (content[:-100], content[: len(content) // 2], content[:10], b""):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match=r"a\.ckpt"):
            checkpoint.read(path)
    with pytest.raises(CheckpointError, match=r"b\.ckpt"):
        checkpoint.read(tmp_path / "b.ckpt")


@pytest.fixture
def directory(micro_model, tmp_path):
    write(tmp_path / "model", Stored(micro_model.config, weights_of(micro_model)))
    return tmp_path / "model"


def edit(directory, **changes):
    path = directory / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, OFFICIAL_FILE])
def test_weights_that_are_cut(directory, name):
    content = (directory / name).read_bytes()
    for part in (content[:-9], content[:5], b""):
        (directory / name).write_bytes(part)
        with pytest.raises(CheckpointError, match=rf"{name} cannot be read"):
            checkpoint.read(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "ifseg_jax"}, "format 'ifseg_jax', not 'lseg_jax'"),
        ({"model": {"colour": 1}}, r"config\.json cannot be used: .*colour"),
        ({"model": {"features": "16"}}, r"config\.json cannot be used: features is '16'"),
        ({"model": []}, r"config\.json cannot be used"),
        ({"model": None}, r"config\.json cannot be used"),
        ({"inference": []}, r"config\.json cannot be used"),
        ({"inference": {"crop_size": 100}}, r"config\.json cannot be used: .*crop_size"),
        ({"inference": {"colour": 1}}, r"config\.json cannot be used"),
        ({"labels": 5}, r"config\.json cannot be used"),
        ({"labels": "cat"}, r"config\.json cannot be used: .*one string"),
        ({"labels": ["cat", "Cat"]}, r"config\.json cannot be used: .*same label"),
    ],
)
def test_settings_that_cannot_be_used(directory, changes, message):
    edit(directory, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        lseg_jax.load(directory)
    assert "\n" not in str(caught.value)


def test_weights_of_another_configuration(directory, micro_model, micro_resnet):
    edit(directory, model=dataclasses.replace(micro_model.config, features=20).to_dict())
    with pytest.raises(CheckpointError, match=r"model\.safetensors: shapes .*decoder/\S+ is \[.*16.*\] instead of"):
        checkpoint.read(directory)
    edit(directory, model=micro_resnet.config.to_dict())
    with pytest.raises(CheckpointError, match=r"missing: batch_stats/image/.* more; not known: params/image/class"):
        checkpoint.read(directory)
    (directory / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"not a model directory: it has no config\.json"):
        checkpoint.read(directory)


def test_directories_say_themselves_which_block_they_have(directory):
    with pytest.raises(ConfigError, match="leave out block"):
        checkpoint.read(directory, block="depthwise")


def test_places_that_cannot_be_written(directory, micro_model, tmp_path):
    for path in (directory, tmp_path / "absent" / "model"):
        with pytest.raises(StorageError):
            write(path, Stored(micro_model.config, weights_of(micro_model)))
    sentences = dataclasses.replace(micro_model.config, text=SentenceConfig())
    with pytest.raises(VlsegError, match="no such text encoder"):
        checkpoint.write_official(tmp_path / "a.ckpt", Stored(sentences, weights_of(micro_model)))
    photos = dataclasses.replace(micro_model.config, template="a photo of a {}")
    with pytest.raises(ConfigError, match=r"encodes labels alone, not in .a photo of"):
        checkpoint.write_official(tmp_path / "a.ckpt", Stored(photos, weights_of(micro_model)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 100_000, "nested deeper"),
        (b"[]", "it must hold settings by name"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b'{"format": ["lseg_jax"]}', "format is"),
        (b'{"format": "lseg_jax", "model": {}, "version": 2}', "version is 2"),
        (b'{"format": "lseg_jax", "model": {}, "tied": [1]}', "tied is"),
        (b'{"format": "lseg_jax", "model": {"image": {"layers": 1000000000}}}', "layers is 1000000000"),
    ],
)
def test_a_config_file_that_holds_anything(directory, content, message):
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        lseg_jax.load(directory)


@pytest.mark.parametrize("embedding", [np.ones(7, np.float32), np.ones((2, 24), np.float32), np.full(24, np.nan, "f4")])
def test_embeddings_of_labels_that_do_not_fit(directory, embedding):
    save_file({"cat": embedding}, directory / checkpoint.LABELS_FILE)
    with pytest.raises(CheckpointError, match=r"labels\.safetensors: .*cat"):
        lseg_jax.load(directory)
