"""A ResNet (He et al. 2016; torchvision) whose stages are the levels."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax.encoders.base import STRIDES, ImageEncoder
from vlseg import fields
from vlseg.checkpoints.foreign import Format, Shapes, count, shape_of
from vlseg.checkpoints.rules import Rule, residual_stages, stem
from vlseg.errors import ConfigError
from vlseg.fields import Length, Range
from vlseg.nn import resnet

STAGES = tuple(f"layer{number}" for number in range(1, len(STRIDES) + 1))
OFFICIAL_STAGES = ("pretrained.layer1.4", *(f"pretrained.{stage}" for stage in STAGES[1:]))
"""Officially "layer1" is the stem, a pooling and the first stage."""

MAX_BLOCKS = 256

TORCHVISION = Format(
    "a ResNet by the names of torchvision",
    "layer1.0.conv1.weight",
    re.compile(r"fc\.|.*\.num_batches_tracked$"),
    r"layer[1-4]\.(\d+)\.",
)


@dataclasses.dataclass(frozen=True)
class ResNetConfig(ImageEncoder):
    """A ResNet (He et al. 2016) whose four stages are the levels, as in the paper's zero-shot experiments.

    Attributes:
        stages: blocks per stage. width: channels of the stem.
    """

    formats = (TORCHVISION,)
    official_mark = "pretrained.layer1.0.weight"
    official_name = "resnet101"
    axes = ((r"/image/.*kernel$", ("embed",)),)
    mean = (0.485, 0.456, 0.406)
    deviation = (0.229, 0.224, 0.225)
    heads = 0
    undivided = "a ResNet"

    stages: Annotated[tuple[Annotated[int, Range(1, 2**11)], ...], Length(0, 16)] = (3, 4, 23, 3)
    width: Annotated[int, Range(1, 2048)] = 64

    def __post_init__(self) -> None:
        fields.check(self)
        if len(self.stages) != len(STRIDES):
            raise ConfigError(f"{len(self.stages)} stages are not four")

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(4 * self.width * 2**stage for stage in range(len(self.stages)))

    def module(self, dtype: str = "float32", remat: str = "none") -> nn.Module:
        if sum(self.stages) > MAX_BLOCKS:  # each is compiled for itself
            raise ConfigError(f"{sum(self.stages)} blocks are more than {MAX_BLOCKS}")
        return resnet.ResNet(self.stages, self.width, jnp.dtype(dtype))

    def levels(
        self, encoder: nn.Module, reassembly: Sequence[nn.Module], images: jax.Array, *, train: bool
    ) -> list[jax.Array]:
        return encoder(images, train=train)

    def rules(self) -> list[Rule]:
        return [*stem("conv1", "bn1", "image"), *residual_stages(STAGES, "image", self.stages)]

    def official_rules(self) -> list[Rule]:
        first = [*stem("pretrained.layer1.0", "pretrained.layer1.1", "image")]
        return [*first, *residual_stages(OFFICIAL_STAGES, "image", self.stages)]

    @classmethod
    def from_shapes(cls, shapes: Shapes, first: str = "conv1.weight", stages: Sequence[str] = STAGES) -> "ResNetConfig":
        blocks = tuple(count(shapes, rf"{re.escape(stage)}\.(\d+)\.") for stage in stages)
        return cls(blocks, shape_of(shapes, first, 4)[0])

    @classmethod
    def from_official(cls, shapes: Shapes) -> "ResNetConfig":
        return cls.from_shapes(shapes, cls.official_mark, OFFICIAL_STAGES)

    def flops(self, height: int, width: int) -> int:
        return resnet.flops(self.stages, self.width, height, width)


RESNET_101 = ResNetConfig()
