"""Files by the names that others publish weights by, at micro sizes.

The recorded numbers are outputs of timm's VisionTransformer, torchvision's ResNet and transformers'
CLIPTextModelWithProjection on the weights of `golden_tensor`.
"""

import dataclasses
import json
import os
import re
import struct
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lseg_jax.config import VIT_BASE_32, LSegConfig, ResNetConfig, TextConfig, ViTConfig
from lseg_jax.encoders import merge, read_image, read_text
from lseg_jax.encoders.clip import CLIPText
from lseg_jax.encoders.vit import ViT
from lseg_jax.lseg import LSegNet
from vlseg import torch_files
from vlseg.checkpoints.foreign import open_tensors
from vlseg.errors import CheckpointError
from vlseg.nn.resnet import ResNet

WIDTH = 128
TEXT = TextConfig(width=WIDTH, heads=2, layers=2, features=24, context=7, vocabulary=50)
VIT = ViTConfig(patch=32, width=WIDTH, heads=2, layers=4, grid=3, reassembled=(32, 64, 128, 128))
RESNET = ResNetConfig((1, 2, 1, 1))
IMAGES = np.random.default_rng(7).uniform(-1, 1, (1, 96, 128, 3)).astype(np.float32)
TOKENS = np.array([[48, 3, 49, 0, 0, 0, 0], [48, 7, 8, 9, 11, 49, 0]])


def with_bias(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def hugging_face_shapes(config):
    width = config.width
    shapes = {
        "text_model.embeddings.token_embedding.weight": (config.vocabulary, width),
        "text_model.embeddings.position_embedding.weight": (config.context, width),
        "text_projection.weight": (config.features, width),
    } | with_bias("text_model.final_layer_norm", width)
    for layer in range(config.layers):
        name = f"text_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= with_bias(f"{name}.self_attn.{part}", width, width)
        shapes |= with_bias(f"{name}.layer_norm1", width) | with_bias(f"{name}.layer_norm2", width)
        shapes |= with_bias(f"{name}.mlp.fc1", 4 * width, width) | with_bias(f"{name}.mlp.fc2", width, 4 * width)
    return shapes


def timm_shapes(config):
    width = config.width
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + config.grid**2, width)}
    shapes |= with_bias("patch_embed.proj", width, 3, config.patch, config.patch)
    for layer in range(config.layers):
        name = f"blocks.{layer}"
        shapes |= with_bias(f"{name}.norm1", width) | with_bias(f"{name}.norm2", width)
        shapes |= with_bias(f"{name}.attn.qkv", 3 * width, width) | with_bias(f"{name}.attn.proj", width, width)
        shapes |= with_bias(f"{name}.mlp.fc1", 4 * width, width) | with_bias(f"{name}.mlp.fc2", width, 4 * width)
    return shapes | with_bias("norm", width) | with_bias("head", 5, width)


def torchvision_shapes(config):
    def norm(name, width):
        return {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}

    channels = config.width
    shapes = {"conv1.weight": (channels, 3, 7, 7)} | norm("bn1", channels)
    for stage, blocks in enumerate(config.stages):
        width = config.width * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, channels, 1, 1)} | norm(f"{name}.bn1", width)
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)} | norm(f"{name}.bn2", width)
            shapes |= {f"{name}.conv3.weight": (4 * width, width, 1, 1)} | norm(f"{name}.bn3", 4 * width)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, channels, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    return shapes | with_bias("fc", 3, channels)


