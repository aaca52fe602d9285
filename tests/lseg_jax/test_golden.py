"""Against outputs of the official code (isl-org/lang-seg) on weights that are a function of names and shapes."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest

from lseg_jax import official
from lseg_jax.config import TEXT_VIT, VIT_BASE_32, LSegConfig
from lseg_jax.lseg import LSegNet
from vlseg.errors import CheckpointError
from vlseg.state_dicts import ArrayTensor

GOLDEN = Path(__file__).with_name("golden") / "lseg_vitb32_bottleneck2.npz"


@dataclasses.dataclass(frozen=True)
class Golden:
    """Outputs and state dict of the official code: text_features [N, C], logits [1, N, H, W]; image [1, H, W, 3]."""

    tokens: np.ndarray
    text_features: np.ndarray
    logits: np.ndarray
    image: np.ndarray
    state: Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def golden(golden_tensor):
    with np.load(GOLDEN) as arrays:
        meta = json.loads(str(arrays["meta"]))
        state = {name: golden_tensor(name, tuple(shape)) for name, shape in meta["spec"].items()}
        image = np.random.default_rng(7).uniform(-1, 1, (1, 3, *meta["hw"])).astype(np.float32)
        outputs = (arrays["tokens"], arrays["text_features"], arrays["logits"])
        return Golden(*outputs, image.transpose(0, 2, 3, 1), state)


@pytest.fixture(scope="module")
def config(golden):
    shapes = {name: value.shape for name, value in golden.state.items()}
    return official.config_from_official(shapes, "bottleneck", 2, "lrelu")


@pytest.fixture(scope="module")
def converted(golden, config):
    return official.from_official({name: ArrayTensor(value) for name, value in golden.state.items()}, config)


def test_configuration(config):
    assert config == LSegConfig(TEXT_VIT, VIT_BASE_32, 256, "bottleneck", 2, "lrelu")


def test_other_checkpoints_are_refused(golden):
    shapes = {name: value.shape for name, value in golden.state.items()}
    with pytest.raises(CheckpointError, match="has a block"):
        official.config_from_official(shapes)
    for lost in (official.WORDS, official.PATCHES, "scratch.layer1_rn.weight"):
        with pytest.raises(CheckpointError, match=f"no {re.escape(lost)}"):
            official.config_from_official({k: v for k, v in shapes.items() if k != lost}, "bottleneck", 2)
        with pytest.raises(CheckpointError, match=re.escape(f"its {lost} has shape [3]")):
            official.config_from_official(shapes | {lost: (3,)}, "bottleneck", 2)


def test_logits(golden, config, converted):
    model = LSegNet(config)
    logits = jax.jit(model.apply)(converted.variables, golden.image, golden.tokens)
    np.testing.assert_allclose(np.moveaxis(logits, -1, 1), golden.logits, rtol=0, atol=1e-4)


def test_text_features(golden, config, converted):
    embeddings = LSegNet(config).apply(converted.variables, golden.tokens, method=LSegNet.encode_text)
    expected = golden.text_features / np.linalg.norm(golden.text_features, axis=-1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)


def test_there_and_back(golden, config, converted):
    again = official.to_official(converted, config)
    assert again.keys() == golden.state.keys()
    assert all(np.array_equal(again[name], value) for name, value in golden.state.items())


def test_names_that_are_missing_or_left_over_are_listed(golden, config):
    tensors = {name: ArrayTensor(value) for name, value in golden.state.items()}
    tensors["stranger"] = tensors.pop("scratch.head1.bias")
    with pytest.raises(CheckpointError, match=r"missing: scratch\.head1\.bias; not known: stranger"):
        official.from_official(tensors, config)
