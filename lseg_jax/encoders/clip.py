"""CLIP's text encoder (Radford et al. 2021; openai/CLIP)."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import labels
from lseg_jax.encoders import transformer
from lseg_jax.encoders.base import TextEncoder, normalized
from lseg_jax.tokenizers import Tokenizer, clip_tokenizer, import_transformers, tokenize
from vlseg import fields
from vlseg.checkpoints.foreign import Format, Recipe, Shapes, concatenated, count, shape_of
from vlseg.checkpoints.rules import LINEAR, SAME, Rule, each, flatten, linear, norm, stacked
from vlseg.errors import CheckpointError
from vlseg.fields import Range, Width
from vlseg.nn.layers import LayerNorm

NORM_EPSILON = 1e-5
OFFICIAL = "clip_pretrained."
"""Official LSeg checkpoints have openai/CLIP's names behind this."""

BATCH = 64
"""Texts of a forward pass."""

LENGTH_STEP = 8
"""Tokens behind the longest text's end are cut off, up to a multiple of this: they cannot count."""

LAYER = r"transformer\.resblocks\.(\d+)\."


def _from_hugging_face(layers: int) -> list[Recipe]:
    """CLIP's text encoder in Hugging Face transformers -> openai/CLIP."""
    embeddings = "text_model.embeddings"
    return [
        Recipe("token_embedding.weight", (f"{embeddings}.token_embedding.weight",)),
        Recipe("positional_embedding", (f"{embeddings}.position_embedding.weight",)),
        Recipe("text_projection", ("text_projection.weight",), LINEAR.to_ours),
        *from_hugging_face("text_model", "", layers, {"ln_final": "text_model.final_layer_norm"}),
    ]


def from_hugging_face(source: str, target: str, layers: int, norms: Mapping[str, str]) -> list[Recipe]:
    """The transformer of a tower of CLIP, and its other norms, in Hugging Face transformers -> openai/CLIP.

    Args:
        source, target: of the tower's names, what they begin with.
        norms: OpenAI's name of each -> Hugging Face's.
    """
    recipes = []
    parts = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    renamed = dict(norms)
    for layer in range(layers):
        theirs, ours = f"{source}.encoder.layers.{layer}", f"{target}transformer.resblocks.{layer}"
        renamed |= {f"{ours}.{to}": f"{theirs}.{of}" for to, of in parts.items()}
        for leaf in ("weight", "bias"):
            attention = tuple(f"{theirs}.self_attn.{part}_proj.{leaf}" for part in "qkv")
            recipes.append(Recipe(f"{ours}.attn.in_proj_{leaf}", attention, concatenated))
    return recipes + [
        Recipe(f"{to}.{leaf}", (f"{of}.{leaf}",)) for to, of in renamed.items() for leaf in ("weight", "bias")
    ]


def hugging_face_settings(directory: Path, kind: str) -> dict[str, int]:
    """The number of heads, if a config.json tells it; `kind` is the tower's class of settings in transformers.

    Raises:
        CheckpointError: it cannot be read, or is of a CLIP that computes otherwise.
    """
    path = directory / "config.json"
    if not path.is_file():
        return {}
    try:
        settings = getattr(import_transformers(), kind).from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the library raises many kinds
        raise CheckpointError(f"its {path.name} cannot be read: {' '.join(str(error).split())}") from error
    if settings.hidden_act != "quick_gelu":
        raise CheckpointError(f"its activation is {settings.hidden_act}; what is expected here is CLIP's quick_gelu")
    return {"heads": settings.num_attention_heads}


