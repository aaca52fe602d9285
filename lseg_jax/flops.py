"""Floating-point operations that the definition of the model asks for, however it is implemented.

Two per multiply-add, of convolutions, matrix products and attention only, each at the resolution where the official
code has it: a fusion's 1x1 convolution follows its interpolation. Interpolation, norms, activations and softmax count
nothing.
"""

from lseg_jax.config import LSegConfig, ResNetConfig, ViTConfig
from lseg_jax.dpt import SCALES


def transformer_layer(width: int, tokens: int) -> int:
    """Query, key, value and output maps, attention among all tokens, and a feed-forward of four times the width."""
    return 2 * 12 * width**2 * tokens + 2 * 2 * width * tokens**2


def vit(config: ViTConfig, height: int, width: int) -> int:
    """The vision transformer on `height` x `width` pixels, up to the last layer that is read out."""
    cells = height // config.patch * (width // config.patch)
    patches = 2 * 3 * config.patch**2 * config.width * cells
    return patches + config.layers * transformer_layer(config.width, cells + 1)


def reassembly(config: ViTConfig, height: int, width: int) -> int:
    """Readout, projection and resampling of the four levels."""
    rows, columns = height // config.patch, width // config.patch
    cells = rows * columns
    total = 0
    for channels, scale in zip(config.reassembled, SCALES[config.patch], strict=True):
        total += 2 * (2 * config.width**2 + config.width * channels) * cells
        if scale > 1:
            total += 2 * round(scale) ** 2 * channels**2 * cells
        elif scale < 1:
            stride = round(1 / scale)
            total += 2 * 9 * channels**2 * -(-rows // stride) * -(-columns // stride)
    return total


def resnet(config: ResNetConfig, height: int, width: int) -> int:
    """All stages of the ResNet; the stride is that of the 3x3 convolutions."""
    h, w = height // 2, width // 2
    total = 2 * 49 * 3 * config.width * h * w
    h, w, channels = h // 2, w // 2, config.width
    for stage, blocks in enumerate(config.stages):
        inner = config.width * 2**stage
        for block in range(blocks):
            first = 2 * channels * inner * h * w
            if stage > 0 and block == 0:
                h, w = h // 2, w // 2
            shortcut = 2 * channels * 4 * inner * h * w if block == 0 else 0
            total += first + 2 * (9 + 4) * inner**2 * h * w + shortcut
            channels = 4 * inner
    return total


def decoder(config: LSegConfig, height: int, width: int) -> int:
    """Convolutions of the levels, residual units and 1x1 convolutions."""
    image, features = config.image, config.features
    channels = image.reassembled if isinstance(image, ViTConfig) else [4 * image.width * 2**stage for stage in range(4)]
    total = 0
    for level, count in enumerate(channels):
        stride = 4 * 2**level
        cells = height // stride * (width // stride)
        units = 1 if level == len(channels) - 1 else 2
        total += 2 * 9 * features * (count + 2 * units * features) * cells
        total += 2 * features**2 * 4 * cells
    return total


def head(config: LSegConfig, height: int, width: int, labels: int) -> int:
    """Projection to the common space, correlation with the labels, and all repetitions of the block."""
    cells = height // 2 * (width // 2)
    per_cell = (config.features + labels) * config.text.features + 9 * config.block_depth * labels
    return 2 * cells * per_cell


def image_encoder(config: LSegConfig, height: int, width: int) -> int:
    """The levels that the decoder takes."""
    if isinstance(config.image, ViTConfig):
        return vit(config.image, height, width) + reassembly(config.image, height, width)
    return resnet(config.image, height, width)


def training_step(config: LSegConfig, side: int, labels: int) -> int:
    """Forward and backward of one image of `side` pixels: three times the forward products."""
    return 3 * inference(config, side, side, labels)


def inference(config: LSegConfig, height: int, width: int, labels: int) -> int:
    """One image of `height` x `width` pixels, both multiples of 32, from pixels to logits for encoded labels."""
    return image_encoder(config, height, width) + decoder(config, height, width) + head(config, height, width, labels)
