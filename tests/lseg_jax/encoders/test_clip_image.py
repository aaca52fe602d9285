"""CLIP's image tower against outputs of openai/CLIP (`golden/record_clip_image.py`), and its two kinds of files."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lseg_jax import checkpoint
from lseg_jax.config import VIT_BASE_32, CLIPImageConfig, LSegConfig
from lseg_jax.encoders import read_image, read_text
from lseg_jax.encoders.vit import ViT
from lseg_jax.inference import normalize
from tests import golden_weights
from vlseg import torch_files
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.errors import CheckpointError, ConfigError

CONFIG = CLIPImageConfig(patch=32, width=128, heads=2, layers=4, grid=3, reassembled=(32, 64, 128, 128))


@pytest.fixture(scope="module")
def recorded():
    """The state dict by OpenAI's names, and the tokens after each layer."""
    with np.load(Path(__file__).parent.parent / "golden/clip_image.npz") as arrays:
        spec, depths = json.loads(str(arrays["spec"])), arrays["depths"]
    return {name: golden_weights.tensor(name, tuple(shape)) for name, shape in spec.items()}, depths


def hugging_face(state):
    """The same state dict by the names of Hugging Face, with attention in three parts."""
    embeddings, renamed = "vision_model.embeddings", {}
    simple = {
        "visual.conv1.weight": f"{embeddings}.patch_embedding.weight",
        "visual.class_embedding": f"{embeddings}.class_embedding",
        "visual.positional_embedding": f"{embeddings}.position_embedding.weight",
        "visual.proj": "visual_projection.weight",
    }
    parts = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    inside = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    inside |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(CONFIG.layers):
        ours, theirs = f"visual.transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
        parts |= {f"{ours}.{name}": f"{theirs}.{other}" for name, other in inside.items()}
        for leaf in ("weight", "bias"):
            thirds = np.split(state[f"{ours}.attn.in_proj_{leaf}"], 3)
            for part, third in zip("qkv", thirds, strict=True):
                renamed[f"{theirs}.self_attn.{part}_proj.{leaf}"] = np.ascontiguousarray(third)
    simple |= {f"{name}.{leaf}": f"{other}.{leaf}" for name, other in parts.items() for leaf in ("weight", "bias")}
    return renamed | {other: np.ascontiguousarray(state[name]) for name, other in simple.items()}


TEXT = {
    "token_embedding.weight": np.ones((4, 64), np.float32),
    "transformer.resblocks.0.ln_1.weight": np.ones(64, np.float32),
    "logit_scale": np.ones((), np.float32),
}
"""Names of the other tower, which are skipped."""


def test_tokens_are_those_of_clip(recorded, tmp_path):
    state, depths = recorded
    torch_files.save(tmp_path / "clip.pt", state | TEXT)
    config, variables = read_image(tmp_path / "clip.pt")
    assert config == CONFIG
    images = np.random.default_rng(7).uniform(-2, 2, (2, 3, 96, 96)).astype(np.float32).transpose(0, 2, 3, 1)
    found = jax.jit(ViT(config).apply)({"params": variables["params"]["image"]}, images)
    scale = np.abs(depths).max()
    np.testing.assert_allclose(np.stack(found) / scale, depths / scale, rtol=0, atol=1e-5)


def test_the_names_of_hugging_face(recorded, tmp_path):
    state, _ = recorded
    torch_files.save(tmp_path / "clip.pt", state)
    _, expected = read_image(tmp_path / "clip.pt")
    folder = tmp_path / "clip"
    folder.mkdir()
    text = {"text_model.embeddings.token_embedding.weight": np.ones((4, 64), np.float32)}
    save_file(hugging_face(state) | text, folder / "model.safetensors")
    config, variables = read_image(folder)
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    vision = {"model_type": "clip_vision_model", "num_attention_heads": 4, "hidden_size": 128}
    (folder / "config.json").write_text(json.dumps(vision))
    assert read_image(folder)[0] == dataclasses.replace(CONFIG, heads=4)
    (folder / "config.json").write_text(json.dumps(vision | {"hidden_act": "gelu"}))
    with pytest.raises(CheckpointError, match="its activation is gelu"):
        read_image(folder)


def test_files_that_cannot_be_an_encoder_here(recorded, tmp_path):
    state, _ = recorded
    torch_files.save(tmp_path / "image.pt", state)
    with pytest.raises(CheckpointError, match="this is the vision transformer of CLIP by the names of OpenAI"):
        read_text(tmp_path / "image.pt")
    torch_files.save(tmp_path / "image.pt", {name: value for name, value in state.items() if "ln_pre" not in name})
    with pytest.raises(CheckpointError, match=r"missing: visual\.ln_pre"):
        read_image(tmp_path / "image.pt")
    narrow = np.ascontiguousarray(state["visual.conv1.weight"][:, :, :14, :14])
    torch_files.save(tmp_path / "image.pt", state | {"visual.conv1.weight": narrow})
    with pytest.raises(CheckpointError, match="patches of 14 pixels are not of 8, 16 or 32"):
        read_image(tmp_path / "image.pt")


def test_the_authors_have_no_such_encoder(tmp_path):
    with pytest.raises(ConfigError, match="the official code has no such image encoder"):
        checkpoint.write_official(tmp_path / "a.ckpt", Stored(LSegConfig(image=CONFIG), Weights({})))
    assert checkpoint.backbone(LSegConfig(image=CONFIG)) is None


def test_pixels_are_normalised_as_clip_normalises_them():
    image = np.full((1, 1, 1, 3), 128, np.uint8)
    expected = (128 / 255 - np.array([0.48145466, 0.4578275, 0.40821073])) / [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(normalize(LSegConfig(image=CONFIG), image)[0, 0, 0], expected, rtol=1e-5)


def test_a_known_width_has_the_reassembly_of_the_authors():
    assert CLIPImageConfig.from_shapes(
        {
            "visual.conv1.weight": (768, 3, 16, 16),
            "visual.positional_embedding": (197, 768),
            **{f"visual.transformer.resblocks.{layer}.ln_1.weight": (768,) for layer in range(12)},
        }
    ) == CLIPImageConfig(16, 768, 12, 12, 14, VIT_BASE_32.reassembled)
