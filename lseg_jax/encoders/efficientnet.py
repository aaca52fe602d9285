"""An EfficientNet-Lite (Tan and Le 2019; tensorflow/tpu, efficientnet/lite) whose maps are the levels."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax.encoders.base import ImageEncoder
from lseg_jax.encoders.foreign import Format, Recipe, Shapes
from vlseg import fields, json_files
from vlseg.checkpoints import efficientnet as names
from vlseg.checkpoints.rules import Rule
from vlseg.checks import check_choices
from vlseg.errors import CheckpointError
from vlseg.nn import efficientnet

NORMS = ("frozen", "trained")
OWN = "efficientnet_lite"
"""What timm calls those that it has trained itself; TensorFlow's have tf_ before it."""


def _timm_recipes(count: int) -> list[Recipe]:
    return [Recipe(ours, (theirs,)) for ours, theirs in names.timm_names(count).items()]


def _timm_settings(directory: Path) -> dict[str, Any]:
    """Refuses a folder of the Hugging Face Hub with weights of these names and shapes for another computation."""
    path = directory / "config.json"
    told = json_files.read(path, CheckpointError) if path.is_file() else {}
    named = told.get("architecture", "") if isinstance(told, Mapping) else ""
    if isinstance(named, str) and named.startswith(OWN):
        raise CheckpointError(
            f"this is timm's own {named}, whose padding and normalisation are others than TensorFlow's; what is "
            f"expected here is tf_{named}"
        )
    return {}


PYTORCH = Format(
    "an EfficientNet-Lite by the names of EfficientNet-PyTorch",
    names.MARK,
    names.SKIPPED,
    names.LAYER,
    check=names.check_lite,
)
TIMM = Format(
    "an EfficientNet-Lite by the names of timm",
    names.TIMM_MARK,
    names.TIMM_SKIPPED,
    names.TIMM_LAYER,
    recipes=_timm_recipes,
    settings=_timm_settings,
    check=names.check_lite,
)


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

    formats = (PYTORCH, TIMM)
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
