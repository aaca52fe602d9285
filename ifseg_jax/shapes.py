"""Shapes of a model's parameters, worked out from its configuration without building it."""

import collections
import re

import numpy as np

from ifseg_jax import official
from ifseg_jax.config import OFAConfig
from vlseg.state_dicts import Rule

Shape = tuple[int, ...]


def parameter_shapes(config: OFAConfig) -> dict[str, Shape]:
    """Path in our variables -> shape, of every parameter of a model of this configuration.

    The model itself would tell the same, but takes seconds to trace at the official sizes.
    """
    rules = official.rules(config)
    layers = collections.Counter(rule.path for rule in rules if rule.layer is not None)
    shapes = _layer_shapes(rules, config)
    return {path: (layers[path], *shape) if path in layers else shape for path, shape in shapes.items()}


def official_shapes(config: OFAConfig) -> dict[str, Shape]:
    """The same by official name, in the official layout."""
    rules = official.rules(config)
    shapes = _layer_shapes(rules, config)
    return {
        rule.official: rule.layout.to_official(np.broadcast_to(np.float32(0), shapes[rule.path])).shape
        for rule in rules
    }


def _layer_shapes(rules: list[Rule], config: OFAConfig) -> dict[str, Shape]:
    """Path -> shape, of one layer where layers are stacked."""
    trunk, rest = _resnet_shapes(config), _transformer_shapes(config)

    def shape(path: str) -> Shape:
        return next(shape for pattern, shape in rest.items() if re.fullmatch(pattern, path))

    return {path: trunk.get(path) or shape(path) for path in dict.fromkeys(rule.path for rule in rules)}


def _transformer_shapes(config: OFAConfig) -> dict[str, Shape]:
    """Pattern of paths -> shape; the first that matches counts."""
    width, hidden, heads = config.width, config.ffn_width, config.heads
    return {
        r"params/word_embedding/table": (config.vocabulary_size, width),
        r".*/type_embedding": (2, width),
        r".*/word_positions": (config.max_positions + 2, width),
        r".*/image_positions": (config.image_bucket**2 + 1, width),
        r".*/cell_positions": (config.segmentation_grid**2 + 1, width),
        r".*/token_table": (2 * config.token_bucket - 1, heads),
        r".*/image_table": ((2 * config.image_bucket - 1) ** 2 + 3, heads),
        r".*/cell_table": ((2 * config.segmentation_grid - 1) ** 2 + 3, heads),
        r".*/head_scale": (heads,),
        r".*/ffn/fc1/kernel": (width, hidden),
        r".*/ffn/fc2/kernel": (hidden, width),
        r".*/ffn/(fc1/bias|norm/scale|norm/bias)": (hidden,),
        r"params/encoder/image_projection/kernel": (config.feature_width, width),
        r".*/kernel": (width, width),
        r".*/(scale|bias)": (width,),
    }


def _resnet_shapes(config: OFAConfig) -> dict[str, Shape]:
    """The same of the image trunk: bottleneck blocks of width, width and 4 * width channels."""
    stem = config.resnet_width
    shapes = _convolution("conv1", "bn1", 7, 3, stem)
    channels = stem
    for stage, blocks in enumerate(config.resnet_stages, start=1):
        width = stem * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"layer{stage}_{block}"
            shapes |= _convolution(f"{name}/conv1", f"{name}/bn1", 1, channels, width)
            shapes |= _convolution(f"{name}/conv2", f"{name}/bn2", 3, width, width)
            shapes |= _convolution(f"{name}/conv3", f"{name}/bn3", 1, width, 4 * width)
            if block == 0:
                shapes |= _convolution(f"{name}/downsample_conv", f"{name}/downsample_bn", 1, channels, 4 * width)
            channels = 4 * width
    return shapes


def _convolution(kernel: str, norm: str, side: int, inputs: int, outputs: int) -> dict[str, Shape]:
    """A convolution without bias and the batch normalization after it."""
    leaves = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/variance")
    shapes: dict[str, Shape] = {leaf.format(f"encoder/resnet/{norm}"): (outputs,) for leaf in leaves}
    return shapes | {f"params/encoder/resnet/{kernel}/kernel": (side, side, inputs, outputs)}
