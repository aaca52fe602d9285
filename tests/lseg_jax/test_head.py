"""The blocks that regularize logits: any number and order of labels, one convolution for all."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lseg_jax.config import ACTIVATIONS, LSegConfig
from lseg_jax.head import LogitBlock
from vlseg.errors import ConfigError

RELU = {
    "relu": lambda x: np.maximum(x, 0),
    "lrelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
}


def logits(labels, seed=0):
    return np.random.default_rng(seed).standard_normal((2, 4, 5, labels)).astype(np.float32)


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return {"params": {"kernel": rng.standard_normal((3, 3, 1, 1)), "bias": rng.standard_normal(1)}}


def expected(kind, depth, activation, x):
    """The definition, label by label and pixel by pixel."""
    weights = variables()["params"]
    for repetition in range(depth):
        result = np.zeros_like(x)
        for _, i, j, label in np.ndindex(x.shape):
            for y, u in ((y, u) for y in (-1, 0, 1) for u in (-1, 0, 1)):
                if 0 <= i + y < x.shape[1] and 0 <= j + u < x.shape[2]:
                    result[_, i, j, label] += weights["kernel"][y + 1, u + 1, 0, 0] * x[_, i + y, j + u, label]
        result += weights["bias"]
        if kind == "bottleneck":
            result += x.max(axis=-1, keepdims=True)
        x = result if repetition == depth - 1 else RELU[activation](result)
    return x


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", ["bottleneck", "depthwise"])
def test_definition(kind, depth, activation):
    found = LogitBlock(kind, depth, activation).apply(variables(), logits(3))
    np.testing.assert_allclose(found, expected(kind, depth, activation, logits(3)), rtol=1e-4, atol=1e-4)


@given(st.permutations(range(6)), st.sampled_from(["bottleneck", "depthwise"]))
def test_the_order_of_labels_does_not_matter(order, kind):
    block = LogitBlock(kind, 2, "lrelu")
    x = logits(6)
    found = block.apply(variables(), x[..., list(order)])
    np.testing.assert_array_equal(found, np.asarray(block.apply(variables(), x))[..., list(order)])


def test_the_block_has_the_same_parameters_for_any_number_of_labels():
    shapes = [
        jax.tree.map(np.shape, LogitBlock("bottleneck", 4, "relu").init(jax.random.key(0), logits(n))) for n in (1, 9)
    ]
    assert shapes[0] == shapes[1] == {"params": {"kernel": (3, 3, 1, 1), "bias": (1,)}}


@pytest.mark.parametrize(
    "wrong", [{"block": "attention"}, {"block": "depthwise"}, {"block_depth": 2}, {"activation": "gelu"}]
)
def test_configurations_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        LSegConfig(**wrong)
