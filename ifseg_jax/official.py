"""Names and layouts of official OFA and IFSeg parameters, both ways; bit-exact.

`from_official` refuses names it does not know and lists what is missing; `to_official` is its exact inverse, data types
included.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ifseg_jax.config import INITIAL_DEVIATION, OFAConfig
from vlseg.checkpoints import efficientnet
from vlseg.checkpoints.directory import Weights
from vlseg.checkpoints.rules import (
    SAME,
    Rule,
    Tensors,
    TensorSource,
    Variables,
    assemble,
    beside,
    check_dtypes,
    check_names,
    disassemble,
    each,
    flatten,
    linear,
    norm,
    residual_stages,
    stacked,
    stem,
    unflatten,
)
from vlseg.errors import CheckpointError


def _table(official: str, ours: str) -> list[Rule]:
    return [Rule(f"{official}.weight", f"params/{ours}", SAME)]


def _attention(official: str, ours: str) -> list[Rule]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [Rule(f"{official}.c_attn", f"params/{ours}/head_scale", SAME), *each(linear, official, ours, names)]


_FEED_FORWARD_NORMS = {"ffn_layernorm": "ffn/norm", "final_layer_norm": "ffn_norm"}


def _layers(
    part: str, count: int, attentions: Mapping[str, str], norms: Mapping[str, str], tables: Mapping[str, str]
) -> list[Rule]:
    """The layers of `part`, encoder or decoder: their attentions, norms, and tables of relative positions."""
    official, ours = f"{part}.layers.{{}}", f"{part}/layers"
    lists = {f"{name}_rel_pos_table_list.{{}}": f"layers/{table}" for name, table in tables.items()}
    layer = [
        *each(_attention, official, ours, attentions),
        *each(linear, official, ours, {"fc1": "ffn/fc1", "fc2": "ffn/fc2"}),
        *each(norm, official, ours, {**norms, **_FEED_FORWARD_NORMS}),
        *each(_table, part, part, lists),
    ]
    return stacked(range(count), layer)


def _backbone(config: OFAConfig, official: str, ours: str) -> list[Rule]:
    """The image backbone. No official file has an EfficientNet-Lite: its names are those of its own weights."""
    if config.backbone == "efficientnet":
        table = efficientnet.rules(config.efficientnet_variant, ours)
        return [rule._replace(official=f"{official}.{rule.official}") for rule in table]
    stages = [f"{official}.layer{stage}" for stage in range(1, len(config.resnet_stages) + 1)]
    return [
        *stem(f"{official}.conv1", f"{official}.bn1", ours),
        *residual_stages(stages, ours, config.resnet_stages),
    ]


def _encoder(config: OFAConfig) -> list[Rule]:
    part = "encoder"
    tables = {"type_embedding": "type_embedding"}
    tables |= {"embed_positions": "word_positions", "embed_image_positions": "image_positions"}
    linears = {"image_proj": "image_projection", "pos_q_linear": "position_query", "pos_k_linear": "position_key"}
    norms = {"layernorm_embedding": "word_norm", "patch_layernorm_embedding": "image_norm", "layer_norm": "norm"}
    norms |= {"pos_ln": "word_position_norm", "image_pos_ln": "image_position_norm"}
    return [
        *each(_table, part, part, tables),
        *_backbone(config, f"{part}.embed_images", f"{part}/{config.backbone}"),
        *each(linear, part, part, linears),
        *each(norm, part, part, norms),
        *_layers(
            part,
            config.encoder_layers,
            attentions={"self_attn": "attention"},
            norms={"self_attn_layer_norm": "attention_norm", "attn_ln": "attention_output_norm"},
            tables={"token": "token_table", "image": "image_table"},
        ),
    ]


def _decoder(config: OFAConfig) -> list[Rule]:
    part = "decoder"
    tables = {"embed_positions": "word_positions", "embed_image_positions": "image_positions"}
    tables |= {"embed_seg_positions": "cell_positions"}
    linears = {"self_pos_q_linear": "self_position_query", "self_pos_k_linear": "self_position_key"}
    linears |= {"cross_pos_q_linear": "cross_position_query", "cross_pos_k_linear": "cross_position_key"}
    norms = {"layernorm_embedding": "embedding_norm", "code_layernorm_embedding": "code_embedding_norm"}
    norms |= {"pos_ln": "word_position_norm", "image_pos_ln": "image_position_norm"}
    norms |= {"seg_pos_ln": "cell_position_norm", "layer_norm": "norm"}
    layer_norms = {"self_attn_layer_norm": "attention_norm", "self_attn_ln": "attention_output_norm"}
    layer_norms |= {"encoder_attn_layer_norm": "cross_attention_norm", "cross_attn_ln": "cross_attention_output_norm"}
    return [
        *each(_table, part, part, tables),
        *each(linear, part, part, linears),
        *each(norm, part, part, norms),
        *_layers(
            part,
            config.decoder_layers,
            attentions={"self_attn": "attention", "encoder_attn": "cross_attention"},
            norms=layer_norms,
            tables={"token": "token_table", "image": "image_table", "seg": "cell_table"},
        ),
    ]


CATEGORY_TABLE = "params/category_embedding/table"
"""Path of a model's own table of category embeddings, see `OFAConfig.category_rows`."""


