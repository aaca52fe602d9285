"""Vision transformer read out at four depths (Dosovitskiy et al. 2021; timm's `vit_*_384`, as in isl-org/lang-seg)."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.typing import Initializer

from lseg_jax import dpt
from lseg_jax.encoders import transformer
from lseg_jax.encoders.base import STRIDES, ImageEncoder
from vlseg import fields
from vlseg.checkpoints.foreign import Format, Recipe, Shapes, count, shape_of
from vlseg.checkpoints.rules import CONVOLUTION, LINEAR, POINTWISE, SAME, Layout, Rule, each, linear, norm, stacked
from vlseg.errors import ConfigError
from vlseg.fields import Length, Range, Width
from vlseg.nn.initializers import KERNEL, uniform
from vlseg.nn.layers import LayerNorm
from vlseg.nn.resize import resize_bilinear

DEPTHS = len(STRIDES)
OFFICIAL = "pretrained.model."
"""Official LSeg checkpoints have timm's names behind this."""

TRANSPOSED = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Transposed convolutions are [in, out, h, w] in PyTorch."""

NORMAL = nn.initializers.normal(0.02)

LAYER = r"blocks\.(\d+)\."


def _fused_heads(*parts: np.ndarray) -> np.ndarray:
    """Query, key and value, each [D, heads, d] or [heads, d] -> [3 * heads * d, D] or [3 * heads * d].

    Raises:
        ValueError: d is not what `transformer.usual_heads` takes it for.
    """
    if any(part.shape[-1] != transformer.HEAD_WIDTH for part in parts):
        raise ValueError("heads of another width")
    return np.concatenate([part.reshape(*part.shape[:-2], -1).T for part in parts])


def _flat_heads(kernel: np.ndarray) -> np.ndarray:
    """[heads, d, D] -> [D, heads * d]."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def _from_flax(layers: int) -> list[Recipe]:
    """google-research/vision_transformer -> timm."""
    recipes = [
        Recipe("patch_embed.proj.weight", ("embedding/kernel",), CONVOLUTION.to_official),
        Recipe("patch_embed.proj.bias", ("embedding/bias",)),
        Recipe("cls_token", ("cls",)),
        Recipe("pos_embed", ("Transformer/posembed_input/pos_embedding",)),
    ]
    for layer in range(layers):
        source, target = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        attention = f"{source}/MultiHeadDotProductAttention_1"
        for leaf, ours in {"kernel": "weight", "bias": "bias"}.items():
            heads = tuple(f"{attention}/{part}/{leaf}" for part in ("query", "key", "value"))
            recipes.append(Recipe(f"{target}.attn.qkv.{ours}", heads, _fused_heads))
        for name, part, leaf, combine in (
            ("attn.proj", "MultiHeadDotProductAttention_1/out", "kernel", _flat_heads),
            ("norm1", "LayerNorm_0", "scale", np.asarray),
            ("norm2", "LayerNorm_2", "scale", np.asarray),
            ("mlp.fc1", "MlpBlock_3/Dense_0", "kernel", LINEAR.to_official),
            ("mlp.fc2", "MlpBlock_3/Dense_1", "kernel", LINEAR.to_official),
        ):
            recipes.append(Recipe(f"{target}.{name}.weight", (f"{source}/{part}/{leaf}",), combine))
            recipes.append(Recipe(f"{target}.{name}.bias", (f"{source}/{part}/bias",)))
    return recipes


def _layer(source: str, target: str) -> list[Rule]:
    """timm's names of a layer."""
    return [
        *each(linear, source, target, {"attn.qkv": "qkv", "attn.proj": "out"}),
        *each(norm, source, target, {"norm1": "attention_norm", "norm2": "ffn_norm"}),
        *each(linear, source, target, {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}),
    ]


TIMM = Format(
    "a vision transformer by the names of timm",
    "patch_embed.proj.weight",
    re.compile(r"(norm|head|pre_logits)\."),
    LAYER,
)
FLAX = Format(
    "a vision transformer by the names of google-research/vision_transformer",
    "embedding/kernel",
    re.compile(r"(Transformer/encoder_norm|head|pre_logits)/"),
    r"Transformer/encoderblock_(\d+)/",
    _from_flax,
)


class Style(NamedTuple):
    """What vision transformers differ in besides their sizes.

    activation, epsilon: of the feed-forward, and of norms. patch_bias: whether patches have a bias. input_norm: whether
    a norm comes before the first layer. tokens: how position embedding and class token start, a function of the width.
    fresh: how layers start.
    """

    activation: transformer.Activation
    epsilon: float
    patch_bias: bool
    input_norm: bool
    tokens: Callable[[int], Initializer]
    fresh: transformer.Fresh