def openai_state(state):
    """Hugging Face's state dict by OpenAI's names: fused attention, the projection the other way round."""
    renamed = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": np.ascontiguousarray(state["text_projection.weight"].T),
    }
    moved = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    moved["self_attn.out_proj"] = "attn.out_proj"
    for leaf in ("weight", "bias"):
        renamed[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
        for layer in range(TEXT.layers):
            theirs, ours = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            fused = [state[f"{theirs}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            renamed[f"{ours}.attn.in_proj_{leaf}"] = np.concatenate(fused)
            for old, new in moved.items():
                renamed[f"{ours}.{new}.{leaf}"] = state[f"{theirs}.{old}.{leaf}"]
    return renamed


def npz_state(state, config):
    """timm's state dict as google-research/vision_transformer has it: kernels [in, out], attention by heads."""
    width, heads, depth = config.width, config.heads, config.width // config.heads
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": np.moveaxis(state["patch_embed.proj.weight"], (0, 1), (3, 2)),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for layer in range(config.layers):
        theirs, ours = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        attention = f"{ours}/MultiHeadDotProductAttention_1"
        kernels, biases = state[f"{theirs}.attn.qkv.weight"], state[f"{theirs}.attn.qkv.bias"]
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            arrays[f"{attention}/{part}/kernel"] = kernels[rows].T.reshape(width, heads, depth)
            arrays[f"{attention}/{part}/bias"] = biases[rows].reshape(heads, depth)
        arrays[f"{attention}/out/kernel"] = state[f"{theirs}.attn.proj.weight"].T.reshape(heads, depth, width)
        arrays[f"{attention}/out/bias"] = state[f"{theirs}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{ours}/{name}/scale"] = state[f"{theirs}.{norm}.weight"]
            arrays[f"{ours}/{name}/bias"] = state[f"{theirs}.{norm}.bias"]
        for dense, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{ours}/MlpBlock_3/{name}/kernel"] = state[f"{theirs}.mlp.{dense}.weight"].T
            arrays[f"{ours}/MlpBlock_3/{name}/bias"] = state[f"{theirs}.mlp.{dense}.bias"]
    return arrays


@pytest.fixture(scope="module")
def hugging_face(golden_tensor):
    return {name: golden_tensor(name, shape) for name, shape in hugging_face_shapes(TEXT).items()}


@pytest.fixture(scope="module")
def openai(hugging_face):
    rest = {
        "visual.conv1.weight": np.ones((4, 3, 2, 2), np.float32),
        "logit_scale": np.float32(4.6) * np.ones((), np.float32),
        "input_resolution": np.array(224),
        "context_length": np.array(7),
        "vocab_size": np.array(50),
    }
    return openai_state(hugging_face) | rest


@pytest.fixture(scope="module")
def timm(golden_tensor):
    return {name: golden_tensor(name, shape) for name, shape in timm_shapes(VIT).items()}


@pytest.fixture(scope="module")
def torchvision(golden_tensor):
    state = {name: golden_tensor(name, shape) for name, shape in torchvision_shapes(RESNET).items()}
    return state | {"bn1.num_batches_tracked": np.array(3), "layer2.1.bn3.num_batches_tracked": np.array(3)}


def text_item(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number_item(value):
    return b"J" + struct.pack("<i", value)


def write_program(path, state):
    """A TorchScript archive of nested modules: a pickle of objects whose state is their attributes."""

    def tensor(key, array):
        storage = {"float32": b"Float", "float16": b"Half", "int64": b"Long"}[array.dtype.name]
        storage = b"ctorch\n" + storage + b"Storage\n"
        identifier = b"(" + text_item("storage") + storage + text_item(str(key)) + text_item("cpu")
        shape = b"".join(number_item(length) for length in array.shape)
        strides = b"".join(number_item(step // array.itemsize) for step in array.strides)
        start = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identifier + number_item(array.size) + b"tQK\x00"
        return start + b"(" + shape + b"t(" + strides + b"t\x89ccollections\nOrderedDict\n)RtR"

    def module(tree):
        items = b"".join(text_item(name) + (v if isinstance(v, bytes) else module(v)) for name, v in tree.items())
        flag = text_item("training") + b"\x89"
        return b"c__torch__.torch.nn.modules.___torch_mangle_0\nModule\n)\x81}(" + flag + items + b"ub"

    tree = {}
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, value) in enumerate(state.items()):
            *parents, leaf = name.split(".")
            place = tree
            for parent in parents:
                place = place.setdefault(parent, {})
            array = np.asarray(value, order="C")
            place[leaf] = tensor(key, array)
            archive.writestr(f"clip/data/{key}", array.tobytes())
        archive.writestr("clip/data.pkl", b"\x80\x02" + module(tree) + b".")
        archive.writestr("clip/constants.pkl", b"\x80\x02).")
        archive.writestr("clip/code/__torch__.py", "raise SystemExit")


def write(path, state):
    """The state in the kind of file that the suffix or the absence of one asks for."""
    arrays = {name: np.asarray(value, order="C") for name, value in state.items()}
    match path.suffix:
        case ".safetensors":
            save_file(arrays, path)
        case ".npz":
            np.savez(path, **arrays)
        case ".jit":
            write_program(path, arrays)
        case ".pt" | ".pth" | ".bin":
            torch_files.save(path, arrays)
        case _:
            path.mkdir()
            write(path / "model.safetensors", arrays)
    return path


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def encoder(variables, name):
    return {collection: tree[name] for collection, tree in variables.items()}


def test_text_has_the_outputs_of_transformers(tmp_path, hugging_face):
    config, variables = read_text(write(tmp_path / "clip", hugging_face))
    assert config == TEXT
    expected = [
        [-0.423675, 0.492558, -0.06645, -0.202945, -1.618254, 1.385417],
        [-0.292338, 0.96265, -1.980091, 0.190655, -0.858661, 1.362034],
    ]
    found = jax.jit(CLIPText(config).apply)(encoder(variables, "text"), TOKENS)
    np.testing.assert_allclose(found[:, :6], expected, rtol=0, atol=1e-5)


def test_other_parts_of_clip_are_skipped(tmp_path, hugging_face):
    rest = {
        "text_model.embeddings.position_ids": np.arange(7)[None],
        "vision_model.embeddings.class_embedding": np.ones(4, np.float32),
        "visual_projection.weight": np.ones((2, 2), np.float32),
        "logit_scale": np.array(4.6, np.float32),
    }
    config, variables = read_text(write(tmp_path / "full.safetensors", hugging_face | rest))
    assert config == TEXT
    assert_equal(variables, read_text(write(tmp_path / "text.safetensors", hugging_face))[1])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".jit"])
def test_fused_and_split_attention_are_the_same(tmp_path, hugging_face, openai, suffix):
    config, variables = read_text(write(tmp_path / f"openai{suffix}", openai))
    assert config == TEXT
    assert_equal(variables, read_text(write(tmp_path / "clip.bin", hugging_face))[1])


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".jit"])
def test_half_precision_becomes_float32(tmp_path, openai, suffix):
    half = {name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in openai.items()}
    rounded = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in half.items()}
    _, variables = read_text(write(tmp_path / f"half{suffix}", half))
    assert_equal(variables, read_text(write(tmp_path / "rounded.pt", rounded))[1])


