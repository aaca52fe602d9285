"""What every encoder owes the rest of LSeg: any further one of the table is held to it."""

import math
import re

import jax
import pytest

from lseg_jax import encoders, official
from lseg_jax.checkpoint import parameter_shapes
from lseg_jax.config import LSegConfig
from lseg_jax.encoders.base import STRIDES
from lseg_jax.lseg import LSegNet
from vlseg.sharding import RULES

IMAGES = [kind() for kind in encoders.IMAGES.values()]
CONFIGS = [LSegConfig(image=image) for image in IMAGES] + [LSegConfig(kind()) for kind in encoders.TEXTS.values()]


@pytest.mark.parametrize("image", IMAGES, ids=encoders.IMAGES)
def test_levels_have_the_promised_sizes(image):
    model = LSegNet(LSegConfig(image=image))
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), float)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, method=LSegNet.levels), jax.random.key(0), images)
    levels = jax.eval_shape(lambda v, x: model.apply(v, x, method=LSegNet.levels), variables, images)
    expected = [
        (1, 64 // stride, 96 // stride, channels) for stride, channels in zip(STRIDES, image.channels, strict=True)
    ]
    assert [level.shape for level in levels] == expected


@pytest.mark.parametrize("config", CONFIGS, ids=[*encoders.IMAGES, *encoders.TEXTS])
def test_every_large_parameter_has_axes(config):
    shapes, axes = parameter_shapes(config), official.AXES
    assert {axis for _, logical in axes for axis in logical if axis} <= RULES.keys()
    for name, shape in shapes.items():
        logical = next((logical for pattern, logical in axes if re.search(pattern, name)), ())
        assert len(logical) <= len(shape)
        assert logical or math.prod(shape) <= 10**5, f"{name} {shape} would be copied to every device"


def test_parts_of_a_layer_are_spread_over_heads_and_hidden_units():
    axes = official.AXES
    expected = {
        "params/image/layers_0/qkv/kernel": ("embed", None),
        "params/image/layers_3/out/kernel": ("heads", "embed"),
        "params/text/layers/fc1/kernel": ("embed", "mlp"),
        "params/text/layers/fc1/bias": ("mlp",),
        "params/text/layers/fc2/kernel": ("mlp", "embed"),
        "params/decoder/fusion1/out/kernel": ("embed",),
        "params/image/layers_0/fc2/bias": None,
    }
    for name, logical in expected.items():
        assert next((found for pattern, found in axes if re.search(pattern, name)), None) == logical