TIMM_STYLE = Style(
    activation=transformer.exact_gelu,
    epsilon=1e-6,
    patch_bias=True,
    input_norm=False,
    # timm truncates at 2, which is a hundred deviations away.
    tokens=lambda width: NORMAL,
    fresh=transformer.Fresh(NORMAL, NORMAL, NORMAL, NORMAL),
)


@dataclasses.dataclass(frozen=True)
class ViTConfig(ImageEncoder):
    """A vision transformer (Dosovitskiy et al. 2021) that is read out at four depths.

    Attributes:
        patch: pixels per token along a side. width, heads, layers: of the transformer; `layers` is a multiple of four.
        grid: tokens per side of the grid that the position embedding was trained on.
        reassembled: channels of the four levels after reassembly (Ranftl et al. 2021).
    """

    formats = (TIMM, FLAX)
    official_mark: ClassVar[str | None] = f"{OFFICIAL}patch_embed.proj.weight"
    carried: ClassVar[str | None] = rf"{re.escape(OFFICIAL)}(norm|head)\."
    style: ClassVar[Style] = TIMM_STYLE
    axes = (*transformer.AXES, (r"/image/(patch_kernel|positions)$", ("embed",)), *dpt.REASSEMBLY_AXES)

    patch: Annotated[int, Range(1, 256)] = 16
    width: Width = 1024
    heads: Annotated[int, Range(1, 1024)] = 16
    layers: Annotated[int, Range(1, 2**13)] = 24
    grid: Annotated[int, Range(1, 2**11)] = 24
    reassembled: Annotated[tuple[Width, ...], Length(0, 16)] = (256, 512, 1024, 1024)

    def __post_init__(self) -> None:
        fields.check(self)
        transformer.check_heads(self.width, self.heads)
        if len(self.reassembled) != DEPTHS:
            raise ConfigError(f"{len(self.reassembled)} reassembled levels are not four")
        if self.layers % DEPTHS:
            raise ConfigError(f"{self.layers} layers cannot be read out at four equal depths")
        if self.patch not in dpt.SCALES:
            raise ConfigError(f"patches of {self.patch} pixels are not of 8, 16 or 32")

    @property
    def channels(self) -> tuple[int, ...]:
        return self.reassembled

    @property
    def official_name(self) -> str | None:
        return {16: "vitl16_384", 32: "vitb32_384"}.get(self.patch)

    def module(self, dtype: str = "float32", remat: str = "none") -> nn.Module:
        return ViT(self, dtype, remat)

    def reassembly(self, dtype: str) -> list[nn.Module]:
        scales = zip(self.reassembled, dpt.SCALES[self.patch], strict=True)
        return [dpt.Reassemble(features, scale, dtype) for features, scale in scales]

    def levels(
        self, encoder: nn.Module, reassembly: Sequence[nn.Module], images: jax.Array, *, train: bool
    ) -> list[jax.Array]:
        rows, columns = images.shape[1] // self.patch, images.shape[2] // self.patch
        return [module(tokens, rows, columns) for module, tokens in zip(reassembly, encoder(images), strict=True)]

    def rules(self, prefix: str = "") -> list[Rule]:
        flat = Layout(lambda x: x[0, 0], lambda x: x[None, None])
        rules = [
            Rule(f"{prefix}patch_embed.proj.weight", "params/image/patch_kernel", CONVOLUTION),
            Rule(f"{prefix}patch_embed.proj.bias", "params/image/patch_bias", SAME),
            Rule(f"{prefix}cls_token", "params/image/class_token", flat),
            Rule(f"{prefix}pos_embed", "params/image/positions", Layout(lambda x: x[0], lambda x: x[None])),
        ]
        return rules + self.stacked_rules(f"{prefix}blocks.{{}}", _layer)

    def stacked_rules(self, source: str, layer: Callable[[str, str], list[Rule]]) -> list[Rule]:
        """The rules of all layers from those of one, by its official name, where {} is its number, and ours."""
        depth = self.layers // DEPTHS
        rules = []
        for number in range(DEPTHS):
            layers = range(number * depth, (number + 1) * depth)
            rules += stacked(layers, layer(source, f"image/layers_{number}"))
        return rules

    def official_rules(self) -> list[Rule]:
        rules = self.rules(OFFICIAL)
        for index, scale in enumerate(dpt.SCALES[self.patch]):
            source, target = f"pretrained.act_postprocess{index + 1}", f"reassemble_{index}"
            rules += linear(f"{source}.0.project.0", f"{target}/readout")
            rules += linear(f"{source}.3", f"{target}/project", POINTWISE)
            if scale != 1:
                layout = TRANSPOSED if scale > 1 else CONVOLUTION
                rules += linear(f"{source}.4", f"{target}/resample", layout)
        return rules

    @classmethod
    def from_shapes(cls, shapes: Shapes, prefix: str = "", reassembled: tuple[int, ...] | None = None) -> "ViTConfig":
        width, _, _, patch = shape_of(shapes, f"{prefix}patch_embed.proj.weight", 4)
        return cls(
            patch=patch,
            width=width,
            heads=transformer.usual_heads(width),
            layers=count(shapes, re.escape(prefix) + LAYER),
            grid=math.isqrt(shape_of(shapes, f"{prefix}pos_embed", 3)[1] - 1) or 1,
            reassembled=reassembled or usual_reassembly(width),
        )

    @classmethod
    def from_official(cls, shapes: Shapes) -> "ViTConfig":
        levels = [f"pretrained.act_postprocess{level}.3.weight" for level in range(1, DEPTHS + 1)]
        reassembled = tuple(shape_of(shapes, name, 4)[0] for name in levels)
        return cls.from_shapes(shapes, OFFICIAL, reassembled)

    def flops(self, height: int, width: int) -> int:
        """Patches, layers and reassembly."""
        rows, columns = height // self.patch, width // self.patch
        tokens = rows * columns
        patches = 2 * 3 * self.patch**2 * self.width * tokens
        layers = self.layers * transformer.layer_flops(self.width, tokens + 1)
        return patches + layers + dpt.reassembly_flops(self.width, self.reassembled, self.patch, rows, columns)


