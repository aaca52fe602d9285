"""Counted operations against those that the compiler finds in the lowered program."""

import jax
import jax.numpy as jnp
import pytest

from ifseg_jax import flops
from ifseg_jax.config import SIZES, OFAConfig
from vlseg.nn.resnet import ResNet


def test_trunk_agrees_with_the_compiler():
    config = OFAConfig(resnet_stages=(2, 2), resnet_width=32)
    images = jnp.zeros((1, 96, 141, 3))
    model = ResNet(config.resnet_stages, config.resnet_width)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    cost = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert flops.trunk(config, 96, 141) == pytest.approx(cost["flops"], rel=0.05)


def test_transformer_by_hand():
    config = OFAConfig(width=8, ffn_width=16, heads=2, encoder_layers=1, decoder_layers=0)
    cells, words = 3, 2
    tokens = cells + words
    layer = 4 * 2 * 8 * 8 * tokens + 2 * 2 * 8 * tokens**2 + 2 * 2 * 8 * 16 * tokens
    position = 2 * 2 * 8 * 8 * tokens + 2 * 8 * tokens**2
    decoder_position = 3 * 2 * 8 * 8 * cells + 2 * 8 * 8 * tokens + 2 * 8 * 6 + 2 * 8 * cells * tokens
    assert flops.transformer(config, cells, words, 4) == layer + position + decoder_position + 2 * cells * 8 * 4


def test_larger_models_cost_more():
    costs = [flops.inference(config, 512, 683, 239, 171) for config in SIZES.values()]
    assert costs == sorted(costs)
    assert flops.image_free_step(SIZES["ofa_base"], 512, 239, 171) < 3 * costs[2]