def test_vision_transformer_has_the_outputs_of_timm(tmp_path, timm):
    config, variables = read_image(write(tmp_path / "vit.pth", timm))
    assert config == VIT
    expected = [
        [2.009306, 0.748957, 1.248978, -0.570237],
        [1.531939, 1.53334, 2.163229, -0.862188],
        [2.425496, -0.179069, 2.199731, -0.049844],
        [1.896954, 0.330768, 1.172761, -1.273663],
    ]
    depths = jax.jit(ViT(config).apply)(encoder(variables, "image"), IMAGES[:, :, :96])
    np.testing.assert_allclose([tokens[0, 5, :4] for tokens in depths], expected, rtol=0, atol=5e-5)


def test_heads_of_an_npz_are_fused(tmp_path, timm):
    config, variables = read_image(write(tmp_path / "vit.npz", npz_state(timm, VIT)))
    assert config == VIT
    assert_equal(variables, read_image(write(tmp_path / "vit.safetensors", timm))[1])


def test_reassembly_of_the_known_base_model(tmp_path):
    expected = dataclasses.replace(VIT_BASE_32, layers=4)
    zeros = {name: np.broadcast_to(np.float16(0), shape) for name, shape in timm_shapes(expected).items()}
    np.savez_compressed(tmp_path / "base.npz", **npz_state(zeros, expected))
    assert read_image(tmp_path / "base.npz")[0] == expected


