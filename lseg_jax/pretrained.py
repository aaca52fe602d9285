"""The weights that training starts from: CLIP's text encoder, and a vision transformer or ResNet trained on ImageNet.

They are read from the files that others publish, without PyTorch: by the names of openai/CLIP, Hugging Face
transformers, timm, google-research/vision_transformer and torchvision. What is not by a name of `lseg_jax.official` is
brought there first.
"""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import official
from lseg_jax.clip_text import CLIPText
from lseg_jax.config import VIT_BASE_32, ResNetConfig, TextConfig, ViTConfig
from lseg_jax.vit import DEPTHS, ViT
from vlseg import torch_files
from vlseg.errors import CheckpointError, ConfigError
from vlseg.nn.resnet import ResNet
from vlseg.safetensors_files import open_safetensors
from vlseg.state_dicts import (
    CONVOLUTION,
    LINEAR,
    ArrayTensor,
    Rule,
    TensorSource,
    Variables,
    assemble,
    check_shapes,
    flatten,
    mismatch,
    residual_stages,
    stem,
    unflatten,
)

Tensors = Mapping[str, TensorSource]
Shapes = Mapping[str, tuple[int, ...]]

HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
LEAVES = ("weight", "bias")
WHOLE = re.compile(r"(net\.)?(clip_pretrained|pretrained|scratch)\.|params/decoder/")
"""Names that only a whole LSeg model has."""


class Recipe(NamedTuple):
    """How one tensor with a name of `lseg_jax.official` is made.

    official: its name. names: tensors of the file. combine: makes it of them.
    """

    official: str
    names: tuple[str, ...]
    combine: Callable[..., np.ndarray] = np.asarray


class Format(NamedTuple):
    """Names that somebody publishes weights by.

    title: whose they are, and of what. mark: a name that every such file has and no other. skipped: names at whose
    start this matches belong to parts that LSeg does not have. layer: matches names of layers, with the number as group
    1. recipes: from the number of layers to names of `lseg_jax.official`; None where the names are those already.
    """

    title: str
    mark: str
    skipped: re.Pattern[str]
    layer: re.Pattern[str]
    recipes: Callable[[int], list[Recipe]] | None = None


