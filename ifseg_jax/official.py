"""Names and layouts of official OFA and IFSeg parameters, both ways; bit-exact.

`from_official` refuses names it does not know and lists what is missing; `to_official` is its exact inverse, data types
included.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ifseg_jax.config import OFAConfig
from vlseg.errors import CheckpointError
from vlseg.state_dicts import (
    SAME,
    Rule,
    TensorSource,
    Variables,
    assemble,
    disassemble,
    linear,
    mismatch,
    norm,
    residual_stages,
    stem,
)


def _table(official: str, ours: str) -> list[Rule]:
    return [Rule(f"{official}.weight", f"params/{ours}", SAME)]


def _attention(official: str, ours: str) -> list[Rule]:
    rules = [Rule(f"{official}.c_attn", f"params/{ours}/head_scale", SAME)]
    for name, path in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        rules += linear(f"{official}.{name}", f"{ours}/{path}")
    return rules


def _feed_forward(official: str, ours: str) -> list[Rule]:
    return [
        *linear(f"{official}.fc1", f"{ours}/ffn/fc1"),
        *linear(f"{official}.fc2", f"{ours}/ffn/fc2"),
        *norm(f"{official}.ffn_layernorm", f"{ours}/ffn/norm"),
        *norm(f"{official}.final_layer_norm", f"{ours}/ffn_norm"),
    ]


def _encoder(config: OFAConfig) -> list[Rule]:
    rules = _table("encoder.type_embedding", "encoder/type_embedding")
    trunk, ours = "encoder.embed_images", "encoder/resnet"
    rules += stem(f"{trunk}.conv1", f"{trunk}.bn1", ours)
    names = [f"{trunk}.layer{stage}" for stage in range(1, len(config.resnet_stages) + 1)]
    rules += residual_stages(names, ours, config.resnet_stages)
    rules += linear("encoder.image_proj", "encoder/image_projection")
    rules += norm("encoder.layernorm_embedding", "encoder/word_norm")
    rules += norm("encoder.patch_layernorm_embedding", "encoder/image_norm")
    rules += _table("encoder.embed_positions", "encoder/word_positions")
    rules += _table("encoder.embed_image_positions", "encoder/image_positions")
    rules += norm("encoder.pos_ln", "encoder/word_position_norm")
    rules += norm("encoder.image_pos_ln", "encoder/image_position_norm")
    rules += linear("encoder.pos_q_linear", "encoder/position_query")
    rules += linear("encoder.pos_k_linear", "encoder/position_key")
    rules += norm("encoder.layer_norm", "encoder/norm")
    for layer in range(config.encoder_layers):
        source, target = f"encoder.layers.{layer}", "encoder/layers"
        stacked = _attention(f"{source}.self_attn", f"{target}/attention")
        stacked += norm(f"{source}.self_attn_layer_norm", f"{target}/attention_norm")
        stacked += norm(f"{source}.attn_ln", f"{target}/attention_output_norm")
        stacked += _feed_forward(source, target)
        stacked += _table(f"encoder.token_rel_pos_table_list.{layer}", f"{target}/token_table")
        stacked += _table(f"encoder.image_rel_pos_table_list.{layer}", f"{target}/image_table")
        rules += [rule._replace(layer=layer) for rule in stacked]
    return rules


def _decoder(config: OFAConfig) -> list[Rule]:
    rules = norm("decoder.layernorm_embedding", "decoder/embedding_norm")
    rules += norm("decoder.code_layernorm_embedding", "decoder/code_embedding_norm")
    rules += _table("decoder.embed_positions", "decoder/word_positions")
    rules += _table("decoder.embed_image_positions", "decoder/image_positions")
    rules += _table("decoder.embed_seg_positions", "decoder/cell_positions")
    rules += norm("decoder.pos_ln", "decoder/word_position_norm")
    rules += norm("decoder.image_pos_ln", "decoder/image_position_norm")
    rules += norm("decoder.seg_pos_ln", "decoder/cell_position_norm")
    for kind in ("self", "cross"):
        rules += linear(f"decoder.{kind}_pos_q_linear", f"decoder/{kind}_position_query")
        rules += linear(f"decoder.{kind}_pos_k_linear", f"decoder/{kind}_position_key")
    rules += norm("decoder.layer_norm", "decoder/norm")
    for layer in range(config.decoder_layers):
        source, target = f"decoder.layers.{layer}", "decoder/layers"
        stacked = _attention(f"{source}.self_attn", f"{target}/attention")
        stacked += _attention(f"{source}.encoder_attn", f"{target}/cross_attention")
        stacked += norm(f"{source}.self_attn_layer_norm", f"{target}/attention_norm")
        stacked += norm(f"{source}.self_attn_ln", f"{target}/attention_output_norm")
        stacked += norm(f"{source}.encoder_attn_layer_norm", f"{target}/cross_attention_norm")
        stacked += norm(f"{source}.cross_attn_ln", f"{target}/cross_attention_output_norm")
        stacked += _feed_forward(source, target)
        for name, ours in (("token", "token"), ("image", "image"), ("seg", "cell")):
            stacked += _table(f"decoder.{name}_rel_pos_table_list.{layer}", f"{target}/{ours}_table")
        rules += [rule._replace(layer=layer) for rule in stacked]
    return rules


def rules(config: OFAConfig) -> list[Rule]:
    """The rule of every parameter of a model of this configuration; layers in order."""
    return [
        *_table("encoder.embed_tokens", "word_embedding/table"),
        *_encoder(config),
        *_decoder(config),
    ]


WORDS = "encoder.embed_tokens.weight"
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


class Converted(NamedTuple):
    """An official state dict in our terms.

    variables: nested dict of arrays in our layout.
    carried: official name -> tensor, what only the official code needs (tied copies excepted); still in the file.
    tied: which of the names in `TIED` the state dict held.
    fresh: which parameters it lacked, so that they were started fresh; they are left out on the way back.
    """

    variables: Variables
    carried: dict[str, TensorSource]
    tied: tuple[str, ...]
    fresh: tuple[str, ...] = ()


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
    tensors: Mapping[str, TensorSource],
    config: OFAConfig,
    seed: int = 0,
    place: Callable[[np.ndarray], Any] = np.ascontiguousarray,
) -> Converted:
    """Official state dict -> our variables.

    Args:
        tensors: official name -> tensor, read one at a time.
        config: from `config_from_official`.
        place: what to make of each array in our layout: keep it in the file's data type, or put it on a device.
        seed: for the parameters that an OFA checkpoint lacks: segmentation positions normal with deviation D**-0.5,
            their norm 1 and 0, their tables 0, as the official code starts them.

    Raises:
        CheckpointError: names are missing or left over (both are listed), shapes do not fit, or a tied copy differs.
    """
    table = rules(config)
    ours = {rule.official for rule in table}
    words = tensors[WORDS].read() if WORDS in tensors and not tensors.keys().isdisjoint(TIED) else None
    tied = tuple(name for name in TIED if name in tensors and _is_copy(tensors[name], words))
    carried = [name for name in tensors if name not in ours and name not in tied and CARRIED.match(name)]
    fresh = tuple(rule.official for rule in table if rule.official not in tensors)
    missing = [name for name in fresh if not ADDED_BY_IFSEG.match(name)]
    unused = set(tensors) - ours - set(TIED) - set(carried)
    if missing or unused:
        raise CheckpointError(mismatch(missing, unused, "an OFA or IFSeg model"))
    different = [name for name in TIED if name in tensors and name not in tied and name not in carried]
    if different:
        raise CheckpointError(
            f"{different[0]} differs from {WORDS}; only checkpoints with tied embeddings are supported"
        )

    def read(rule: Rule) -> np.ndarray:
        name = rule.official
        return tensors[name].read() if name in tensors else _fresh(name, config, seed)

    return Converted(assemble(table, read, place), {name: tensors[name] for name in carried}, tied, fresh)


def _is_copy(tensor: TensorSource, words: np.ndarray | None) -> bool:
    return words is not None and tuple(tensor.shape) == words.shape and np.array_equal(tensor.read(), words)


def to_official(converted: Converted, config: OFAConfig) -> dict[str, np.ndarray]:
    """Inverse of `from_official`: official name -> array; tied names share one array."""
    table = [rule for rule in rules(config) if rule.official not in converted.fresh]
    state = disassemble(table, converted.variables)
    carried = {name: tensor.read() for name, tensor in converted.carried.items()}
    return state | dict.fromkeys(converted.tied, state[WORDS]) | carried


def _fresh(official: str, config: OFAConfig, seed: int) -> np.ndarray:
    if "embed_seg_positions" in official:
        rows = config.segmentation_grid**2 + 1
        values = np.random.default_rng(seed).standard_normal((rows, config.width))
        return (values * config.width**-0.5).astype(np.float32)
    if "seg_pos_ln" in official:
        return (np.ones if official.endswith("weight") else np.zeros)(config.width, np.float32)
    return np.zeros(((2 * config.segmentation_grid - 1) ** 2 + 3, config.heads), np.float32)