def layer_rules(source: str, target: str) -> list[Rule]:
    """OpenAI's names of a layer of either tower."""
    return [
        Rule(f"{source}.attn.in_proj_weight", f"params/{target}/qkv/kernel", LINEAR),
        Rule(f"{source}.attn.in_proj_bias", f"params/{target}/qkv/bias", SAME),
        *linear(f"{source}.attn.out_proj", f"{target}/out"),
        *each(norm, source, target, {"ln_1": "attention_norm", "ln_2": "ffn_norm"}),
        *each(linear, source, target, {"mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}),
    ]


OPENAI = Format(
    "CLIP by the names of OpenAI",
    "token_embedding.weight",
    re.compile(r"visual\.|(logit_scale|input_resolution|context_length|vocab_size)$"),
    LAYER,
)
HUGGING_FACE = Format(
    "CLIP by the names of Hugging Face",
    "text_model.embeddings.token_embedding.weight",
    re.compile(r"vision_model\.|visual_projection\.|logit_scale$|text_model\.embeddings\.position_ids$"),
    r"text_model\.encoder\.layers\.(\d+)\.",
    _from_hugging_face,
    functools.partial(hugging_face_settings, kind="CLIPTextConfig"),
)


@dataclasses.dataclass(frozen=True)
class TextConfig(TextEncoder):
    """The text transformer of CLIP (Radford et al. 2021).

    Attributes:
        width, heads, layers: of the transformer. features: width of a text's embedding.
        context: tokens of a text, padding included. vocabulary: rows of the token embedding.
    """

    formats = (OPENAI, HUGGING_FACE)
    official_mark = f"{OFFICIAL}token_embedding.weight"
    carried = rf"{re.escape(OFFICIAL)}(visual\.|logit_scale$)"
    axes = (*transformer.AXES, (r"/text/(token_embedding|positions|projection)$", ("embed",)))

    width: Width = 512
    heads: Annotated[int, Range(1, 1024)] = 8
    layers: Annotated[int, Range(1, 2**13)] = 12
    features: Width = 512
    context: Annotated[int, Range(1, 2**16)] = 77
    vocabulary: Annotated[int, Range(1, 2**24)] = 49408

    def __post_init__(self) -> None:
        fields.check(self)
        transformer.check_heads(self.width, self.heads)

    def module(self) -> nn.Module:
        return CLIPText(self)

    def rules(self, prefix: str = "") -> list[Rule]:
        layer = layer_rules(f"{prefix}transformer.resblocks.{{}}", "text/layers")
        return [
            Rule(f"{prefix}token_embedding.weight", "params/text/token_embedding", SAME),
            Rule(f"{prefix}positional_embedding", "params/text/positions", SAME),
            Rule(f"{prefix}text_projection", "params/text/projection", SAME),
            *norm(f"{prefix}ln_final", "text/norm"),
            *stacked(range(self.layers), layer),
        ]

    def official_rules(self) -> list[Rule]:
        return self.rules(OFFICIAL)

    @classmethod
    def from_shapes(cls, shapes: Shapes, prefix: str = "", heads: int | None = None) -> "TextConfig":
        vocabulary, width = shape_of(shapes, f"{prefix}token_embedding.weight", 2)
        return cls(
            width=width,
            heads=heads or transformer.usual_heads(width),
            layers=count(shapes, re.escape(prefix) + LAYER),
            features=shape_of(shapes, f"{prefix}text_projection", 2)[1],
            context=shape_of(shapes, f"{prefix}positional_embedding", 2)[0],
            vocabulary=vocabulary,
        )

    @classmethod
    def from_official(cls, shapes: Shapes) -> "TextConfig":
        return cls.from_shapes(shapes, OFFICIAL)

    def identity(self, variables: Mapping[str, Any]) -> str:
        """A hash of the parameters."""
        digest = hashlib.sha256()
        for name, value in sorted(flatten(variables["params"]["text"]).items()):
            array = np.asarray(value, order="C")
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def read(self, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> list[tuple[int, ...]]:
        rows = self._tokens(texts, tokenizer)
        # The end token has the highest id.
        return [tuple(row[1:end].tolist()) for row, end in zip(rows, rows.argmax(axis=1), strict=True)]

    def _tokens(self, texts: Sequence[str], tokenizer: Tokenizer | None) -> np.ndarray:
        return tokenize(texts, tokenizer or clip_tokenizer(), context=self.context, vocabulary=self.vocabulary)

    def embed(
        self, texts: Sequence[str], variables: Mapping[str, Any], identity: str, tokenizer: Tokenizer | None = None
    ) -> np.ndarray:
        tokens = self._tokens(texts, tokenizer)
        params = {"params": variables["params"]["text"]}

        def encode(part: slice) -> np.ndarray:
            return np.concatenate(
                [np.asarray(_encode(self, params, rows))[:real] for rows, real in batches(tokens[part])]
            )

        def content(part: slice) -> bytes:
            # Not all of the configuration shows in the weights: the number of heads does not. Devices round
            # differently.
            device = jax.devices()[0].device_kind
            return f"{identity} {self} {device}".encode() + tokens[part].tobytes()

        return labels.cached(len(tokens), self.features, content, encode)


TEXT_VIT = TextConfig()


def fresh(width: int, layers: int) -> transformer.Fresh:
    """As openai/CLIP starts its text transformer: the outputs of layers are smaller the more there are to add up."""
    normal = nn.initializers.normal
    out = normal((2 * layers * width) ** -0.5)
    return transformer.Fresh(normal(width**-0.5), out, normal((2 * width) ** -0.5), out, uniform_biases=True)


class CLIPText(nn.Module):
    """Causal transformer over tokens, read out where the text ends."""

    config: TextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeddings of texts, not normalised.

        Args:
            tokens: int [N, context]; the end-of-text token has the highest id, as in CLIP's vocabulary.

        Returns:
            float32 [N, features].
        """
        config = self.config
        normal = nn.initializers.normal
        table = self.param("token_embedding", normal(0.02), (config.vocabulary, config.width))
        position = self.param("positions", normal(0.01), (config.context, config.width))
        projection = self.param("projection", normal(config.width**-0.5), (config.width, config.features))
        x = table[tokens] + position[: tokens.shape[1]]
        stack = transformer.layers(
            config.layers,
            config.heads,
            transformer.quick_gelu,
            NORM_EPSILON,
            "float32",
            "layers",
            fresh(config.width, config.layers),
            causal=True,
        )
        x, _ = stack(x, None)
        x = LayerNorm(NORM_EPSILON, name="norm")(x)
        ends = jnp.argmax(tokens, axis=-1)
        return x[jnp.arange(tokens.shape[0]), ends] @ projection


@functools.partial(jax.jit, static_argnames="config")
def _encode(config: TextConfig, params: Any, tokens: jax.Array) -> jax.Array:
    model: Any = CLIPText(config)
    return normalized(model.apply(params, tokens))


def batches(tokens: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens int32 [N, context] in batches of few shapes, each with the number of its rows that count."""
    for start in range(0, len(tokens), BATCH):
        part = tokens[start : start + BATCH]
        end = int(part.argmax(axis=1).max()) + 1  # the end token has the highest id
        rows = min(BATCH, 1 << (len(part) - 1).bit_length())
        length = -(-end // LENGTH_STEP) * LENGTH_STEP
        yield np.pad(part[:, :length], ((0, rows - len(part)), (0, 0)), mode="edge"), len(part)
