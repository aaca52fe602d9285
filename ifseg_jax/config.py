"""Sizes and options of the OFA encoder-decoder."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from ifseg_jax.prompt import PROMPT
from vlseg import fields
from vlseg.checks import DTYPES, check_choices
from vlseg.errors import ConfigError
from vlseg.fields import Layers, Length, Range, Share, Width
from vlseg.nn import efficientnet
from vlseg.nn.resnet import trunk_stride

DECODER_POSITIONS = ("segmentation", "encoder_image")
DECODER_INPUT_TYPES = ("encoder_output", "encoder_input")
BACKBONES = ("resnet", "efficientnet")
REMAT = ("none", "elementwise", "attention", "layer")
INITIAL_DEVIATION = 0.02
"""Of the normal distribution that fresh linear layers, embeddings and tables are drawn from (alinlab/ifseg)."""

QueryBlocks = Annotated[int, Range(1, 2**14)]


@dataclasses.dataclass(frozen=True)
class OFAConfig:
    """Everything that decides the shapes and the arithmetic of `ifseg_jax.ofa.OFA`.

    Attributes:
        width: model width D. ffn_width: hidden width of the feed-forward blocks. heads: attention heads.
        encoder_layers, decoder_layers: number of blocks.
        backbone: the network that makes image tokens of pixels: "resnet", or "efficientnet", an EfficientNet-Lite for
            small models on CPUs, see `ifseg_jax.backbone`.
        resnet_stages: blocks per stage of the ResNet; resnet_width: channels of its stem.
        efficientnet_variant: size of the EfficientNet-Lite, "lite0" to "lite4".
        vocabulary_size: rows of the word embedding (59,457 for OFA; 59,458 for IFSeg checkpoints).
        image_grid: cells per side of the grid that the image positions were trained on (32 = 512 px / 16).
        segmentation_grid: the same for the decoder's segmentation positions.
        image_bucket, token_bucket: sizes of the 2-D and 1-D relative position tables.
        max_positions: longest text; the position tables have two rows more.
        dropout, drop_path: training-time rates; stochastic depth rises linearly over the depth.
        decoder_positions: "segmentation" uses the segmentation position tables, as the official code does;
            "encoder_image" uses the encoder's image positions in the decoder, as the paper says (Sec. 2.2, footnote 4).
        decoder_input_type: what the decoder reads at each image token: "encoder_output", what the encoder made of the
            token before; or "encoder_input", that token itself, before its type embedding and norm.
        full_context_alignment: the decoder's self-attention has no causal mask on real images. Artificial images keep
            the mask, as in the official code, which passes this option on for real images alone.
        prompt_prefix: the text before the category names; "" for none.
        category_rows: rows of the table that logits of the model's own categories are taken against, which training
            with freeze_embedding=False makes; 0 where a category is the mean of its words.
        dtype: of the computation, "float32" or "bfloat16"; parameters, softmax and losses stay float32.
        remat: what the backward pass computes again instead of keeping: "none" (attention scores only), "elementwise"
            (all but the results of linear layers and of attention), "attention" (all but the results of attention), or
            "layer" (all but the input of each layer). In this order they take less memory and more time.
        query_blocks: attention is computed in this many blocks of queries, so that scores stay small.
    """

    width: Width = 768
    ffn_width: Width = 3072
    heads: Annotated[int, Range(1, 1024)] = 12
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    backbone: str = "resnet"
    resnet_stages: Annotated[tuple[Annotated[int, Range(1, 128)], ...], Length(1, 4)] = (3, 4, 23)
    resnet_width: Annotated[int, Range(1, 2048)] = 64
    efficientnet_variant: str = "lite0"
    vocabulary_size: Annotated[int, Range(4, 2**24)] = 59457
    image_grid: Annotated[int, Range(1, 256)] = 32
    segmentation_grid: Annotated[int, Range(1, 256)] = 32
    image_bucket: Annotated[int, Range(1, 256)] = 42
    token_bucket: Annotated[int, Range(2, 2**14)] = 256
    max_positions: Annotated[int, Range(1, 2**16)] = 1024
    dropout: Share = 0.1
    drop_path: Share = 0.1
    decoder_positions: str = "segmentation"
    decoder_input_type: str = "encoder_output"
    full_context_alignment: bool = False
    prompt_prefix: str = PROMPT
    category_rows: Annotated[int, Range(0, 2**20)] = 0
    dtype: str = "float32"
    remat: str = "attention"
    query_blocks: QueryBlocks = 4

    def __post_init__(self) -> None:
        fields.check(self)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}")
        check_choices(self, decoder_positions=DECODER_POSITIONS, remat=REMAT, dtype=DTYPES)
        check_choices(self, decoder_input_type=DECODER_INPUT_TYPES, backbone=BACKBONES)
        check_choices(self, efficientnet_variant=tuple(efficientnet.VARIANTS))
        for name in (name for kind, names in OF_BACKBONE.items() if kind != self.backbone for name in names):
            if (value := getattr(self, name)) != getattr(OFAConfig, name):
                raise ConfigError(f"{name}={value} has no effect with backbone={self.backbone}: leave it out")
        if max(self.image_grid, self.segmentation_grid) > self.image_bucket:
            raise ConfigError(f"grids of more than {self.image_bucket} cells a side do not fit the position tables")

    @property
    def stride(self) -> int:
        """Pixels per image token along a side."""
        return 16 if self.backbone == "efficientnet" else trunk_stride(self.resnet_stages)

    @property
    def side_multiple(self) -> int:
        """Sides of resized images are multiples of this many pixels.

        Padding of an EfficientNet, as in TensorFlow, depends on whether a side is even: only where every stride divides
        it does an image in a padded bucket equal the image alone.
        """
        return 32 if self.backbone == "efficientnet" else 1

    @property
    def artificial(self) -> "OFAConfig":
        """The same for artificial images, see `full_context_alignment`."""
        return dataclasses.replace(self, full_context_alignment=False)

    @property
    def feature_width(self) -> int:
        """Channels of the image backbone's output."""
        if self.backbone == "efficientnet":
            return sum(channels for _, channels in efficientnet.levels(self.efficientnet_variant)[1:])
        return 4 * self.resnet_width * 2 ** (len(self.resnet_stages) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self) | {"resnet_stages": list(self.resnet_stages)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OFAConfig":
        """Inverse of `to_dict`. ConfigError as `vlseg.fields.read`."""
        return fields.read(cls, values, "model")


def _size(width: int, layers: tuple[int, int], heads: int, resnet: tuple[int, ...]) -> OFAConfig:
    return OFAConfig(
        width=width,
        ffn_width=4 * width,
        heads=heads,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        resnet_stages=resnet,
    )


OF_BACKBONE: Mapping[str, tuple[str, ...]] = {
    "resnet": ("resnet_stages", "resnet_width"),
    "efficientnet": ("efficientnet_variant",),
}
"""The settings that one backbone reads."""

RESNET_50, RESNET_101, RESNET_152 = (3, 4, 6), (3, 4, 23), (3, 8, 36)

SIZES: Mapping[str, OFAConfig] = {
    "ofa_tiny": _size(256, (4, 4), 4, RESNET_50),
    "ofa_medium": _size(512, (4, 4), 8, RESNET_101),
    "ofa_base": _size(768, (6, 6), 12, RESNET_101),
    "ofa_large": _size(1024, (12, 12), 16, RESNET_152),
    "ofa_huge": _size(1280, (24, 12), 16, RESNET_152),
}
"""The five official sizes (OFA-Sys/OFA)."""