def usual_reassembly(width: int) -> tuple[int, ...]:
    """Channels of the levels that the authors make of a transformer of this width."""
    return VIT_BASE_32.reassembled if width == VIT_BASE_32.width else (width // 4, width // 2, width, width)


VIT_LARGE_16 = ViTConfig()
VIT_BASE_32 = ViTConfig(32, 768, 12, 12, 12, (96, 192, 384, 768))


class ViT(nn.Module):
    """Patches and a class token through a transformer."""

    config: ViTConfig
    dtype: str = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Tokens after a quarter, a half, three quarters and all of the layers, before any final norm.

        Args:
            images: float [B, H, W, 3]; sides are multiples of the patch.

        Returns:
            Four arrays [B, 1 + h * w, D], class token first; h = H / patch, w = W / patch.
        """
        config, style = self.config, self.config.style
        patch, width = config.patch, config.width
        dtype = jnp.dtype(self.dtype)
        batch, rows, columns = images.shape[0], images.shape[1] // patch, images.shape[2] // patch
        kernel = self.param("patch_kernel", KERNEL, (patch, patch, 3, width)).astype(dtype)
        class_token = self.param("class_token", style.tokens(width), (width,))
        positions = self.param("positions", style.tokens(width), (1 + config.grid**2, width))
        patches = rearrange(images.astype(dtype), "b (r y) (c x) p -> b r y c x p", y=patch, x=patch)
        x = rearrange(jnp.einsum("brycxp,yxpd->brcd", patches, kernel), "b r c d -> b (r c) d")
        if style.patch_bias:
            x += self.param("patch_bias", uniform(3 * patch**2), (width,)).astype(dtype)
        square = rearrange(positions[1:], "(r c) d -> 1 r c d", r=config.grid)
        resized = rearrange(resize_bilinear(square, rows, columns), "1 r c d -> 1 (r c) d")
        x = x + resized.astype(dtype)
        first = jnp.broadcast_to((class_token + positions[0]).astype(dtype), (batch, 1, width))
        x = jnp.concatenate([first, x], axis=1)
        if style.input_norm:
            x = LayerNorm(style.epsilon, dtype, name="input_norm")(x)
        depths = []
        for depth in range(DEPTHS):
            stack = transformer.layers(
                config.layers // DEPTHS,
                config.heads,
                style.activation,
                style.epsilon,
                self.dtype,
                f"layers_{depth}",
                style.fresh,
                remat=self.remat == "layer",
            )
            x, _ = stack(x, None)
            depths.append(x)
        return depths
