"""Configuration of LSeg models (Li et al. 2022; isl-org/lang-seg)."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vlseg.errors import ConfigError

BLOCKS = ("none", "bottleneck", "depthwise")
ACTIVATIONS = ("relu", "lrelu", "tanh")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "layer")
PLACE = "{}"
"""Where the label goes in a template."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def _check_sizes(config: Any, *names: str) -> None:
    """Raises ConfigError unless these fields of a configuration (all without names) hold positive integers."""
    for name in names or [field.name for field in dataclasses.fields(config)]:
        value = getattr(config, name)
        sizes = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ConfigError(f"{name} is {value!r}; it must be made of positive integers")


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(f"width {width} is not a multiple of heads {heads}")


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

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_heads(self.width, self.heads)


@dataclasses.dataclass(frozen=True)
class SentenceConfig:
    """The sentence encoder MiniLM of `lseg_jax.minilm`, whose weights are a package's and no part of a model.

    Attributes:
        features: width of a text's embedding.
    """

    features: int = 384

    def __post_init__(self) -> None:
        _check_sizes(self)


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
        _check_sizes(self)
        _check_heads(self.width, self.heads)
        if len(self.reassembled) != 4:
            raise ConfigError(f"{len(self.reassembled)} reassembled levels are not four")
        if self.layers % 4:
            raise ConfigError(f"{self.layers} layers cannot be read out at four equal depths")
        if self.patch not in (8, 16, 32):
            raise ConfigError(f"patches of {self.patch} pixels are not of 8, 16 or 32")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """A ResNet (He et al. 2016) whose four stages are the levels, as in the paper's zero-shot experiments.

    Attributes:
        stages: blocks per stage. width: channels of the stem.
    """

    stages: tuple[int, ...] = (3, 4, 23, 3)
    width: int = 64

    def __post_init__(self) -> None:
        _check_sizes(self)
        if len(self.stages) != 4:
            raise ConfigError(f"{len(self.stages)} stages are not four")


@dataclasses.dataclass(frozen=True)
class LSegConfig:
    """An LSeg model.

    Attributes:
        text: the text encoder; its `features` are the width of the common embedding space.
        image: the image encoder.
        features: channels of the decoder.
        block: spatial regularization of the logits: "none", "bottleneck" or "depthwise" (paper, Sec. 3 and Table 4).
        block_depth: how often the block is applied. activation: its activation, "relu", "lrelu" or "tanh".
        template: the text that is encoded for a label, which takes the place of "{}"; the official code encodes the
            label alone.
        dtype: of the computation, "float32" or "bfloat16"; parameters, norms and logits stay float32.
        remat: what the backward pass computes again instead of keeping: "none", or all of a "layer" of the vision
            transformer but its input, which takes less memory and more time.
    """

    text: TextConfig | SentenceConfig = TextConfig()
    image: ViTConfig | ResNetConfig = ViTConfig()
    features: int = 256
    block: str = "none"
    block_depth: int = 0
    activation: str = "lrelu"
    template: str = PLACE
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        _check_sizes(self, "features")
        if not isinstance(self.template, str) or self.template.count(PLACE) != 1:
            raise ConfigError(f"template {self.template!r} must hold {PLACE} once, where the label goes")
        if self.block not in BLOCKS:
            raise ConfigError(f"block {self.block!r} is none of {', '.join(BLOCKS)}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        fitting = isinstance(self.block_depth, int) and min(self.block_depth, 1) == (self.block != "none")
        if not fitting:
            raise ConfigError(f"block {self.block!r} does not go with depth {self.block_depth}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if self.remat not in REMAT:
            raise ConfigError(f"remat {self.remat!r} is none of {', '.join(REMAT)}")

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from pixels in [0, 1]."""
        return IMAGENET_MEAN if isinstance(self.image, ResNetConfig) else (0.5, 0.5, 0.5)

    @property
    def deviation(self) -> tuple[float, ...]:
        """What pixels are divided by after that."""
        return IMAGENET_DEVIATION if isinstance(self.image, ResNetConfig) else (0.5, 0.5, 0.5)

    def text_of(self, label: str) -> str:
        """What is encoded for a label."""
        return self.template.replace(PLACE, label)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        described = dataclasses.asdict(self)
        for part, kinds in KINDS.items():
            described[part]["kind"] = next(name for name, kind in kinds.items() if kind is type(getattr(self, part)))
        return described

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LSegConfig":
        """A configuration from plain values; what is left out has its default.

        Where only the kind of an encoder was changed, the other kind's default values are left out too.

        Raises:
            ConfigError: an unknown field or kind, or a value that cannot be.
        """
        try:
            chosen = dict(values)
            for part, kinds in KINDS.items():
                fields = dict(chosen.get(part, {}))
                kind = fields.pop("kind", next(iter(kinds)))
                if kind not in kinds:
                    raise ConfigError(f"{part} encoder {kind!r} is none of {', '.join(kinds)}")
                chosen[part] = kinds[kind](**_own(kinds[kind], fields, kinds.values()))
            return cls(**chosen)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model settings: {error}") from error


def _own(kind: type, fields: Mapping[str, Any], kinds: Iterable[type]) -> dict[str, Any]:
    """The fields of an encoder without those that another kind has left behind, lists as tuples."""
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if plain.keys() <= {field.name for field in dataclasses.fields(kind)}:
        return plain
    left = {(field.name, field.default) for other in kinds if other is not kind for field in dataclasses.fields(other)}
    return {name: value for name, value in plain.items() if (name, value) not in left}


KINDS: dict[str, dict[str, type]] = {
    "text": {"clip": TextConfig, "minilm": SentenceConfig},
    "image": {"vit": ViTConfig, "resnet": ResNetConfig},
}
"""Encoders by the name that files and settings give them."""


VIT_LARGE_16 = ViTConfig()
RESNET_101 = ResNetConfig()
VIT_BASE_32 = ViTConfig(32, 768, 12, 12, 12, (96, 192, 384, 768))
TEXT_VIT = TextConfig()
TEXT_RN50X4 = TextConfig(640, 10, features=640)
TEXT_RN50X16 = TextConfig(768, 12, features=768)