def rules(config: OFAConfig) -> list[Rule]:
    """The rule of every parameter of a model of this configuration; layers in order."""
    return [
        *_table("encoder.embed_tokens", "word_embedding/table"),
        *_encoder(config),
        *_decoder(config),
        *([Rule("decoder.seg_projection.weight", CATEGORY_TABLE, SAME)] if config.category_rows else []),
    ]


WORDS = "encoder.embed_tokens.weight"
MODULES = ("encoder", "decoder")
"""Which parameters are in; those of others, such as fairseq's classification heads, do not belong to the model."""

TIED = ("decoder.embed_tokens.weight", "encoder.embed_tokens_bag.weight", "decoder.output_projection.weight")
"""Official names that hold the word embedding again."""

ADDED_BY_IFSEG = re.compile(r"decoder\.(embed_seg_positions|seg_pos_ln|seg_rel_pos_table_list\.\d+)\.")
"""Parameters that OFA checkpoints lack; the official code starts them fresh."""

CARRIED = re.compile(
    r"(encoder|decoder)\.(version|(token|image|seg)_rp_bucket|image_position_idx|(bin|seg)_id_offset|region_prefix)$"
    r"|.*\.num_batches_tracked$"
    r"|(encoder|decoder)\.seg_(embed_tokens|projection)\.weight$"
    r"|decoder\.output_projection\.weight$"
)
"""Names that the model does not compute with: constant buffers; category embeddings, which are made anew from the
category names; and OFA's projection onto words where it is not tied, which the official IFSeg code drops. They are
carried along so that a state dict survives the round trip."""


UNUSED_CATEGORIES = (
    "it has a table of {} categories that may have been trained, which is not used: categories are the means of their "
    "words"
)
"""What is said of `unused_categories`."""


