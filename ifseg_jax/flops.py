"""Floating-point operations that the definition of the model asks for, however it is implemented.

Two per multiply-add, of convolutions, matrix products and attention only. Causal self-attention counts the pairs that
are allowed; relative-position resizing, norms, activations, softmax and the loss count nothing.
"""

from ifseg_jax.config import OFAConfig
from vlseg.nn import efficientnet, resnet


def trunk(config: OFAConfig, height: int, width: int) -> int:
    """The backbone on an image of `height` x `width` pixels."""
    if config.backbone == "efficientnet":
        return efficientnet.flops(config.efficientnet_variant, height, width)
    return resnet.flops(config.resnet_stages, config.resnet_width, height, width)


def image_projection(config: OFAConfig, cells: int) -> int:
    """The linear map from trunk features to image tokens."""
    return 2 * cells * config.feature_width * config.width


def transformer(config: OFAConfig, cells: int, words: int, categories: int) -> int:
    """Encoder, spatially conditioned decoder and category logits for `cells` image tokens and `words` words."""
    d, f, source = config.width, config.ffn_width, cells + words
    linear, pairs = 2 * d * d, 2 * d
    seen = cells * (cells + 1) if config.full_context_alignment else cells * (cells + 1) // 2
    encoder_layer = 4 * linear * source + 2 * pairs * source * source + 4 * d * f * source
    encoder_positions = 2 * linear * source + pairs * source * source
    decoder_layer = (
        4 * linear * cells  # self-attention projections
        + 2 * pairs * seen
        + 2 * linear * cells  # cross-attention query and output
        + 2 * linear * source  # cross-attention key and value
        + 2 * pairs * cells * source
        + 4 * d * f * cells
    )
    decoder_positions = 3 * linear * cells + linear * source + pairs * seen + pairs * cells * source
    return (
        config.encoder_layers * encoder_layer
        + encoder_positions
        + config.decoder_layers * decoder_layer
        + decoder_positions
        + 2 * cells * d * categories
    )


def inference(config: OFAConfig, height: int, width: int, words: int, categories: int) -> int:
    """One image of `height` x `width` pixels, from pixels to logits."""
    cells = -(-height // config.stride) * -(-width // config.stride)
    return (
        trunk(config, height, width) + image_projection(config, cells) + transformer(config, cells, words, categories)
    )


def image_free_step(config: OFAConfig, side: int, words: int, categories: int) -> int:
    """Forward and backward of one artificial image of `side` pixels: three times the forward products."""
    cells = (side // config.stride) ** 2
    return 3 * transformer(config.artificial, cells, words, categories)


def supervised_step(
    config: OFAConfig, side: int, words: int, categories: int, freeze_entire_resnet: bool = True
) -> int:
    """The same of a real image, which the trunk and its projection only see forward where they are frozen."""
    cells = (side // config.stride) ** 2
    image = trunk(config, side, side) + image_projection(config, cells)
    return (1 if freeze_entire_resnet else 3) * image + 3 * transformer(config, cells, words, categories)