class Combined(NamedTuple):
    """What a recipe makes of tensors, those with its names, as a `TensorSource`."""

    recipe: Recipe
    parts: tuple[TensorSource, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; nothing is read.

        Raises:
            CheckpointError: the recipe cannot take tensors of these shapes.
        """
        shapes = [tuple(part.shape) for part in self.parts]
        try:
            return tuple(self.recipe.combine(*(np.broadcast_to(np.int8(0), shape) for shape in shapes)).shape)
        except (ValueError, IndexError) as error:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in zip(self.recipe.names, shapes, strict=True))
            raise CheckpointError(f"tensors have impossible shapes: {found}") from error

    def read(self) -> np.ndarray:
        """Its values."""
        return self.recipe.combine(*(part.read() for part in self.parts))


def _concatenated(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _fused_heads(*parts: np.ndarray) -> np.ndarray:
    """Query, key and value, each [D, heads, d] or [heads, d] -> [3 * heads * d, D] or [3 * heads * d].

    Raises:
        ValueError: d is not what `_heads` takes it for.
    """
    if any(part.shape[-1] != official.HEAD_WIDTH for part in parts):
        raise ValueError("heads of another width")
    return np.concatenate([part.reshape(*part.shape[:-2], -1).T for part in parts])


def _flat_heads(kernel: np.ndarray) -> np.ndarray:
    """[heads, d, D] -> [D, heads * d]."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def _from_hugging_face(layers: int) -> list[Recipe]:
    """CLIP in Hugging Face transformers -> openai/CLIP."""
    embeddings = "text_model.embeddings"
    recipes = [
        Recipe("token_embedding.weight", (f"{embeddings}.token_embedding.weight",)),
        Recipe("positional_embedding", (f"{embeddings}.position_embedding.weight",)),
        Recipe("text_projection", ("text_projection.weight",), LINEAR.to_ours),
    ]
    renamed = {"ln_final": "text_model.final_layer_norm"}
    for layer in range(layers):
        source, target = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        renamed[f"{target}.attn.out_proj"] = f"{source}.self_attn.out_proj"
        for number in (1, 2):
            renamed[f"{target}.ln_{number}"] = f"{source}.layer_norm{number}"
        renamed[f"{target}.mlp.c_fc"] = f"{source}.mlp.fc1"
        renamed[f"{target}.mlp.c_proj"] = f"{source}.mlp.fc2"
        for leaf in LEAVES:
            attention = tuple(f"{source}.self_attn.{part}_proj.{leaf}" for part in "qkv")
            recipes.append(Recipe(f"{target}.attn.in_proj_{leaf}", attention, _concatenated))
    return recipes + [Recipe(f"{to}.{leaf}", (f"{of}.{leaf}",)) for to, of in renamed.items() for leaf in LEAVES]


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
        recipes.append(Recipe(f"{target}.attn.proj.weight", (f"{attention}/out/kernel",), _flat_heads))
        recipes.append(Recipe(f"{target}.attn.proj.bias", (f"{attention}/out/bias",)))
        for name, number in {"norm1": 0, "norm2": 2}.items():
            recipes.append(Recipe(f"{target}.{name}.weight", (f"{source}/LayerNorm_{number}/scale",)))
            recipes.append(Recipe(f"{target}.{name}.bias", (f"{source}/LayerNorm_{number}/bias",)))
        for name, number in {"fc1": 0, "fc2": 1}.items():
            dense = f"{source}/MlpBlock_3/Dense_{number}"
            recipes.append(Recipe(f"{target}.mlp.{name}.weight", (f"{dense}/kernel",), LINEAR.to_official))
            recipes.append(Recipe(f"{target}.mlp.{name}.bias", (f"{dense}/bias",)))
    return recipes


OPENAI = Format(
    "CLIP by the names of OpenAI",
    "token_embedding.weight",
    re.compile(r"visual\.|(logit_scale|input_resolution|context_length|vocab_size)$"),
    re.compile(r"transformer\.resblocks\.(\d+)\."),
)
HUGGING_FACE = Format(
    "CLIP by the names of Hugging Face",
    "text_model.embeddings.token_embedding.weight",
    re.compile(r"vision_model\.|visual_projection\.|logit_scale$|text_model\.embeddings\.position_ids$"),
    re.compile(r"text_model\.encoder\.layers\.(\d+)\."),
    _from_hugging_face,
)
TIMM = Format(
    "a vision transformer by the names of timm",
    "patch_embed.proj.weight",
    re.compile(r"(norm|head|pre_logits)\."),
    re.compile(r"blocks\.(\d+)\."),
)
FLAX = Format(
    "a vision transformer by the names of google-research/vision_transformer",
    "embedding/kernel",
    re.compile(r"(Transformer/encoder_norm|head|pre_logits)/"),
    re.compile(r"Transformer/encoderblock_(\d+)/"),
    _from_flax,
)
TORCHVISION = Format(
    "a ResNet by the names of torchvision",
    "layer1.0.conv1.weight",
    re.compile(r"fc\.|.*\.num_batches_tracked$"),
    re.compile(r"layer[1-4]\.(\d+)\."),
)
TEXT_FORMATS, IMAGE_FORMATS = (OPENAI, HUGGING_FACE), (TIMM, FLAX, TORCHVISION)


def read_text(path: str | os.PathLike[str]) -> tuple[TextConfig, Variables]:
    """A text encoder of CLIP, with the configuration that its shapes tell.

    Args:
        path: a safetensors file (.safetensors), a PyTorch archive (any other suffix; OpenAI's TorchScript files, too),
            or a directory as Hugging Face has it. Other parts of CLIP are skipped.

    Returns:
        The configuration, with heads 64 wide as in all of CLIP's, and {"params": {"text": ...}}, float32.

    Raises:
        CheckpointError: there is no such file, it is broken or something else; names are missing or not known, or
            shapes do not fit each other.
    """
    tensors = _open(Path(path))
    try:
        named = _named(tensors, _recognized(tensors, TEXT_FORMATS))
        config = _text_config(named)
        table = official.text_rules(config, "")
        tokens = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
        return config, _variables(named, table, CLIPText(config), tokens, "text")
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_image(path: str | os.PathLike[str]) -> tuple[ViTConfig | ResNetConfig, Variables]:
    """An image encoder, with the configuration that its shapes tell.

    Args:
        path: the same kinds as for `read_text`, and .npz. Classifiers and what leads to them are skipped.

    Returns:
        The configuration, of a vision transformer with heads 64 wide as in timm's, its position embedding on the grid
        that it was trained on; and {"params": {"image": ...}}, with {"batch_stats": {"image": ...}} of a ResNet,
        float32.

    Raises:
        CheckpointError: as in `read_text`, or LSeg cannot use such an encoder.
    """
    tensors = _open(Path(path))
    try:
        kind = _recognized(tensors, IMAGE_FORMATS)
        named = _named(tensors, kind)
        config = _resnet_config(named) if kind is TORCHVISION else _vit_config(named)
        model: nn.Module
        if isinstance(config, ResNetConfig):
            table, model = _resnet_rules(config), ResNet(config.stages, config.width)
        else:
            table, model = official.vit_rules(config, ""), ViT(config)
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        return config, _variables(named, table, model, images, "image")
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def merge(variables: Mapping[str, Any], *parts: Mapping[str, Any]) -> Variables:
    """Variables of a model with encoders put in the place of its own.

    Args:
        variables: from `LSegNet.init`; they stay as they are.
        parts: from `read_text` and `read_image`.

    Raises:
        CheckpointError: an encoder has other names or shapes than the model's; some are listed.
    """
    merged = flatten(variables)
    for part in parts:
        found = flatten(part)
        encoders = {_encoder(path) for path in found}
        replaced = {path for path in merged if _encoder(path) in encoders}
        if found.keys() != replaced:
            raise CheckpointError(mismatch(replaced - found.keys(), found.keys() - replaced, "the model's encoder"))
        check_shapes(_shapes(found), {path: tuple(merged[path].shape) for path in replaced})
        merged |= found
    return unflatten(merged)


def _encoder(path: str) -> str:
    """The encoder that a path in our variables is of, such as "text" for "params/text/norm/scale"."""
    return path.split("/")[1]


def _open(path: Path) -> Tensors:
    if path.is_dir():
        found = [path / name for name in HUGGING_FACE_FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path} has no {' and no '.join(HUGGING_FACE_FILES)}")
        path = found[0]
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix == ".npz":
        return _open_npz(path)
    return torch_files.load_state_dict(path)


def _open_npz(path: Path) -> Tensors:
    try:
        with np.load(path) as arrays:
            return {name: ArrayTensor(arrays[name]) for name in arrays}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    # A single array is no context manager: TypeError.
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _recognized(tensors: Tensors, wanted: Sequence[Format]) -> Format:
    """The first of the formats whose mark is there; CheckpointError about what is there instead."""
    for candidate in wanted:
        if candidate.mark in tensors:
            return candidate
    if any(WHOLE.match(name) for name in tensors):
        raise CheckpointError("this is a whole LSeg model, not an encoder to start from; use --config.checkpoint")
    known = [candidate.title for candidate in (*TEXT_FORMATS, *IMAGE_FORMATS) if candidate.mark in tensors]
    found = " and ".join(known) or f"something unknown with the names {', '.join(list(tensors)[:3])}"
    expected = " or ".join(candidate.title for candidate in wanted)
    raise CheckpointError(f"this is {found}; what is expected here is {expected}")


def _named(tensors: Tensors, kind: Format) -> Tensors:
    """The tensors of the encoder by the names of `lseg_jax.official`."""
    ours = {name: tensor for name, tensor in tensors.items() if not kind.skipped.match(name)}
    if kind.recipes is None:
        return ours
    recipes = kind.recipes(_layers(ours, kind.layer))
    _check_names(ours, [name for recipe in recipes for name in recipe.names])
    return {recipe.official: Combined(recipe, tuple(ours[name] for name in recipe.names)) for recipe in recipes}


def _check_names(tensors: Tensors, needed: Iterable[str]) -> None:
    names = set(needed)
    if tensors.keys() != names:
        raise CheckpointError(mismatch(names - tensors.keys(), tensors.keys() - names, "the encoder"))


def _layers(names: Iterable[str], layer: re.Pattern[str]) -> int:
    """How many layers there are; at least one, so that an encoder without any lacks that one's names."""
    return len({match[1] for name in names if (match := layer.match(name))}) or 1


def _shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(mismatch([name], [], "the encoder"))
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"its {name} has the impossible shape {list(shape)}")
    return shape


