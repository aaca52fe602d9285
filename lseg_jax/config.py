"""Configuration of LSeg models (Li et al. 2022; isl-org/lang-seg)."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from lseg_jax.encoders import KINDS
from lseg_jax.encoders.base import ImageEncoder, TextEncoder
from lseg_jax.encoders.clip import TEXT_VIT, TextConfig
from lseg_jax.encoders.clip_image import CLIPImageConfig
from lseg_jax.encoders.minilm import SentenceConfig
from lseg_jax.encoders.resnet import RESNET_101, ResNetConfig
from lseg_jax.encoders.vit import VIT_BASE_32, VIT_LARGE_16, ViTConfig
from vlseg import fields
from vlseg.checks import DTYPES, check_choices
from vlseg.errors import ConfigError
from vlseg.fields import Range, Width

__all__ = [
    "ACTIVATIONS",
    "BLOCKS",
    "DTYPES",
    "PLACE",
    "REMAT",
    "RESNET_101",
    "TEXT_VIT",
    "VIT_BASE_32",
    "VIT_LARGE_16",
    "CLIPImageConfig",
    "LSegConfig",
    "ResNetConfig",
    "SentenceConfig",
    "TextConfig",
    "ViTConfig",
]

BLOCKS = ("none", "bottleneck", "depthwise")
ACTIVATIONS = ("relu", "lrelu", "tanh")
REMAT = ("none", "layer")
PLACE = "{}"
"""Where the label goes in a template."""


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

    text: TextEncoder = TEXT_VIT
    image: ImageEncoder = VIT_LARGE_16
    features: Width = 256
    block: str = "none"
    block_depth: Annotated[int, Range(0, 2000)] = 0
    activation: str = "lrelu"
    template: str = PLACE
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count(PLACE) != 1:
            raise ConfigError(f"template {self.template!r} must hold {PLACE} once, where the label goes")
        check_choices(self, block=BLOCKS, activation=ACTIVATIONS, dtype=DTYPES, remat=REMAT)
        fitting = isinstance(self.block_depth, int) and min(self.block_depth, 1) == (self.block != "none")
        if not fitting:
            raise ConfigError(f"block {self.block!r} does not go with depth {self.block_depth}")
        fields.check(self)

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from pixels in [0, 1]."""
        return self.image.mean

    @property
    def deviation(self) -> tuple[float, ...]:
        """What pixels are divided by after that."""
        return self.image.deviation

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
        said = "model settings"
        chosen = dict(fields.mapping(values, said))
        for part, kinds in KINDS.items():
            own = dict(fields.mapping(chosen.get(part, {}), f"{said}: {part}"))
            kind = own.pop("kind", next(iter(kinds)))
            if not isinstance(kind, str) or kind not in kinds:
                raise ConfigError(f"{said}: {part} encoder {kind!r} is none of {', '.join(kinds)}")
            chosen[part] = fields.read(kinds[kind], _own(kinds[kind], own, kinds.values()), f"{said}: {part}")
        return fields.read(cls, chosen)


def _own(kind: type, given: Mapping[str, Any], kinds: Iterable[type]) -> dict[str, Any]:
    """The fields of an encoder without those that another kind has left behind, lists as tuples."""
    plain = {name: fields.as_tuples(value) for name, value in given.items()}
    if plain.keys() <= {field.name for field in dataclasses.fields(kind)}:
        return plain
    left = [(field.name, field.default) for other in kinds if other is not kind for field in dataclasses.fields(other)]
    return {name: value for name, value in plain.items() if (name, value) not in left}
