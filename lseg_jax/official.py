"""Names and layouts of official LSeg parameters (isl-org/lang-seg), both ways; bit-exact."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lseg_jax.config import LSegConfig, ResNetConfig, TextConfig, ViTConfig
from lseg_jax.dpt import SCALES
from lseg_jax.vit import DEPTHS
from vlseg.errors import CheckpointError, ConfigError
from vlseg.state_dicts import (
    CONVOLUTION,
    LINEAR,
    POINTWISE,
    SAME,
    Layout,
    Rule,
    TensorSource,
    Variables,
    assemble,
    batch_norm,
    disassemble,
    linear,
    mismatch,
    norm,
    residual_stages,
    stem,
)

TEXT, IMAGE, DECODER = "clip_pretrained", "pretrained", "scratch"

CARRIED = re.compile(
    rf"{TEXT}\.visual\.|{TEXT}\.logit_scale$|{IMAGE}\.model\.(norm|head)\.|{DECODER}\.refinenet4\.resConfUnit1\."
    r"|.*\.num_batches_tracked$"
)
"""Names that the model does not compute with: CLIP's image tower, what follows the last layer that is read out, and the
unit for the skip that the coarsest level does not have. They are carried along so that a state dict survives."""

TRANSPOSED = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Transposed convolutions are [in, out, h, w] in PyTorch."""

HEAD_WIDTH = 64
WORDS = f"{TEXT}.token_embedding.weight"
PATCHES = f"{IMAGE}.model.patch_embed.proj.weight"
STEM = f"{IMAGE}.layer1.0.weight"
BLOCK = f"{DECODER}.head_block.depthwise.depthwise"


Encoder = TypeVar("Encoder", TextConfig, ViTConfig, ResNetConfig)


class Converted(NamedTuple):
    """An official state dict in our terms.

    variables: nested dict of arrays in our layout. carried: official name -> tensor that only the official code needs.
    """

    variables: Variables
    carried: dict[str, TensorSource]


def text_rules(config: TextConfig, prefix: str = f"{TEXT}.") -> list[Rule]:
    """CLIP's text encoder by the names of openai/CLIP behind a prefix."""
    rules = [
        Rule(f"{prefix}token_embedding.weight", "params/text/token_embedding", SAME),
        Rule(f"{prefix}positional_embedding", "params/text/positions", SAME),
        Rule(f"{prefix}text_projection", "params/text/projection", SAME),
        *norm(f"{prefix}ln_final", "text/norm"),
    ]
    for layer in range(config.layers):
        source, target = f"{prefix}transformer.resblocks.{layer}", "text/layers"
        stacked = [
            Rule(f"{source}.attn.in_proj_weight", f"params/{target}/qkv/kernel", LINEAR),
            Rule(f"{source}.attn.in_proj_bias", f"params/{target}/qkv/bias", SAME),
            *linear(f"{source}.attn.out_proj", f"{target}/out"),
            *norm(f"{source}.ln_1", f"{target}/attention_norm"),
            *norm(f"{source}.ln_2", f"{target}/ffn_norm"),
            *linear(f"{source}.mlp.c_fc", f"{target}/fc1"),
            *linear(f"{source}.mlp.c_proj", f"{target}/fc2"),
        ]
        rules += [rule._replace(layer=layer) for rule in stacked]
    return rules


def vit_rules(config: ViTConfig, prefix: str = f"{IMAGE}.model.") -> list[Rule]:
    """The vision transformer by timm's names behind a prefix."""
    flat = Layout(lambda x: x[0, 0], lambda x: x[None, None])
    rules = [
        Rule(f"{prefix}patch_embed.proj.weight", "params/image/patch_kernel", CONVOLUTION),
        Rule(f"{prefix}patch_embed.proj.bias", "params/image/patch_bias", SAME),
        Rule(f"{prefix}cls_token", "params/image/class_token", flat),
        Rule(f"{prefix}pos_embed", "params/image/positions", Layout(lambda x: x[0], lambda x: x[None])),
    ]
    depth = config.layers // DEPTHS
    for layer in range(config.layers):
        block, target = f"{prefix}blocks.{layer}", f"image/layers_{layer // depth}"
        stacked = [
            *linear(f"{block}.attn.qkv", f"{target}/qkv"),
            *linear(f"{block}.attn.proj", f"{target}/out"),
            *norm(f"{block}.norm1", f"{target}/attention_norm"),
            *norm(f"{block}.norm2", f"{target}/ffn_norm"),
            *linear(f"{block}.mlp.fc1", f"{target}/fc1"),
            *linear(f"{block}.mlp.fc2", f"{target}/fc2"),
        ]
        rules += [rule._replace(layer=layer % depth) for rule in stacked]
    return rules


def _resnet(config: ResNetConfig) -> list[Rule]:
    first = f"{IMAGE}.layer1"
    names = [f"{first}.4", *(f"{IMAGE}.layer{stage}" for stage in range(2, DEPTHS + 1))]
    return [*stem(f"{first}.0", f"{first}.1", "image"), *residual_stages(names, "image", config.stages)]


def _reassemble(config: ViTConfig) -> list[Rule]:
    rules = []
    for index, scale in enumerate(SCALES[config.patch]):
        source, target = f"{IMAGE}.act_postprocess{index + 1}", f"reassemble_{index}"
        rules += linear(f"{source}.0.project.0", f"{target}/readout")
        rules += linear(f"{source}.3", f"{target}/project", POINTWISE)
        if scale != 1:
            layout = TRANSPOSED if scale > 1 else CONVOLUTION
            rules += linear(f"{source}.4", f"{target}/resample", layout)
    return rules