def _heads(width: int) -> int:
    if width % official.HEAD_WIDTH:
        raise CheckpointError(f"heads of {official.HEAD_WIDTH} channels do not make up a width of {width}")
    return width // official.HEAD_WIDTH


def _text_config(tensors: Tensors) -> TextConfig:
    vocabulary, width = _shape(tensors, "token_embedding.weight", 2)
    return TextConfig(
        width=width,
        heads=_heads(width),
        layers=_layers(tensors, OPENAI.layer),
        features=_shape(tensors, "text_projection", 2)[1],
        context=_shape(tensors, "positional_embedding", 2)[0],
        vocabulary=vocabulary,
    )


def _vit_config(tensors: Tensors) -> ViTConfig:
    width, _, _, patch = _shape(tensors, "patch_embed.proj.weight", 4)
    known = {VIT_BASE_32.width: VIT_BASE_32.reassembled}
    return ViTConfig(
        patch=patch,
        width=width,
        heads=_heads(width),
        layers=_layers(tensors, TIMM.layer),
        grid=math.isqrt(_shape(tensors, "pos_embed", 3)[1] - 1) or 1,
        reassembled=known.get(width, (width // 4, width // 2, width, width)),
    )


def _resnet_config(tensors: Tensors) -> ResNetConfig:
    stages = [re.compile(rf"layer{stage}\.(\d+)\.") for stage in range(1, DEPTHS + 1)]
    return ResNetConfig(tuple(_layers(tensors, stage) for stage in stages), _shape(tensors, "conv1.weight", 4)[0])


def _resnet_rules(config: ResNetConfig) -> list[Rule]:
    stages = [f"layer{stage}" for stage in range(1, DEPTHS + 1)]
    return [*stem("conv1", "bn1", "image"), *residual_stages(stages, "image", config.stages)]


def _variables(
    tensors: Tensors, table: list[Rule], model: nn.Module, inputs: jax.ShapeDtypeStruct, encoder: str
) -> Variables:
    """The rules carried out.

    Args:
        tensors: official name -> tensor.
        model: takes `inputs` and has the parameters that are wanted. encoder: its name in a whole model.
    """
    _check_names(tensors, [rule.official for rule in table])
    expected = _parameter_shapes(model, inputs, encoder)
    check_shapes(_shapes(tensors), {rule.official: _official_shape(rule, expected[rule.path]) for rule in table})

    def read(rule: Rule) -> np.ndarray:
        return np.asarray(tensors[rule.official].read(), np.float32)

    return assemble(table, read, np.ascontiguousarray)


def _official_shape(rule: Rule, ours: tuple[int, ...]) -> tuple[int, ...]:
    one = ours if rule.layer is None else ours[1:]
    return tuple(rule.layout.to_official(np.broadcast_to(np.int8(0), one)).shape)


def _parameter_shapes(model: nn.Module, inputs: jax.ShapeDtypeStruct, encoder: str) -> Shapes:
    """Path in the variables of a whole model -> shape, of an encoder by that name."""
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return _shapes(flatten({collection: {encoder: tree} for collection, tree in variables.items()}))


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