def config_from_official(shapes: Mapping[str, tuple[int, ...]]) -> OFAConfig:
    """Reads the model's configuration off the shapes of an official state dict.

    The trained grid is that of the segmentation positions, or 32 in an OFA checkpoint, which has none.

    Raises:
        CheckpointError: a parameter that decides the configuration is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise CheckpointError(f"not an OFA or IFSeg checkpoint: it has no {name}")
        rank = {WORDS: 2, "encoder.embed_images.conv1.weight": 4}.get(name, len(shapes[name]))
        if len(shapes[name]) != rank or 0 in shapes[name] or not shapes[name]:
            raise CheckpointError(f"not an OFA or IFSeg checkpoint: its {name} has shape {list(shapes[name])}")
        return tuple(shapes[name])

    def count(pattern: str) -> int:
        found = {match.group(1) for name in shapes if (match := re.match(pattern, name))}
        return len(found)

    words, width = shape(WORDS)
    grid = 32
    if "decoder.embed_seg_positions.weight" in shapes:
        grid = round((shape("decoder.embed_seg_positions.weight")[0] - 1) ** 0.5)
    trunk = r"encoder\.embed_images\.layer{}\.(\d+)\."
    stages = [count(trunk.format(stage)) for stage in range(1, 9)]
    return OFAConfig(
        width=width,
        ffn_width=shape("encoder.layers.0.fc1.weight")[0],
        heads=shape("encoder.layers.0.self_attn.c_attn")[0],
        encoder_layers=count(r"encoder\.layers\.(\d+)\."),
        decoder_layers=count(r"decoder\.layers\.(\d+)\."),
        resnet_stages=tuple(blocks for blocks in stages if blocks),
        resnet_width=shape("encoder.embed_images.conv1.weight")[0],
        vocabulary_size=words,
        image_grid=grid,
        segmentation_grid=grid,
        image_bucket=round((shape("encoder.embed_image_positions.weight")[0] - 1) ** 0.5),
        token_bucket=(shape("encoder.token_rel_pos_table_list.0.weight")[0] + 1) // 2,
        max_positions=shape("encoder.embed_positions.weight")[0] - 2,
    )


def from_official(
    tensors: Tensors,
    config: OFAConfig,
    seed: int = 0,
    place: Callable[[np.ndarray], Any] = np.ascontiguousarray,
) -> Weights:
    """Official state dict -> our variables.

    Args:
        tensors: official name -> tensor, read one at a time.
        config: from `config_from_official`.
        place: what to make of each array in our layout: keep it in the file's data type, or put it on a device.
        seed: for the parameters that an OFA checkpoint lacks: segmentation positions and their tables normal with
            deviation 0.02, their norm 1 and 0, as the official code starts them.

    Raises:
        CheckpointError: names are missing or left over (both are listed), shapes do not fit, or a tied copy differs.
    """
    table = rules(config)
    words = tensors[WORDS].read() if WORDS in tensors and not tensors.keys().isdisjoint(TIED) else None
    tied = tuple(name for name in TIED if name in tensors and _is_copy(tensors[name], words))
    carried = {name: tensor for name, tensor in beside(table, tensors, CARRIED).items() if name not in tied}
    fresh = tuple(rule.official for rule in table if rule.official not in tensors)
    found = tensors.keys() - carried.keys() - set(TIED) | set(filter(ADDED_BY_IFSEG.match, fresh))
    check_names(found, [rule.official for rule in table], "an OFA or IFSeg model")
    check_dtypes(tensors, [rule.official for rule in table])
    different = [name for name in TIED if name in tensors and name not in tied and name not in carried]
    if different:
        raise CheckpointError(
            f"{different[0]} differs from {WORDS}; only checkpoints with tied embeddings are supported"
        )

    def read(rule: Rule) -> np.ndarray:
        name = rule.official
        return tensors[name].read() if name in tensors else _fresh(name, config, seed)

    return Weights(assemble(table, read, place), carried, tied, fresh)


def _is_copy(tensor: TensorSource, words: np.ndarray | None) -> bool:
    return words is not None and tuple(tensor.shape) == words.shape and np.array_equal(tensor.read(), words)


def unused_categories(weights: Weights) -> int:
    """Rows of a table of categories that is only carried along although it may have been trained; 0 if there is none.

    A file of the authors does not name its categories, so that such a table cannot be used. By default it is the means
    of the categories' sub-words, which are made anew. Such means are told by a row that is one word's embedding to the
    last bit; training changes every row.
    """
    source = weights.carried.get("decoder.seg_projection.weight")
    if source is None:
        return 0
    table = np.asarray(source.read(), np.float32)
    words = np.asarray(flatten(weights.variables)["params/word_embedding/table"], np.float32)
    if table.ndim != 2 or table.shape[1] != words.shape[1]:
        return len(table)
    alike = (np.flatnonzero(words[:, 0] == row[0]) for row in table)
    means = any((words[found] == row).all(axis=1).any() for row, found in zip(table, alike, strict=True))
    return 0 if means else len(table)


def to_official(converted: Weights, config: OFAConfig) -> dict[str, np.ndarray]:
    """Inverse of `from_official`: official name -> array; tied names share one array."""
    table = [rule for rule in rules(config) if rule.official not in converted.fresh]
    state = disassemble(table, converted.variables)
    carried = {name: tensor.read() for name, tensor in converted.carried.items()}
    return state | dict.fromkeys(converted.tied, state[WORDS]) | carried


def with_fresh_segmentation(variables: Variables, config: OFAConfig, seed: int = 0) -> Variables:
    """Variables with the parameters that OFA checkpoints lack started fresh, see `from_official`."""
    added = [rule for rule in rules(config) if ADDED_BY_IFSEG.match(rule.official)]
    drawn = assemble(added, lambda rule: _fresh(rule.official, config, seed), np.ascontiguousarray)
    return unflatten({**flatten(variables), **flatten(drawn)})


def _fresh(official: str, config: OFAConfig, seed: int) -> np.ndarray:
    if "seg_pos_ln" in official:
        return (np.ones if official.endswith("weight") else np.zeros)(config.width, np.float32)
    shape = ((2 * config.segmentation_grid - 1) ** 2 + 3, config.heads)
    if "embed_seg_positions" in official:
        shape = (config.segmentation_grid**2 + 1, config.width)
    # The name is part of the seed, so that no two tables are alike.
    values = np.random.default_rng([seed, *official.encode()]).standard_normal(shape)
    return (INITIAL_DEVIATION * values).astype(np.float32)
