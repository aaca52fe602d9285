"""Fresh parameters against those of the official constructors (isl-org/lang-seg), recorded by `golden/record_fresh.py`.

Random streams differ, so what is compared is mean, deviation and bound, as far as samples of these sizes tell.
"""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lseg_jax import official
from lseg_jax.checkpoint import initializer
from lseg_jax.config import VIT_BASE_32, CLIPImageConfig, LSegConfig, ResNetConfig, TextConfig
from lseg_jax.head import LogitBlock
from vlseg.checkpoints.directory import Weights
from vlseg.checkpoints.rules import CONVOLUTION, flatten

RECORDED = json.loads(Path(__file__).with_name("golden").joinpath("fresh.json").read_text())
TIMES = 1000


def model(config):
    """Official name -> values of a fresh model."""
    variables = jax.jit(initializer(config))(jax.random.key(3))
    return official.to_official(Weights(jax.tree.map(np.asarray, variables)), config)


def blocks(_):
    """The same of many blocks."""
    block, logits = LogitBlock("bottleneck", 1, "lrelu"), jnp.zeros((1, 4, 4, 3))
    made = jax.vmap(lambda key: block.init(key, logits)["params"])(jax.random.split(jax.random.key(3), TIMES))
    kernels = np.stack([CONVOLUTION.to_official(kernel) for kernel in np.asarray(made["kernel"])])
    return {f"{official.BLOCK}.weight": kernels, f"{official.BLOCK}.bias": np.asarray(made["bias"])}


def part(encoder, params, name):
    """The same of one part of a model, without stacked layers."""
    flat = {f"params/{name}/{path}": np.asarray(value) for path, value in flatten(params).items()}
    rules = [rule for rule in encoder.official_rules() if rule.path in flat]
    return {rule.official: rule.layout.to_official(flat[rule.path]) for rule in rules}


def coarsest(config):
    """The same of the reassembly whose convolution has a stride."""
    module = config.image.reassembly("float32")[-1]
    tokens = jnp.zeros((1, 5, config.image.width))
    params = jax.jit(lambda key: module.init(key, tokens, 2, 2)["params"])(jax.random.key(3))
    return part(config.image, params, "reassemble_3")


def backbone(config):
    """The same of an image encoder without reassembly."""
    module, example = config.image.module(), jnp.zeros(config.image.example.shape)
    params = jax.jit(lambda key: module.init(key, example)["params"])(jax.random.key(3))
    return part(config.image, params, "image")


def tower(config):
    """The same of CLIP's image tower."""
    made = jax.jit(config.image.module().init)(jax.random.key(3), jnp.zeros((1, 64, 64, 3)))
    flat = {f"params/image/{name}": np.asarray(value) for name, value in flatten(made["params"]).items()}
    parameters = {}
    for rule in config.image.rules(f"{PREFIX}."):
        value = flat[rule.path]
        parameters[rule.official] = rule.layout.to_official(value if rule.layer is None else value[rule.layer])
    return parameters


PREFIX = "clip_pretrained"
TEXT = TextConfig(layers=2, vocabulary=4096)
MODELS = {
    "vitl16": (coarsest, LSegConfig()),
    "vitb32": (model, LSegConfig(TEXT, dataclasses.replace(VIT_BASE_32, width=192, heads=3, layers=4))),
    "resnet": (backbone, LSegConfig(image=ResNetConfig((1, 1, 1, 1)))),
    "clip": (tower, LSegConfig(image=CLIPImageConfig(16, 256, 4, 4, 4))),
    "block": (blocks, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_fresh_parameters_start_as_the_official_ones(name):
    make, config = MODELS[name]
    found, recorded = make(config), RECORDED[name]
    assert recorded.keys() <= found.keys()
    for key, statistics in recorded.items():
        assert_alike(found[key].astype(np.float64), *statistics, key)


def assert_alike(values, count, mean, deviation, bound, key):
    """Five standard errors of the mean and of the deviation, of two samples of this size."""
    assert values.size == count, key
    ours = values.mean(), values.std(), np.abs(values).max()
    if deviation == 0:
        assert ours == (mean, 0, bound), key
        return
    error = 5 * deviation * math.sqrt(2 / count)
    assert ours[0] == pytest.approx(mean, abs=error), key
    assert ours[1] == pytest.approx(deviation, abs=error), key
    # The largest of so many uniform values is next to the bound.
    uniform = bound < 1.9 * deviation
    assert ours[2] == pytest.approx(bound, rel=20 / count + 1e-5 if uniform else 0.3), key
