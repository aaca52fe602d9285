"""The shapes worked out from a configuration are those of the model that it builds."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.shapes import parameter_shapes
from vlseg import state_dicts


@pytest.mark.parametrize("stages", [(1, 2), (2, 1, 1)])
def test_shapes_equal_the_models(micro_config: OFAConfig, stages: tuple[int, ...]):
    # Sizes that all differ, so that none can stand for another.
    config = dataclasses.replace(
        micro_config,
        ffn_width=112,
        encoder_layers=2,
        decoder_layers=1,
        resnet_stages=stages,
        resnet_width=4,
        segmentation_grid=6,
        query_blocks=1,
    )
    images = jnp.zeros((1, config.stride, config.stride, 3))
    variables = jax.eval_shape(OFA(config).init, jax.random.key(0), images, jnp.arange(1))
    assert parameter_shapes(config) == {name: leaf.shape for name, leaf in state_dicts.flatten(variables).items()}
