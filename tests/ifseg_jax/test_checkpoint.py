"""Shapes of parameters, which come from the model itself, against those of official checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ifseg_jax import official
from ifseg_jax.checkpoint import official_shapes, parameter_shapes
from ifseg_jax.config import DECODER_POSITIONS, OFAConfig
from ifseg_jax.ofa import OFA
from vlseg.checkpoints.rules import flatten
from vlseg.errors import ConfigError


def test_official_shapes(golden_square):
    shapes = official_shapes(official.config_from_official(golden_square.spec))
    assert shapes == {name: tuple(golden_square.spec[name]) for name in shapes}


@pytest.mark.parametrize("decoder_positions", DECODER_POSITIONS)
def test_every_parameter_has_a_shape(micro_config: OFAConfig, decoder_positions: str):
    config = dataclasses.replace(micro_config, decoder_positions=decoder_positions)
    images = jnp.zeros((1, config.stride, config.stride, 3))
    variables = jax.eval_shape(OFA(config).init, jax.random.key(0), images, jnp.arange(1))
    assert parameter_shapes(config) == {name: leaf.shape for name, leaf in flatten(variables).items()}


@pytest.mark.parametrize("settings", [{"resnet_stages": ()}, {"ffn_width": 2.5}, {"vocabulary_size": -1}])
def test_settings_that_no_model_can_have(micro_config: OFAConfig, settings: dict):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} (is|has)") as caught:
        parameter_shapes(dataclasses.replace(micro_config, **settings))
    assert "\n" not in str(caught.value)
