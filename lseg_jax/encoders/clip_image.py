"""CLIP's image tower, a vision transformer, read out at four depths (Radford et al. 2021; openai/CLIP).

The LSeg paper tried it in the place of a ViT trained on ImageNet (footnote 2); the authors' code does not have it.
"""

import dataclasses
import functools
import math
import re

import flax.linen as nn

from lseg_jax.encoders import transformer
from lseg_jax.encoders.clip import NORM_EPSILON as EPSILON
from lseg_jax.encoders.clip import from_hugging_face, hugging_face_settings, layer_rules
from lseg_jax.encoders.vit import Style, ViTConfig, usual_reassembly
from vlseg.checkpoints.foreign import Format, Recipe, Shapes, count, shape_of
from vlseg.checkpoints.rules import CONVOLUTION, SAME, Rule, norm
from vlseg.nn.initializers import KERNEL

LAYER = r"visual\.transformer\.resblocks\.(\d+)\."

STYLE = Style(
    activation=transformer.quick_gelu,
    epsilon=EPSILON,
    patch_bias=False,
    input_norm=True,
    tokens=lambda width: nn.initializers.normal(width**-0.5),
    fresh=transformer.Fresh(nn.initializers.xavier_uniform(), KERNEL, KERNEL, KERNEL, uniform_biases=True),
)


def _from_hugging_face(layers: int) -> list[Recipe]:
    """CLIP's image tower in Hugging Face transformers, whose name of the first norm lacks an e -> openai/CLIP."""
    embeddings = "vision_model.embeddings"
    return [
        Recipe("visual.conv1.weight", (f"{embeddings}.patch_embedding.weight",)),
        Recipe("visual.class_embedding", (f"{embeddings}.class_embedding",)),
        Recipe("visual.positional_embedding", (f"{embeddings}.position_embedding.weight",)),
        *from_hugging_face("vision_model", "visual.", layers, {"visual.ln_pre": "vision_model.pre_layrnorm"}),
    ]


OPENAI = Format(
    "the vision transformer of CLIP by the names of OpenAI",
    "visual.class_embedding",
    re.compile(r"(?!visual\.)|visual\.(ln_post\.|proj$)"),
    LAYER,
)
HUGGING_FACE = Format(
    "the vision transformer of CLIP by the names of Hugging Face",
    "vision_model.embeddings.class_embedding",
    re.compile(r"(?!vision_model\.)|vision_model\.(post_layernorm\.|embeddings\.position_ids$)"),
    r"vision_model\.encoder\.layers\.(\d+)\.",
    _from_hugging_face,
    functools.partial(hugging_face_settings, kind="CLIPVisionConfig"),
)


@dataclasses.dataclass(frozen=True)
class CLIPImageConfig(ViTConfig):
    """CLIP's image tower; the attributes are those of `ViTConfig`.

    Of OpenAI's, ViT-B/32 and ViT-B/16 fit the decoder's levels; patches of 14 pixels (ViT-L/14) do not.
    """

    formats = (OPENAI, HUGGING_FACE)
    official_mark = None
    official_name = None
    carried = None
    style = STYLE
    mean = (0.48145466, 0.4578275, 0.40821073)
    deviation = (0.26862954, 0.26130258, 0.27577711)

    def rules(self, prefix: str = "") -> list[Rule]:
        return [
            Rule(f"{prefix}visual.conv1.weight", "params/image/patch_kernel", CONVOLUTION),
            Rule(f"{prefix}visual.class_embedding", "params/image/class_token", SAME),
            Rule(f"{prefix}visual.positional_embedding", "params/image/positions", SAME),
            *norm(f"{prefix}visual.ln_pre", "image/input_norm"),
            *self.stacked_rules(f"{prefix}visual.transformer.resblocks.{{}}", layer_rules),
        ]

    def official_rules(self) -> list[Rule]:
        return []

    @classmethod
    def from_shapes(
        cls,
        shapes: Shapes,
        prefix: str = "",
        reassembled: tuple[int, ...] | None = None,
        heads: int | None = None,
    ) -> "CLIPImageConfig":
        width, _, _, patch = shape_of(shapes, f"{prefix}visual.conv1.weight", 4)
        return cls(
            patch=patch,
            width=width,
            heads=heads or transformer.usual_heads(width),
            layers=count(shapes, re.escape(prefix) + LAYER),
            grid=math.isqrt(shape_of(shapes, f"{prefix}visual.positional_embedding", 2)[0] - 1) or 1,
            reassembled=reassembled or usual_reassembly(width),
        )
