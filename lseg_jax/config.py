"""Configuration of LSeg models (Li et al. 2022; isl-org/lang-seg)."""

import dataclasses

from vlseg.errors import ConfigError

BLOCKS = ("none", "bottleneck", "depthwise")
ACTIVATIONS = ("relu", "lrelu", "tanh")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text transformer of CLIP (Radford et al. 2021).

    Attributes:
        width, heads, layers: of the transformer. features: width of a text's embedding.
        context: tokens of a text, padding included. vocabulary: rows of the token embedding.
    """

    width: int = 512
    heads: int = 8
    layers: int = 12
    features: int = 512
    context: int = 77
    vocabulary: int = 49408


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A vision transformer (Dosovitskiy et al. 2021) that is read out at four depths.

    Attributes:
        patch: pixels per token along a side. width, heads, layers: of the transformer; `layers` is a multiple of four.
        grid: tokens per side of the grid that the position embedding was trained on.
        reassembled: channels of the four levels after reassembly (Ranftl et al. 2021).
    """

    patch: int = 16
    width: int = 1024
    heads: int = 16
    layers: int = 24
    grid: int = 24
    reassembled: tuple[int, ...] = (256, 512, 1024, 1024)

    def __post_init__(self) -> None:
        if len(self.reassembled) != 4:
            raise ConfigError(f"{len(self.reassembled)} reassembled levels are not four")
        if self.layers % 4:
            raise ConfigError(f"{self.layers} layers cannot be read out at four equal depths")
        if self.patch not in (16, 32):
            raise ConfigError(f"patches of {self.patch} pixels are neither 16 nor 32")


@dataclasses.dataclass(frozen=True)
class LSegConfig:
    """An LSeg model.

    Attributes:
        text: the text encoder; its `features` are the width of the common embedding space.
        image: the image encoder.
        features: channels of the decoder.
        block: spatial regularization of the logits: "none", "bottleneck" or "depthwise" (paper, Sec. 3 and Table 4).
        block_depth: how often the block is applied. activation: its activation, "relu", "lrelu" or "tanh".
        dtype: of the computation, "float32" or "bfloat16"; parameters, norms and logits stay float32.
    """

    text: TextConfig = TextConfig()
    image: ViTConfig = ViTConfig()
    features: int = 256
    block: str = "none"
    block_depth: int = 0
    activation: str = "lrelu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ConfigError(f"block {self.block!r} is none of {', '.join(BLOCKS)}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        if (self.block == "none") != (self.block_depth == 0):
            raise ConfigError(f"block {self.block!r} does not go with depth {self.block_depth}")


VIT_LARGE_16 = ViTConfig()
VIT_BASE_32 = ViTConfig(32, 768, 12, 12, 12, (96, 192, 384, 768))
TEXT_VIT = TextConfig()
TEXT_RN50X4 = TextConfig(640, 10, features=640)
TEXT_RN50X16 = TextConfig(768, 12, features=768)
