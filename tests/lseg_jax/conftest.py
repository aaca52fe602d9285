"""Micro models that the tests share: with a vision transformer, with either block, and with a ResNet."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lseg_jax import LSeg, Scheme, storage
from lseg_jax.config import LSegConfig, ResNetConfig, TextConfig, ViTConfig
from vlseg import state_dicts

# Programs run for milliseconds here and take seconds to compile, a quarter as long with these. Read at the first use of
# a device, and by the commands that tests start.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# One head each, as the official names have no place for the number and it is read off the width.
TEXT = TextConfig(width=64, heads=1, layers=2, features=24, context=40, vocabulary=64)
IMAGE = ViTConfig(patch=16, width=64, heads=1, layers=4, grid=3, reassembled=(8, 12, 16, 20))
CONFIGS = {
    "none": LSegConfig(TEXT, IMAGE, features=16),
    "depthwise": LSegConfig(TEXT, IMAGE, features=16, block="depthwise", block_depth=2),
    "bottleneck": LSegConfig(TEXT, IMAGE, features=16, block="bottleneck", block_depth=2),
    "resnet": LSegConfig(TEXT, ResNetConfig(stages=(1, 1, 2, 1), width=8), features=16),
}


def tokenize(text: str) -> list[int]:
    """One id for each character, without start and end token."""
    return [1 + ord(character) % 61 for character in text]


def drawn(config: LSegConfig, seed: int = 0):
    """Random variables, none of them 0 or 1, so that nothing can be left out unnoticed. Nothing is compiled for it.

    Patches count for much and biases for little, so that the pixels of an image differ in their best label.
    """
    rng = np.random.default_rng(seed)
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 0.7
    spreads = {"bias": 0.02, "mean": 0.02, "positions": 0.1, "class_token": 0.2, "patch_bias": 0.02}

    def draw(path: str, shape: tuple[int, ...]) -> jax.Array:
        noise = np.clip(rng.standard_normal(shape), -3, 3)
        leaf = path.rsplit("/", 1)[-1]
        if leaf in ("scale", "variance"):
            return jnp.asarray(1 + 0.1 * noise, jnp.float32)
        if path == "params/block/kernel":
            return jnp.asarray(centre + 0.1 * noise, jnp.float32)
        if leaf in ("kernel", "patch_kernel", "projection"):
            gain = 10 if leaf == "patch_kernel" else 1
            return jnp.asarray(gain * noise * np.prod(shape[:-1]) ** -0.5, jnp.float32)
        return jnp.asarray(spreads.get(leaf, 1.0) * noise, jnp.float32)

    return state_dicts.unflatten({path: draw(path, shape) for path, shape in storage.parameter_shapes(config).items()})


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own for every test."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VLSEG_CACHE", str(path))
    return path


def micro(name: str) -> LSeg:
    """A model that sees images at 72 pixels through windows of 64."""
    return LSeg(CONFIGS[name], drawn(CONFIGS[name]), tokenize, Scheme(base_size=72, crop_size=64))


@pytest.fixture(scope="session")
def micro_model() -> LSeg:
    """With a vision transformer and without a block."""
    return micro("none")


@pytest.fixture(scope="session")
def micro_depthwise() -> LSeg:
    """The same with a depthwise block."""
    return micro("depthwise")


@pytest.fixture(scope="session")
def micro_bottleneck() -> LSeg:
    """The same with a bottleneck block."""
    return micro("bottleneck")


@pytest.fixture(scope="session")
def micro_resnet() -> LSeg:
    """With a ResNet."""
    return micro("resnet")
