"""What `verify` looks at in IFSeg's models: OFA's tokens, the first layers of encoder and decoder beside NumPy's."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax import checkpoint, inference, official
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.model import IFSeg
from ifseg_jax.ofa import IMAGE_TYPE, OFA, WORD_TYPE
from ifseg_jax.prompt import PROMPT, UNKNOWN
from ifseg_jax.vocabulary import BOS
from vlseg import verification
from vlseg.checkpoints.directory import Stored
from vlseg.nn.layers import EPSILON
from vlseg.nn.numpy_layers import (
    Parameters,
    attention,
    float64,
    gelu,
    layer_norm,
    layer_of,
    linear,
    split_heads,
)
from vlseg.verification import Check, Subject, Verification

KNOWN: dict[str, tuple[int, ...]] = {
    PROMPT: (99, 16, 5, 2835, 1258, 5456, 9, 5, 2274, 116, 7626, 35),
    UNKNOWN: (4727,),
    "person": (621,),
    "clothes": (5418,),
    "flag": (3794,),
    "airplane": (16847,),
    "wall": (2204,),
    "cat": (4758,),
    "concrete wall": (6369, 2204),
    "dining table": (7824, 2103),
    "traffic light": (1703, 1109),
    "armchair": (3124, 13599),
    "bathtub": (11824, 30326),
    "bookcase": (1040, 11173),
}
"""Texts in the ids that OFA's tokenizer gives; with them the photograph needs no tokenizer."""

LABELS = ("person", "clothes", "flag", "airplane", "wall")
"""What the photograph shows; its space shuttle counts as an airplane."""

OWN_LABELS = ("tree", "house", "grass", "snow", "wood")
"""The same for models that know the words of the tiny world only, where nothing of it occurs."""

SIZE = ("width", "ffn_width", "heads", "encoder_layers", "decoder_layers", "resnet_stages")
"""What tells the official sizes apart."""

SHAPES = (
    *SIZE,
    *("backbone", "efficientnet_variant", "resnet_width", "vocabulary_size", "max_positions", "token_bucket"),
    *("image_grid", "segmentation_grid", "image_bucket"),
)
"""What a checkpoint is made for. Other settings are variants of the computation; the official one is compared."""

PARTS = ("encoder", "decoder")


def recorded(text: str) -> list[int]:
    """A tokenizer of the texts of `KNOWN`."""
    return list(KNOWN[text])


class IFSegVerification(Verification):
    """See `vlseg.verification.Verification`."""

    def describe(self, stored: Stored) -> str:
        config: OFAConfig = stored.config

        def sizes(one: OFAConfig) -> list[Any]:
            return [getattr(one, name) for name in SIZE]

        named = [name for name, size in SIZES.items() if sizes(size) == sizes(config)]
        layers = f"{config.encoder_layers} + {config.decoder_layers} layers of width {config.width}"
        return named[0] if named else f"an OFA of {layers}"

    def of_stored(self, path: Path, stored: Stored) -> Iterator[Check]:
        if not path.is_dir():
            written = official.to_official(stored.weights, stored.config)
            yield verification.same_bits(checkpoint.official_tensors(path).tensors, written)
        if rows := official.unused_categories(stored.weights):
            yield Check(None, "category table", official.UNUSED_CATEGORIES.format(rows))

    def tokens(self, model: Any) -> Check:
        if not _knows_ofa(model):
            size = model.config.vocabulary_size
            return Check(None, "tokens", f"the model has {size} words of its own, for which no ids are recorded")
        if model.tokenizer is None:
            model.names(LABELS)  # says how to get one
        return verification.tokens(KNOWN, lambda text: list(model.tokenizer(text)), "OFA's ids")

    def layers(self, model: Any) -> Iterator[Check]:
        config = dataclasses.replace(model.config, dtype="float32")  # whatever it computes in
        side = config.image_grid * config.stride
        image = verification.photograph(side)
        if config.backbone == "resnet":
            resnet = {kind: tree["encoder"]["resnet"] for kind, tree in model.variables.items()}
            corner = image[:64, :64] / 127.5 - 1
            yield verification.resnet(corner, resnet, config.resnet_width)
        else:
            yield Check(None, "image backbone", "not compared, NumPy has none of this kind")
        features = inference.image_features(config, model.variables, jnp.asarray(image)[None])
        yield from _transformer(config, model.variables["params"], features)

    def subject(self, model: Any) -> Subject:
        remark = "" if model.categories else "a model that was not adapted (train) segments poorly"
        known = _knows_ofa(model)
        if known and {model.config.prompt_prefix, *LABELS, UNKNOWN} <= {"", *KNOWN}:
            return Subject(dataclasses.replace(model, tokenizer=recorded), LABELS, remark)
        labels = LABELS if known else model.categories or OWN_LABELS
        if model.tokenizer is None:
            model.names(labels)  # says how to get one
        return Subject(model, labels, remark)


def _knows_ofa(model: IFSeg) -> bool:
    return model.words_file is None and model.config.vocabulary_size >= SIZES["ofa_base"].vocabulary_size


