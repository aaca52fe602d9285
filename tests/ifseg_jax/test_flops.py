"""Counted operations against those that the compiler finds in the lowered program."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from ifseg_jax import flops
from ifseg_jax.checkpoint import parameter_shapes
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from vlseg.checkpoints.rules import unflatten
from vlseg.nn.resnet import ResNet


def test_trunk_agrees_with_the_compiler():
    config = OFAConfig(resnet_stages=(2, 2), resnet_width=32)
    images = jnp.zeros((1, 96, 141, 3))
    model = ResNet(config.resnet_stages, config.resnet_width)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    cost = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert flops.trunk(config, 96, 141) == pytest.approx(cost["flops"], rel=0.05)


def test_transformer_agrees_with_the_compiler():
    """Wide enough that norms, softmax and biases are little, with so many tokens that attention is much."""
    config = OFAConfig(width=512, ffn_width=1024, heads=1, encoder_layers=1, decoder_layers=1, image_grid=5)
    config = dataclasses.replace(config, segmentation_grid=5, max_positions=64, remat="none", query_blocks=16)
    variables = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in parameter_shapes(config).items()}
    arguments = [jnp.zeros(shape) for shape in ((1, 16, 16, 512), (20, 512), (1, 64, 512), (512,))]
    segment = jax.jit(functools.partial(OFA(config).apply, method=OFA.segment))
    cost = segment.lower(unflatten(variables), *arguments).cost_analysis()
    assert flops.transformer(config, 256, 64, 20) == pytest.approx(cost["flops"], rel=0.03)


@pytest.mark.parametrize("full", [False, True])
def test_transformer_by_hand(full):
    """Every product of one layer each, as [rows, inner, columns]."""
    config = OFAConfig(width=8, ffn_width=16, heads=2, encoder_layers=1, decoder_layers=1, full_context_alignment=full)
    cells, words, categories = 3, 2, 4
    each_sees = [cells + 1] * cells if full else range(1, cells + 1)
    tokens = cells + words
    linear, memory = [cells, 8, 8], [tokens, 8, 8]
    products = [
        *4 * [memory],  # encoder: query, key, value and output maps
        *[[tokens, 8, tokens], [tokens, tokens, 8]],  # scores and what they weigh
        *[[tokens, 8, 16], [tokens, 16, 8]],
        *[memory, memory, [tokens, 8, tokens]],  # its position bias
        *4 * [linear],  # decoder, among the cells: each sees those before it, or all, and <s>
        *[product for seen in each_sees for product in ([1, 8, seen], [1, seen, 8])],
        *[linear, memory, memory, linear, [cells, 8, tokens], [cells, tokens, 8]],  # to the encoder's outputs
        *[[cells, 8, 16], [cells, 16, 8]],
        *[linear, linear, *([1, 8, seen] for seen in each_sees)],  # position biases among the cells
        *[linear, memory, [cells, 8, tokens]],  # and to the encoder's outputs
        [cells, 8, categories],
    ]
    assert flops.transformer(config, cells, words, categories) == sum(2 * math.prod(product) for product in products)


def test_what_is_not_frozen_goes_backward():
    config = OFAConfig(width=8, ffn_width=16, heads=2, encoder_layers=1, decoder_layers=1, full_context_alignment=True)
    causal = dataclasses.replace(config, full_context_alignment=False)
    image = flops.trunk(config, 64, 64) + flops.image_projection(config, 16)
    assert flops.supervised_step(config, 64, 5, 3) == image + 3 * flops.transformer(config, 16, 5, 3)
    assert flops.supervised_step(config, 64, 5, 3, False) == 3 * (image + flops.transformer(config, 16, 5, 3))
    # Artificial images are decoded with the mask.
    assert flops.image_free_step(config, 64, 5, 3) == 3 * flops.transformer(causal, 16, 5, 3)
