"""Micro models that the tests share: with a vision transformer, with either block, and with a ResNet."""

import dataclasses

import pytest

from lseg_jax import LSeg, Scheme
from lseg_jax.checkpoint import parameter_shapes
from lseg_jax.config import ResNetConfig
from tests import micro


def tokenize(text: str) -> list[int]:
    """One id for each character, without start and end token."""
    return [1 + ord(character) % 61 for character in text]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own for every test."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VLSEG_CACHE", str(path))
    return path


def shared(**changes):
    """A fixture: the micro model, changed so, which sees images at 72 pixels through windows of 64."""

    def model() -> LSeg:
        config = dataclasses.replace(micro.LSEG, **changes)
        return LSeg(config, micro.variables(parameter_shapes(config)), tokenize, Scheme(base_size=72, crop_size=64))

    return pytest.fixture(scope="session")(model)


micro_model = shared()
micro_depthwise = shared(block="depthwise", block_depth=2)
micro_bottleneck = shared(block="bottleneck", block_depth=2)
micro_resnet = shared(image=ResNetConfig(stages=(1, 1, 2, 1), width=8))
