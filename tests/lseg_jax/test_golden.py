"""Against outputs of the official code (isl-org/lang-seg) on weights that are a function of names and shapes.

`golden/record.py` made the files, but for the one of the ViT-B/32.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lseg_jax import official
from lseg_jax.config import RESNET_101, TEXT_VIT, VIT_BASE_32, VIT_LARGE_16, LSegConfig, TextConfig
from lseg_jax.lseg import LSegNet
from vlseg.checkpoints.rules import ArrayTensor
from vlseg.errors import CheckpointError

FOLDER = Path(__file__).with_name("golden")
TEXT = TextConfig(layers=2)
SHALLOW = dataclasses.replace(VIT_LARGE_16, layers=4)
CONFIGS = {
    "lseg_vitb32_bottleneck2": LSegConfig(TEXT_VIT, VIT_BASE_32, 256, "bottleneck", 2, "lrelu"),
    "lseg_vitl16_shallow_depthwise3": LSegConfig(TEXT, SHALLOW, 256, "depthwise", 3, "tanh"),
    "lseg_resnet101_zeroshot": LSegConfig(TEXT, RESNET_101),
    "lseg_vitl16": LSegConfig(TEXT, VIT_LARGE_16),
}
"""What the shapes in each file tell, together with its block."""


@dataclasses.dataclass(frozen=True)
class Golden:
    """Outputs and state dict of the official code.

    tokens: int [N, 77], or [B, N, 77] where each image has labels of its own. logits: [B, N, H, W].
    text_features: [N, C], or None. images: float32 [B, H, W, 3]. state: official name -> array.
    """

    config: LSegConfig
    tokens: np.ndarray
    logits: np.ndarray
    text_features: np.ndarray | None
    images: np.ndarray
    state: Mapping[str, np.ndarray]

    @property
    def tensors(self):
        return {name: ArrayTensor(value) for name, value in self.state.items()}


FAST, FULL = list(CONFIGS)[:3], pytest.param("lseg_vitl16", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def golden(request, golden_tensor):
    with np.load(FOLDER / f"{request.param}.npz") as arrays:
        meta = json.loads(str(arrays["meta"]))
        tokens, logits, text_features = arrays["tokens"], arrays["logits"], arrays.get("text_features")
    state = {name: golden_tensor(name, tuple(shape)) for name, shape in meta["spec"].items()}
    images = np.random.default_rng(7).uniform(-1, 1, (len(logits), 3, *meta["hw"])).astype(np.float32)
    return Golden(CONFIGS[request.param], tokens, logits, text_features, images.transpose(0, 2, 3, 1), state)


@pytest.fixture(scope="module")
def shapes():
    """Of the model with a ViT-B/32 and a bottleneck block."""
    with np.load(FOLDER / "lseg_vitb32_bottleneck2.npz") as arrays:
        return {name: tuple(shape) for name, shape in json.loads(str(arrays["meta"]))["spec"].items()}


@pytest.mark.parametrize("golden", [*FAST, FULL], indirect=True)
def test_outputs(golden):
    config = golden.config
    found = {name: value.shape for name, value in golden.state.items()}
    assert official.config_from_official(found, config.block, config.block_depth, config.activation) == config
    converted = official.from_official(golden.tensors, config, jnp.asarray)

    @jax.jit
    def run(variables, images, tokens):
        model = LSegNet(config)
        labels = model.apply(variables, tokens.reshape(-1, tokens.shape[-1]), method=LSegNet.encode_text)
        labels = labels.reshape(*tokens.shape[:-1], -1)
        return labels, model.apply(variables, images, labels, method=LSegNet.segment)

    labels, logits = run(converted.variables, golden.images, golden.tokens)
    np.testing.assert_allclose(np.moveaxis(logits, -1, 1), golden.logits, rtol=0, atol=1e-4)
    if golden.text_features is not None:
        expected = golden.text_features / np.linalg.norm(golden.text_features, axis=-1, keepdims=True)
        np.testing.assert_allclose(labels, expected, rtol=0, atol=1e-5)


# Between them these have every kind of name.
@pytest.mark.parametrize("golden", FAST[1:], indirect=True)
def test_there_and_back(golden):
    again = official.to_official(official.from_official(golden.tensors, golden.config), golden.config)
    assert again.keys() == golden.state.keys()
    assert all(np.array_equal(again[name], value) for name, value in golden.state.items())


def test_other_checkpoints_are_refused(shapes):
    with pytest.raises(CheckpointError, match="has a block"):
        official.config_from_official(shapes)
    for lost in (TEXT_VIT.official_mark, VIT_BASE_32.official_mark, "scratch.layer1_rn.weight"):
        with pytest.raises(CheckpointError, match=f"no {re.escape(lost)}"):
            official.config_from_official({k: v for k, v in shapes.items() if k != lost}, "bottleneck", 2)
        with pytest.raises(CheckpointError, match=re.escape(f"its {lost} has shape [3]")):
            official.config_from_official(shapes | {lost: (3,)}, "bottleneck", 2)


def test_names_that_are_missing_or_left_over_are_listed(shapes):
    tensors = {name: ArrayTensor(np.broadcast_to(np.float32(0), shape)) for name, shape in shapes.items()}
    tensors["stranger"] = tensors.pop("scratch.head1.bias")
    with pytest.raises(CheckpointError, match=r"missing: scratch\.head1\.bias; not known: stranger"):
        official.from_official(tensors, CONFIGS["lseg_vitb32_bottleneck2"])