def test_resnet_has_the_outputs_of_torchvision(tmp_path, torchvision):
    config, variables = read_image(write(tmp_path / "resnet.pth", torchvision))
    assert config == RESNET
    expected = [
        [0.0, 3.492572, 1.537678, 2.876036, 3.513973, 1.196517],
        [1.342918, 4.834713, 0.0, 18.189117, 0.0, 5.085468],
        [25.861027, 0.0, 0.0, 0.0, 0.0, 0.0],
        [24.426088, 0.0, 16.508202, 0.0, 21.808727, 0.0],
    ]
    levels = jax.jit(ResNet(config.stages, config.width).apply)(encoder(variables, "image"), IMAGES)
    np.testing.assert_allclose([level[0, -1, -1, :6] for level in levels], expected, rtol=1e-5, atol=1e-4)


def test_a_config_beside_the_weights_tells_the_heads(tmp_path, hugging_face):
    folder = write(tmp_path / "clip", hugging_face)
    for heads, content in ((4, {"model_type": "clip_text_model"}), (8, {"model_type": "clip"})):
        told = {"num_attention_heads": heads, "hidden_size": WIDTH}
        (folder / "config.json").write_text(json.dumps({**content, "text_config": told, **told}))
        assert read_text(folder)[0] == dataclasses.replace(TEXT, heads=heads)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_text_model", "hidden_act": "gelu"}))
    assert "its activation is gelu" in refusal(read_text, folder)
    (folder / "config.json").write_text("{")
    assert "its config.json cannot be read" in refusal(read_text, folder)


