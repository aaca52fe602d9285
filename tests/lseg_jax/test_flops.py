"""Counted operations against PyTorch's counter, the compiler's, and numbers by hand."""

import jax
import jax.numpy as jnp
import pytest

from lseg_jax import flops
from lseg_jax.config import RESNET_101, VIT_BASE_32, VIT_LARGE_16, LSegConfig, ResNetConfig, ViTConfig


@pytest.mark.parametrize(
    ("image", "height", "width", "labels", "expected"),
    [
        (VIT_LARGE_16, 480, 480, 150, 808_191_098_880),
        (VIT_BASE_32, 384, 512, 21, 147_224_825_856),
        (RESNET_101, 480, 480, 150, 227_163_340_800),
        (RESNET_101, 416, 352, 2, 138_826_907_648),
    ],
)
def test_agrees_with_pytorch(image, height, width, labels, expected):
    # torch.utils.flop_counter of torch 2.14 on benchmarks/lseg_torch.py with attention as matrix products.
    assert flops.inference(LSegConfig(image=image), height, width, labels) == expected


def test_vision_transformer_by_hand():
    config = ViTConfig(patch=32, width=8, heads=2, layers=4, reassembled=(2, 3, 4, 5))
    cells, tokens = 2 * 3, 2 * 3 + 1
    layer = 2 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8) * tokens + 2 * 2 * 8 * tokens**2
    encoder = 2 * 32 * 32 * 3 * 8 * cells + 4 * layer
    enlarged = 2 * (8**2 * 2**2 + 4**2 * 3**2 + 2**2 * 4**2) * cells
    reassembly = 4 * 2 * 16 * 8 * cells + 2 * 8 * (2 + 3 + 4 + 5) * cells + enlarged
    assert config.flops(64, 96) == encoder + reassembly


def test_residual_network_agrees_with_the_compiler():
    config = ResNetConfig((2, 1, 1, 2), 16)
    images = jnp.zeros((1, 256, 320, 3))
    model = config.module()
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    cost = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert config.flops(256, 320) == pytest.approx(cost["flops"], rel=0.05)


def test_head_by_hand():
    config = LSegConfig(block="depthwise", block_depth=3)
    plain = 2 * 16 * 32 * (256 * 512 + 512 * 7)
    assert flops.head(LSegConfig(), 32, 64, 7) == plain
    assert flops.head(config, 32, 64, 7) == plain + 3 * 2 * 9 * 16 * 32 * 7