def _decoder() -> list[Rule]:
    rules = []
    for number in range(1, 5):
        kernel = f"params/decoder/level{number}/kernel"
        rules.append(Rule(f"{DECODER}.layer{number}_rn.weight", kernel, CONVOLUTION))
        source, target = f"{DECODER}.refinenet{number}", f"decoder/fusion{number}"
        rules += linear(f"{source}.out_conv", f"{target}/out", POINTWISE)
        units = {"resConfUnit2": "unit"} if number == DEPTHS else {"resConfUnit1": "skip_unit", "resConfUnit2": "unit"}
        for unit, ours in units.items():
            for index in (1, 2):
                kernel = f"params/{target}/{ours}/conv{index}/kernel"
                rules.append(Rule(f"{source}.{unit}.conv{index}.weight", kernel, CONVOLUTION))
                rules += batch_norm(f"{source}.{unit}.bn{index}", f"{target}/{ours}/bn{index}")
    return rules + linear(f"{DECODER}.head1", "projection", POINTWISE)


def rules(config: LSegConfig) -> list[Rule]:
    """The rule of every parameter of a model of this configuration; layers in order."""
    table = text_rules(config.text) if isinstance(config.text, TextConfig) else []
    if isinstance(config.image, ViTConfig):
        table += [*vit_rules(config.image), *_reassemble(config.image)]
    else:
        table += _resnet(config.image)
    table += _decoder()
    if config.block != "none":
        table += linear(BLOCK, "block", CONVOLUTION)
    return table


def config_from_official(
    shapes: Mapping[str, tuple[int, ...]], block: str = "none", block_depth: int = 0, activation: str = "lrelu"
) -> LSegConfig:
    """Reads the model's configuration off the shapes of an official state dict.

    Shapes tell a model with a block from one without, but neither its kind, its depth nor its activation: a checkpoint
    has them in its hyperparameters. Heads are 64 wide in all of CLIP's and timm's transformers.

    Raises:
        CheckpointError: a parameter that decides the configuration is missing or has an impossible shape, or a block
            is asked for and absent, or the other way round.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise CheckpointError(f"not an LSeg checkpoint: it has no {name}")
        if len(shapes[name]) != rank or 0 in shapes[name]:
            raise CheckpointError(f"not an LSeg checkpoint: its {name} has shape {list(shapes[name])}")
        return tuple(shapes[name])

    def count(pattern: str) -> int:
        return len({match.group(1) for name in shapes if (match := re.match(pattern, name))})

    if (f"{BLOCK}.weight" in shapes) != (block != "none"):
        raise CheckpointError(f"the checkpoint has {'a' if block == 'none' else 'no'} block, which is not {block!r}")
    vocabulary, width = shape(WORDS, 2)
    text = _encoder(
        TextConfig,
        width=width,
        heads=max(1, width // HEAD_WIDTH),
        layers=count(rf"{TEXT}\.transformer\.resblocks\.(\d+)\."),
        features=shape(f"{TEXT}.text_projection", 2)[1],
        context=shape(f"{TEXT}.positional_embedding", 2)[0],
        vocabulary=vocabulary,
    )
    image: ViTConfig | ResNetConfig
    if STEM in shapes:
        stages = [rf"{IMAGE}\.layer1\.4\.(\d+)\.", *(rf"{IMAGE}\.layer{stage}\.(\d+)\." for stage in (2, 3, 4))]
        counted = tuple(count(pattern) for pattern in stages)
        image = _encoder(ResNetConfig, stages=counted, width=shape(STEM, 4)[0])
    else:
        width, _, _, patch = shape(PATCHES, 4)
        levels = [f"{IMAGE}.act_postprocess{level}.3.weight" for level in range(1, DEPTHS + 1)]
        image = _encoder(
            ViTConfig,
            patch=patch,
            width=width,
            heads=max(1, width // HEAD_WIDTH),
            layers=count(rf"{IMAGE}\.model\.blocks\.(\d+)\."),
            grid=round((shape(f"{IMAGE}.model.pos_embed", 3)[1] - 1) ** 0.5),
            reassembled=tuple(shape(name, 4)[0] for name in levels),
        )
    features = shape(f"{DECODER}.layer1_rn.weight", 4)[0]
    return LSegConfig(text, image, features, block, block_depth, activation)


def _encoder(kind: Callable[..., Encoder], **sizes: Any) -> Encoder:
    try:
        return kind(**sizes)
    except ConfigError as error:
        raise CheckpointError(f"not an LSeg checkpoint: {error}") from error


def from_official(
    tensors: Mapping[str, TensorSource],
    config: LSegConfig,
    place: Callable[[np.ndarray], Any] = np.ascontiguousarray,
) -> Converted:
    """Official state dict -> our variables.

    Args:
        tensors: official name, without a Lightning module's "net." -> tensor, read one at a time.
        config: from `config_from_official`.
        place: what to make of each array in our layout.

    Raises:
        CheckpointError: names are missing or left over; both are listed.
    """
    table = rules(config)
    ours = {rule.official for rule in table}
    carried = {name: tensor for name, tensor in tensors.items() if name not in ours and CARRIED.match(name)}
    missing, unused = ours - tensors.keys(), tensors.keys() - ours - carried.keys()
    if missing or unused:
        raise CheckpointError(mismatch(missing, unused, "an LSeg model"))
    return Converted(assemble(table, lambda rule: tensors[rule.official].read(), place), carried)


def to_official(converted: Converted, config: LSegConfig) -> dict[str, np.ndarray]:
    """Inverse of `from_official`: official name -> array."""
    carried = {name: tensor.read() for name, tensor in converted.carried.items()}
    return disassemble(rules(config), converted.variables) | carried
