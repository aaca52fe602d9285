"""An EfficientNet-Lite (Tan and Le 2019; tensorflow/tpu, efficientnet/lite) whose maps are the levels."""

import dataclasses
import re
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax.encoders.base import ImageEncoder
from vlseg import fields
from vlseg.checkpoints import efficientnet as names
from vlseg.checkpoints.foreign import Shapes
from vlseg.checkpoints.rules import Rule
from vlseg.checks import check_choices
from vlseg.nn import efficientnet

NORMS = ("frozen", "trained")


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(ImageEncoder):
    """An EfficientNet-Lite, five million parameters and fewer: for CPUs, and for small data sets.

    It computes as TensorFlow's does (timm: tf_efficientnet_lite0 and so on). Weights that timm has trained itself
    (efficientnet_lite0, without tf_) have the same names and shapes and pad and normalise otherwise: only a folder's
    config.json tells them, and such a folder is refused.

    Attributes:
        variant: "lite0" to "lite4".
        norms: whether training normalises by the statistics that the encoder came with, "frozen", as suits batches of a
            few images, or by those of the batch, and updates them, "trained". Scales and offsets are trained in both.
    """

    formats = names.FORMATS
    axes = ((r"/image/.*kernel$", ("embed",)),)
    mean = efficientnet.MEAN
    deviation = efficientnet.DEVIATION
    heads = 0
    undivided = "an EfficientNet"

    variant: str = "lite0"
    norms: str = "frozen"

    def __post_init__(self) -> None:
        fields.check(self)
        check_choices(self, variant=tuple(efficientnet.VARIANTS), norms=NORMS)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(channels for _, channels in efficientnet.levels(self.variant))

    def module(self, dtype: str = "float32", remat: str = "none") -> nn.Module:
        return efficientnet.EfficientNet(self.variant, jnp.dtype(dtype))

    def levels(
        self, encoder: nn.Module, reassembly: Sequence[nn.Module], images: jax.Array, *, train: bool
    ) -> list[jax.Array]:
        return encoder(images, train=train and self.norms == "trained")

    def frozen(self, levels: int) -> re.Pattern[str]:
        last = efficientnet.levels(self.variant)[levels - 1][0]
        return re.compile(rf"params/image/(stem|stem_bn/\w+|block({'|'.join(map(str, range(last + 1)))})/.*)$")

    def rules(self) -> list[Rule]:
        return names.rules(self.variant, "image")

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> "EfficientNetConfig":
        return cls(names.variant_of(shapes))

    def flops(self, height: int, width: int) -> int:
        return efficientnet.flops(self.variant, height, width)