@settings(max_examples=5)
@given(st.builds(TextConfig, st.just(64), st.just(1), *[st.integers(1, n) for n in (3, 9, 9, 9)]))
def test_the_configuration_is_read_off_the_shapes(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("text") / "text.safetensors"
    state = {name: np.zeros(shape, np.float32) for name, shape in hugging_face_shapes(config).items()}
    assert read_text(write(path, state))[0] == config


def changed(state, lost=(), **added):
    return {name: value for name, value in state.items() if name not in lost} | added


def refusal(read, path):
    """What comes after the file's name in the one line of the error."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def test_names_that_are_missing_or_not_known(tmp_path, hugging_face, openai, timm, torchvision):
    cases = [
        (read_text, hugging_face, "text_model.encoder.layers.1.self_attn.q_proj.bias"),
        (read_text, openai, "transformer.resblocks.0.mlp.c_fc.weight"),
        (read_text, openai, "text_projection"),
        (read_image, timm, "blocks.2.attn.qkv.bias"),
        (read_image, timm, "pos_embed"),
        (read_image, npz_state(timm, VIT), "Transformer/encoderblock_3/MultiHeadDotProductAttention_1/key/kernel"),
        (read_image, torchvision, "layer3.0.bn2.running_var"),
    ]
    for index, (read, state, name) in enumerate(cases):
        message = refusal(read, write(tmp_path / f"lost{index}.npz", changed(state, [name])))
        assert message.endswith((f"missing: {name}", f": it has no {name}"))
        message = refusal(read, write(tmp_path / f"found{index}.npz", changed(state, stranger=np.ones(2))))
        assert message.endswith("not known: stranger")


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("prefix", "read", "kind"),
    [
        ("module.", read_image, "torchvision"),
        ("model.", read_text, "openai"),
        pytest.param("module.backbone.", read_image, "timm", marks=pytest.mark.slow),
        pytest.param("_orig_mod.", read_text, "hugging_face", marks=pytest.mark.slow),
    ],
)
def test_wrapped_encoders_with_extra_heads(tmp_path, caplog, request, prefix, read, kind):
    state = request.getfixturevalue(kind)
    extra = {"aux_classifier.0.weight": np.ones(2, np.float32), "decode_head.bias": np.ones(2, np.float32)}
    found = read(write(tmp_path / "wrapped.safetensors", under(prefix, state | extra)))
    (record,) = caplog.records
    assert "aux_classifier (1 tensor), decode_head (1 tensor)" in record.message
    assert (f"{prefix!r}" in record.message) == (prefix != "_orig_mod.")
    plain = read(write(tmp_path / "plain.safetensors", state))
    assert found[0] == plain[0]
    assert_equal(found[1], plain[1])


def test_missing_parameters_behind_a_prefix_are_named(tmp_path, torchvision):
    lost = under("module.", changed(torchvision, ["layer3.0.bn2.running_var"]))
    message = refusal(read_image, write(tmp_path / "a.safetensors", lost | {"aux.weight": np.ones(2, np.float32)}))
    assert message.endswith("missing: layer3.0.bn2.running_var")


@pytest.mark.parametrize("name", ["blocks.0.ls1.gamma", "norm_pre.weight", "dist_token"])
def test_what_changes_the_computation_is_not_left_out(tmp_path, timm, name):
    path = write(tmp_path / "a.safetensors", timm | {name: np.ones(2, np.float32)})
    assert refusal(read_image, path).endswith(f"not known: {name}")


@pytest.mark.parametrize(("suffix", "dtype"), [(".safetensors", np.int8), (".npz", bool), (".pt", np.complex64)])
def test_parameters_that_are_no_floats(tmp_path, torchvision, suffix, dtype):
    state = torchvision | {"bn1.weight": torchvision["bn1.weight"].astype(dtype)}
    message = refusal(read_image, write(tmp_path / f"a{suffix}", state))
    assert message.endswith(f"but bn1.weight is {np.dtype(dtype)}")


def test_floats_of_the_other_byte_order(tmp_path, torchvision):
    other = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in torchvision.items()}
    found = read_image(write(tmp_path / "other.npz", other))[1]
    assert_equal(found, read_image(write(tmp_path / "a.npz", torchvision))[1])


def test_parts_of_a_recipe_that_are_no_floats(tmp_path, hugging_face):
    name = "text_model.encoder.layers.1.self_attn.k_proj.bias"
    state = hugging_face | {name: hugging_face[name].astype(np.int32)}
    assert "is int32" in refusal(read_text, write(tmp_path / "a.safetensors", state))


FORMATS = {
    "a JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a GGUF file": b"GGUF\3\0\0\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x031.9",
    "compressed with gzip": b"\x1f\x8b\x08\0",
    "a single NumPy array": b"\x93NUMPY\1\0",
    "text": b"Entry not found\n",
    "JSON": b'{"error": "Repository not found"}',
}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_files_of_other_formats_are_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for said, content in FORMATS.items():
        path.write_bytes(content.ljust(64, b" "))
        assert said in refusal(open_tensors, path)
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "b")
    if suffix != ".safetensors":
        (tmp_path / "b").rename(path)
        assert "a safetensors file" in refusal(open_tensors, path)


def test_models_in_several_files(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "1.safetensors")
    save_file({"b": np.zeros(2, np.float32)}, tmp_path / "2.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    found, _ = open_tensors(tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"a": (3,), "b": (2,)}
    wrong = {"2.safetensors": "has a, which it has not", "3.safetensors": "no such file", "x" * 999: "weight_map"}
    wrong |= {
        "../1.safetensors": "weight_map",
        "": "weight_map",
        index.name: "weight_map",
        "\0.safetensors": "weight_map",
    }
    for name, said in wrong.items():
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert said in refusal(open_tensors, tmp_path)
    index.unlink()
    (tmp_path / "flax_model.msgpack").touch()
    assert "it holds 1.safetensors, 2.safetensors, flax_model.msgpack" in refusal(open_tensors, tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".bin"])
def test_what_stands_in_the_place_of_weights(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "Git LFS pointer" in refusal(read_image, path)
    path.write_text("<!doctype html><title>Sign in</title>")
    assert "HTML page" in refusal(read_image, path)
    path.unlink()
    os.mkfifo(path)
    assert "a pipe" in refusal(read_image, path)


def test_an_encoder_without_layers_is_refused(tmp_path, hugging_face, torchvision):
    none = [name for name in hugging_face if ".layers." in name]
    assert "missing: text_model.encoder.layers.0" in refusal(
        read_text, write(tmp_path / "a.pt", changed(hugging_face, none))
    )
    none = [name for name in torchvision if name.startswith("layer4.")]
    assert "stages is (1, 2, 1, 0)" in refusal(read_image, write(tmp_path / "b.pt", changed(torchvision, none)))


def test_shapes_that_do_not_fit(tmp_path, hugging_face, timm, torchvision):
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    cases = [
        (
            read_text,
            hugging_face,
            "text_projection.weight",
            (24, 64),
            "text_projection is [64, 24] instead of [128, 24]",
        ),
        (read_text, hugging_face, "text_model.encoder.layers.0.self_attn.k_proj.weight", (3,), "impossible shapes"),
        (read_text, hugging_face, "text_model.embeddings.token_embedding.weight", (50, 100), "width of 100"),
        (
            read_text,
            hugging_face,
            "text_model.embeddings.position_embedding.weight",
            (0, 128),
            "has shape [0, 128], which cannot be",
        ),
        (read_image, timm, "pos_embed", (1, 12, 128), "pos_embed is [1, 12, 128] instead of [1, 10, 128]"),
        (read_image, timm, "pos_embed", (1, 1, 128), "pos_embed is [1, 1, 128] instead of [1, 2, 128]"),
        (read_image, timm, "patch_embed.proj.weight", (128, 3, 14, 14), "patches of 14 pixels"),
        (
            read_image,
            npz_state(timm, VIT),
            f"{attention}/value/kernel",
            (128, 4, 32),
            f"{attention}/value/kernel [128, 4, 32]",
        ),
        (read_image, npz_state(timm, VIT), f"{attention}/value/bias", (), f"{attention}/value/bias []"),
        (
            read_image,
            torchvision,
            "layer1.0.conv2.weight",
            (128, 128, 3, 3),
            "[128, 128, 3, 3] instead of [64, 64, 3, 3]",
        ),
    ]
    for index, (read, state, name, shape, expected) in enumerate(cases):
        path = write(tmp_path / f"{index}.safetensors", changed(state) | {name: np.ones(shape, np.float32)})
        assert expected in refusal(read, path)


def test_layers_that_cannot_be_read_out_at_four_depths(tmp_path, timm):
    last = [name for name in timm if name.startswith("blocks.3.")]
    assert "3 layers" in refusal(read_image, write(tmp_path / "three.pt", changed(timm, last)))


def test_files_of_another_kind(tmp_path, openai, timm):
    text, image = write(tmp_path / "text.pt", openai), write(tmp_path / "image.pt", timm)
    assert "CLIP by the names of OpenAI; what is expected here is a vision" in refusal(read_image, text)
    assert "by the names of timm; what is expected here is CLIP" in refusal(read_text, image)
    other = write(tmp_path / "other.pt", {"a": np.ones(2), "b": np.ones(2)})
    assert "something unknown with the names a, b" in refusal(read_text, other)
    whole = write(tmp_path / "whole.ckpt.pt", {f"net.clip_pretrained.{name}": value for name, value in openai.items()})
    for read in (read_text, read_image):
        assert "a whole LSeg model" in refusal(read, whole) and "--config.checkpoint" in refusal(read, whole)


def test_files_that_cannot_be_read(tmp_path):
    for name in ("absent.npz", "absent.safetensors"):
        assert refusal(read_image, tmp_path / name).startswith(": no such file; by name there are efficientnet_lite0")
    assert "no such file" in refusal(read_image, tmp_path / "absent.pt")
    assert refusal(read_text, tmp_path) == " has no model.safetensors and no pytorch_model.bin"
    objects = tmp_path / "objects.npz"
    np.savez(objects, cls=np.array([{}], object))
    assert " cannot be read: " in refusal(read_image, objects)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(objects.read_bytes()[:-40])
    assert " cannot be read: " in refusal(read_image, broken)
    broken.write_bytes(b"")
    assert " cannot be read: " in refusal(read_image, broken)
    with open(broken, "wb") as file:
        np.save(file, np.ones(3))
    assert " cannot be read: " in refusal(read_image, broken)


def test_encoders_are_put_into_a_model(tmp_path, hugging_face, torchvision):
    text_config, text = read_text(write(tmp_path / "clip", hugging_face))
    image_config, image = read_image(write(tmp_path / "resnet.pth", torchvision))
    model = LSegNet(LSegConfig(text_config, image_config, features=16))
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:, :64, :64], TOKENS)
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
    merged = merge(fresh, text, image)
    assert jax.tree.structure(merged) == jax.tree.structure(fresh)
    assert_equal({"params": {"text": merged["params"]["text"]}}, text)
    assert_equal({collection: {"image": merged[collection]["image"]} for collection in merged}, image)
    for collection, part in (("params", "decoder"), ("params", "projection"), ("batch_stats", "decoder")):
        assert_equal(merged[collection][part], fresh[collection][part])
    assert all(np.all(leaf == 7) for leaf in jax.tree.leaves(fresh))


def test_encoders_that_do_not_fit_the_model_are_refused(tmp_path, timm, torchvision):
    _, vit = read_image(write(tmp_path / "vit.pth", timm))
    _, resnet = read_image(write(tmp_path / "resnet.pth", torchvision))
    image = vit["params"]["image"] | {"positions": np.zeros((5, 128))}
    small = {"params": {"image": image, "decoder": {"bias": np.zeros(3)}}}
    with pytest.raises(CheckpointError, match=re.escape("params/image/positions is [10, 128] instead of [5, 128]")):
        merge(small, vit)
    with pytest.raises(CheckpointError, match=r"missing: params/image/class_token.*not known: batch_stats/image/bn1"):
        merge(small, resnet)
    with pytest.raises(CheckpointError, match="not known: params/text/norm/bias"):
        merge(small, {"params": {"text": {"norm": {"bias": np.zeros(3)}}}})
    with pytest.raises(CheckpointError, match=r"missing: batch_stats/image/[^;]*$"):
        merge(resnet, {"params": resnet["params"]})


MODULE = b"c__torch__\nModule\n)\x81"


def program(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    return path


@pytest.mark.parametrize(
    "pickled",
    [
        MODULE,
        MODULE + b"}b",
        MODULE + b"K\x01b",
        MODULE + b"q\x00}(" + text_item("itself") + b"h\x00ub",
        b"}",
    ],
    ids=["stateless", "empty", "odd state", "circular", "no module"],
)
def test_programs_without_tensors_are_refused(tmp_path, pickled):
    assert "no state dict of tensors" in refusal(read_text, program(tmp_path / "a.pt", pickled))


def test_modules_that_are_nested_too_deeply_are_refused(tmp_path):
    nested = MODULE
    for _ in range(200):
        nested = MODULE + b"}(" + text_item("next") + nested + b"ub"
    assert "nested too deeply" in refusal(read_text, program(tmp_path / "deep.pt", nested))