def _transformer(config: OFAConfig, params: Parameters, features: jax.Array) -> Iterator[Check]:
    """Encoder and decoder with one layer each on the trained grid.

    Args:
        features: of the backbone, float32 [1, g, g, C].
    """
    side, table = config.image_grid, params["word_embedding"]["table"]
    ids = [BOS, *KNOWN[PROMPT]][: config.token_bucket // 2]  # within the exact part of the table of 1-D offsets
    words, start = table[np.minimum(ids, config.vocabulary_size - 1)], table[BOS]
    shapes = {name: getattr(config, name) for name in SHAPES}
    single = OFAConfig(**(shapes | {"encoder_layers": 1, "decoder_layers": 1}))
    first = {part: {**params[part], "layers": layer_of(params[part]["layers"], slice(0, 1))} for part in PARTS}
    model: Any = OFA(single)

    def ours(parameters: Parameters, features: jax.Array, words: jax.Array, start: jax.Array) -> Any:
        def both(model: OFA) -> tuple[jax.Array, jax.Array]:
            encoded = model.encoder(words[None], None, model.image_embeddings(features))
            return encoded.tokens, model.decoder.cells(start, encoded, None)

        return model.apply({"params": parameters}, method=both)

    tokens, hidden = verification.exactly(ours, first, features, words, start)
    wide, words, start = (float64(tree) for tree in (first, words, start))
    encoder, decoder = (wide[part] | {"layers": layer_of(wide[part]["layers"], 0)} for part in PARTS)
    cells = linear(np.asarray(features, np.float64).reshape(side * side, -1), encoder["image_projection"])
    encoded, positions = _encoder(single, encoder, cells, words)
    yield verification.agreement("encoder, first layer", tokens, encoded)
    if config.segmentation_grid != side:
        yield Check(None, "decoder, NumPy", "trained on another grid than the encoder, so not compared")
        return
    yield verification.agreement("decoder, first layer", hidden, _decoder(single, decoder, start, encoded, positions))


def _norm(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    return layer_norm(x, parameters, EPSILON)


def _encoder(config: OFAConfig, p: Parameters, cells: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [g * g + T, D] after one layer and the final norm, and their normalised positions."""
    side, bucket, length = config.image_grid, config.image_bucket, len(words)
    x = np.concatenate(
        [
            _norm(cells + p["type_embedding"][IMAGE_TYPE], p["image_norm"]),
            _norm(words + p["type_embedding"][WORD_TYPE], p["word_norm"]),
        ]
    )
    square = p["image_positions"][1:].reshape(bucket, bucket, -1)[:side, :side].reshape(side * side, -1)
    positions = np.concatenate(
        [_norm(square, p["image_position_norm"]), _norm(p["word_positions"][:length], p["word_position_norm"])]
    )
    bias = _products(config, (p["position_query"], p["position_key"]), positions, positions)
    layer = p["layers"]
    bias[:, : side * side, : side * side] += _grid_bias(layer["image_table"], side, bucket)
    offset = np.arange(length)[:, None] - np.arange(length) + config.token_bucket - 1
    bias[:, side * side :, side * side :] += np.moveaxis(layer["token_table"][offset], -1, 0)
    x = _attended(config, layer, "attention", x, None, bias)
    return _norm(_fed_forward(layer, x), p["norm"]), positions


def _decoder(
    config: OFAConfig, p: Parameters, start: np.ndarray, encoded: np.ndarray, encoder_positions: np.ndarray
) -> np.ndarray:
    """One output for each cell [g * g, D], of <s> and the cells before it."""
    side = config.segmentation_grid
    count, layer = side * side, p["layers"]
    x = _norm(np.concatenate([start[None], encoded[:count]]), p["embedding_norm"])
    positions = _norm(p["cell_positions"], p["cell_position_norm"])
    bias = _products(config, (p["self_position_query"], p["self_position_key"]), positions, positions)
    bias[:, 1:, 1:] += _grid_bias(layer["cell_table"], side, side)
    bias[:, 1:, 0] += layer["cell_table"][-2][:, None]
    bias[:, np.triu(np.ones((1 + count, 1 + count), bool), 1)] = -np.inf
    x = _attended(config, layer, "attention", x, None, bias)
    bias = _products(config, (p["cross_position_query"], p["cross_position_key"]), positions, encoder_positions)
    x = _attended(config, layer, "cross_attention", x, encoded, bias)
    return _norm(_fed_forward(layer, x), p["norm"])[:-1]


def _products(config: OFAConfig, maps: Sequence[Parameters], queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Inner products [H, n, m] of linear maps of [n, D] and [m, D], divided by the root of 2 D / H."""
    query, key = (split_heads(linear(x, p), config.heads) for x, p in zip((queries, keys), maps, strict=True))
    return query @ key.swapaxes(1, 2) / np.sqrt(2 * config.width / config.heads)


def _grid_bias(table: np.ndarray, side: int, bucket: int) -> np.ndarray:
    """[H, g * g, g * g] from a table of offsets between rows and columns of a grid, [(2 * bucket - 1) ** 2 + 3, H]."""
    rows, columns = np.divmod(np.arange(side * side), side)
    down, right = (axis[:, None] - axis + bucket - 1 for axis in (rows, columns))
    return np.moveaxis(table[down * (2 * bucket - 1) + right], -1, 0)


def _attended(
    config: OFAConfig, layer: Parameters, name: str, x: np.ndarray, memory: np.ndarray | None, bias: np.ndarray
) -> np.ndarray:
    """x [n, D] plus attention to the memory [m, D], or to itself, with a norm before and another after."""
    p, y = layer[name], _norm(x, layer[f"{name}_norm"])
    memory = y if memory is None else memory
    scores = _products(config, (p["query"], p["key"]), y, memory) + bias
    heads = attention(scores, split_heads(linear(memory, p["value"]), config.heads)) * p["head_scale"][:, None, None]
    joined = heads.swapaxes(0, 1).reshape(len(x), -1)
    return x + _norm(linear(joined, p["out"]), layer[f"{name}_output_norm"])


def _fed_forward(layer: Parameters, x: np.ndarray) -> np.ndarray:
    """x [n, D] plus the feed-forward block."""
    p = layer["ffn"]
    hidden = _norm(gelu(linear(_norm(x, layer["ffn_norm"]), p["fc1"])), p["norm"])
    return x + linear(hidden, p["fc2"])


VERIFICATION = IFSegVerification()
