"""What `verify` looks at in LSeg's models: CLIP's tokens, and parts of encoders and decoder beside NumPy's."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from lseg_jax import checkpoint, inference, official
from lseg_jax.config import CLIPImageConfig, LSegConfig, ResNetConfig, TextConfig, ViTConfig
from lseg_jax.dpt import ResidualUnit
from lseg_jax.encoders import clip, vit
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.tokenizers import clip_tokenizer, tokenize
from vlseg import verification
from vlseg.checkpoints.directory import Stored
from vlseg.errors import VocabularyError
from vlseg.nn import efficientnet
from vlseg.nn.layers import EPSILON
from vlseg.nn.numpy_layers import (
    Parameters,
    attention,
    batch_norm,
    convolution,
    efficientnet_beginning,
    float64,
    gelu,
    layer_norm,
    layer_of,
    linear,
    relu,
    split_heads,
)
from vlseg.verification import Check, Subject, Verification

KNOWN: dict[str, tuple[int, ...]] = {
    "a photo of a cat": (320, 1125, 539, 320, 2368),
    "Café CRÈME naïve e\u0301tude": (15304, 1075, 12138, 614, 1097, 35689, 563, 3459, 764, 654),
    "1234 2nd 3.14": (272, 273, 274, 275, 273, 1764, 274, 269, 272, 275),
    "under_score traffic-light": (1798, 318, 4431, 3399, 268, 1395),
    "person": (2533,),
    "spacesuit": (7857, 3940),
    "flag": (4859,),
    "space shuttle": (2138, 15842),
    "wall": (2569,),
}
"""Texts in the ids of CLIP's tokenizer, without start and end; with them the photograph needs no tokenizer."""

LABELS = verification.LABELS


def recorded(text: str) -> list[int]:
    """A tokenizer of the texts of `KNOWN`."""
    return list(KNOWN[text])


class LSegVerification(Verification):
    """See `vlseg.verification.Verification`."""

    def describe(self, stored: Stored) -> str:
        config: LSegConfig = stored.config
        kinds = config.to_dict()
        named = checkpoint.backbone(config) or f"encoders {kinds['image']['kind']} and {kinds['text']['kind']}"
        block = "no block" if config.block == "none" else f"block {config.block} x {config.block_depth}"
        return f"{named}, {block}"

    def of_stored(self, path: Path, stored: Stored) -> Iterator[Check]:
        if not path.is_dir():
            named = checkpoint.official_tensors(path).tensors
            yield verification.same_bits(named, official.to_official(stored.weights, stored.config))

    def tokens(self, model: Any) -> Check:
        text = model.config.text
        if not _knows_clip(model):
            kind = "a sentence encoder with a tokenizer of its own" if text.trained_apart else "a vocabulary of its own"
            return Check(None, "tokens", f"the model has {kind}, for which no ids are recorded")
        encode = model.tokenizer or clip_tokenizer()
        end = text.vocabulary - 1

        def bare(label: str) -> list[int]:
            (row,) = tokenize([label], encode, context=text.context, vocabulary=text.vocabulary).tolist()
            return row[1 : row.index(end)]

        return verification.tokens(KNOWN, bare, "CLIP's ids")

    def layers(self, model: Any) -> Iterator[Check]:
        config: LSegConfig = dataclasses.replace(model.config, dtype="float32")
        variables = model.variables
        yield from _image(config, variables)
        if isinstance(config.text, TextConfig):
            yield _text(config.text, variables["params"]["text"])
        yield _decoder(config, variables)

    def subject(self, model: Any) -> Subject:
        own, texts = not _knows_clip(model), {model.config.text_of(label) for label in LABELS}
        if not own and texts <= KNOWN.keys():
            return Subject(dataclasses.replace(model, tokenizer=recorded), LABELS)
        if model.tokenizer is None and not model.config.text.trained_apart:
            if own:
                raise VocabularyError(
                    "the model has a vocabulary of its own: give its tokenizer (--tokenizer=DIRECTORY)"
                )
            clip_tokenizer()  # says how to get one
        return Subject(model, LABELS)


def _knows_clip(model: Any) -> bool:
    text = model.config.text
    return isinstance(text, TextConfig) and text.vocabulary == clip.TEXT_VIT.vocabulary


def _image(config: LSegConfig, variables: Parameters) -> Iterator[Check]:
    encoder = config.image
    if isinstance(encoder, ResNetConfig):
        image = inference.normalize(config, jnp.asarray(verification.photograph()[:64, :64]))
        used = {kind: tree["image"] for kind, tree in variables.items()}
        yield verification.resnet(np.asarray(image), used, encoder.width)
    elif isinstance(encoder, ViTConfig):
        yield _vision_transformer(config, encoder, variables["params"]["image"])
    elif isinstance(encoder, EfficientNetConfig):
        yield _efficientnet(config, encoder, {kind: tree["image"] for kind, tree in variables.items()})
    else:
        yield Check(None, "image encoder", "not compared, NumPy has none of this kind")


def _vision_transformer(config: LSegConfig, encoder: ViTConfig, params: Parameters) -> Check:
    """Patches and the first block, on the grid that positions were trained on."""
    side = encoder.grid * encoder.patch
    image = np.asarray(inference.normalize(config, jnp.asarray(verification.photograph(side))))
    single = dataclasses.replace(encoder, layers=vit.DEPTHS)
    first = {name: layer_of(p, slice(0, 1)) if name.startswith("layers") else p for name, p in params.items()}
    model: Any = single.module()
    ours = verification.exactly(lambda p, images: model.apply({"params": p}, images)[0], first, image[None])
    p = float64({name: value for name, value in first.items() if name == "layers_0" or "layers" not in name})
    patches = image.astype(np.float64).reshape(encoder.grid, encoder.patch, encoder.grid, encoder.patch, 3)
    x = np.einsum("rycxp,yxpd->rcd", patches, p["patch_kernel"], optimize=True)
    style = encoder.style
    x = x.reshape(encoder.grid**2, -1) + (p["patch_bias"] if style.patch_bias else 0)
    x = np.concatenate([p["class_token"][None], x]) + p["positions"]
    x = layer_norm(x, p["input_norm"], style.epsilon) if style.input_norm else x
    activation = _quick_gelu if isinstance(encoder, CLIPImageConfig) else gelu
    x = _layer(layer_of(p["layers_0"], 0), x, encoder.heads, activation, style.epsilon)
    return verification.agreement("ViT, first block", ours, x)


def _efficientnet(config: LSegConfig, encoder: EfficientNetConfig, variables: Parameters) -> Check:
    """Stem and blocks up to the finest level, of a part of the photograph."""
    image = np.asarray(inference.normalize(config, jnp.asarray(verification.photograph()[:61, :64])))
    model: Any = encoder.module()
    ours = verification.exactly(lambda v, images: model.apply(v, images)[0], variables, image[None])
    last, _ = efficientnet.levels(encoder.variant)[0]
    strides = [block.stride for block in efficientnet.blocks(encoder.variant)[: last + 1]]
    names = {"stem", "stem_bn", *(f"block{number}" for number in range(last + 1))}
    wide = float64({kind: {name: tree[name] for name in names & tree.keys()} for kind, tree in variables.items()})
    expected = efficientnet_beginning(
        image.astype(np.float64), strides, wide["params"], wide["batch_stats"], efficientnet.EPSILON
    )
    return verification.agreement("EfficientNet, first level", ours, expected)


def _text(encoder: TextConfig, params: Parameters) -> Check:
    """The text encoder with its first layer alone, of a known text."""
    ids = KNOWN["a photo of a cat"] if encoder.vocabulary == clip.TEXT_VIT.vocabulary else (1, 2, 3)
    tokens = [encoder.vocabulary - 2, *ids, encoder.vocabulary - 1]
    first = {**params, "layers": layer_of(params["layers"], slice(0, 1))}
    model: Any = dataclasses.replace(encoder, layers=1).module()
    ours = verification.exactly(lambda p, rows: model.apply({"params": p}, rows), first, np.asarray([tokens]))
    p = {name: float64(value) for name, value in first.items() if name != "token_embedding"}
    x = np.asarray(params["token_embedding"][np.asarray(tokens)], np.float64) + p["positions"][: len(tokens)]
    later = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)
    bias = np.where(later, -np.inf, 0)
    x = _layer(layer_of(p["layers"], 0), x, encoder.heads, _quick_gelu, clip.NORM_EPSILON, bias)
    x = layer_norm(x, p["norm"], clip.NORM_EPSILON)
    return verification.agreement("text, first block", ours, x[-1:] @ p["projection"])


def _decoder(config: LSegConfig, variables: Parameters) -> Check:
    """A residual unit of the finest level, of normal numbers."""
    used = {kind: tree["decoder"]["fusion1"]["unit"] for kind, tree in variables.items()}
    x = np.random.default_rng(0).standard_normal((12, 12, config.features)).astype(np.float32)
    model: Any = ResidualUnit(config.features, "float32")
    ours = verification.exactly(lambda v, maps: model.apply(v, maps, train=False), used, x[None])
    wide = float64(used)
    weights, running = wide["params"], wide["batch_stats"]
    y = x = x.astype(np.float64)
    for number in (1, 2):
        y = convolution(relu(y), weights[f"conv{number}"]["kernel"])
        y = batch_norm(y, weights[f"bn{number}"], running[f"bn{number}"], EPSILON)
    return verification.agreement("decoder, residual unit", ours, x + y)


def _quick_gelu(x: np.ndarray) -> np.ndarray:
    return x * special.expit(1.702 * x)


def _layer(
    p: Parameters,
    x: np.ndarray,
    heads: int,
    activation: Callable[[np.ndarray], np.ndarray],
    epsilon: float,
    bias: np.ndarray | float = 0.0,
) -> np.ndarray:
    """A pre-norm transformer layer, [n, D] -> [n, D]; `bias` is added to scores."""
    projected = np.split(linear(layer_norm(x, p["attention_norm"], epsilon), p["qkv"]), 3, axis=-1)
    query, key, value = (split_heads(part, heads) for part in projected)
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]) + bias
    x = x + linear(attention(scores, value).swapaxes(0, 1).reshape(x.shape), p["out"])
    hidden = activation(linear(layer_norm(x, p["ffn_norm"], epsilon), p["fc1"]))
    return x + linear(hidden, p["fc2"])


VERIFICATION = LSegVerification()
