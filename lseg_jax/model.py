"""The public model: load, encode, segment, save."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lseg_jax import checkpoint, inference
from lseg_jax.config import DTYPES, LSegConfig
from lseg_jax.inference import WindowScores
from lseg_jax.lseg import LSegNet
from lseg_jax.tokenizers import Tokenizer, check_labels, load_tokenizer
from vlseg import fields
from vlseg.checkpoints.directory import CONFIG_FILE, Stored, Weights, usable
from vlseg.checkpoints.rules import TensorSource
from vlseg.data import arrays
from vlseg.data import images as image_files
from vlseg.data.arrays import Picture
from vlseg.errors import ConfigError, VocabularyError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.labels.binding import find
from vlseg.labels.distinct import check_embeddings, check_known, check_tokens
from vlseg.nn.inputs import check_pixels
from vlseg.nn.resize import resize_bilinear, resize_picture
from vlseg.scores import Scores
from vlseg.segmenter import Segmenter

OFFICIAL_SCHEME = Scheme()
"""The official windows at one scale."""

STRIDE = 32
"""Sides of images are multiples of this: the coarsest level of the decoder has one position for so many pixels."""


@dataclasses.dataclass(frozen=True)
class LSeg(Segmenter[Scheme]):
    """A model whose pixels and labels are embedded in one space. Frozen: methods return new objects.

    Attributes:
        config: sizes and options. variables: {"params", "batch_stats"}, float32 arrays.
        tokenizer: from a text to CLIP's ids; None for the installed one (`tokenizers.clip_tokenizer`).
        inference: how whole images are seen.
        labels: the default labels of the methods below; empty if there are none.
        carried: what an official checkpoint held besides; see `vlseg.checkpoints.directory.Weights`.
        known: embeddings of labels that came with the model, float32 [C] each; they need no text encoder.
    """

    package = checkpoint.FORMAT

    config: LSegConfig
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = dataclasses.field(default=None, repr=False)
    inference: Scheme = OFFICIAL_SCHEME
    labels: tuple[str, ...] = ()
    carried: Mapping[str, TensorSource] = dataclasses.field(default_factory=dict, repr=False)
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    def encode_text(self, labels: Sequence[str] | None = None) -> jax.Array:
        """Embeddings of labels: float32 [N, C], l2-normalised; kept on disk (`lseg_jax.labels`).

        Raises:
            VocabularyError: as in `names`; there is no tokenizer; or labels that the text encoder cannot tell apart, or
                has no tokens for.
        """
        names = self.names(labels)
        known = find(names, tuple(self.known))
        if None not in known:
            embeddings = np.stack([tuple(self.known.values())[row] for row in known if row is not None])
        else:
            encoder, texts = self.config.text, [self.config.text_of(name) for name in names]
            tokens = encoder.read(texts, self.tokenizer)
            # The words of a template are known, whatever the names in it are.
            alone = encoder.read(names, self.tokenizer) if encoder.unknown is not None else tokens
            check_known(names, alone, encoder.unknown)
            check_tokens(names, tokens)
            embeddings = encoder.embed(texts, self.variables, self._text_identity, self.tokenizer)
        check_embeddings(names, embeddings)
        return jnp.asarray(embeddings)

    embed = encode_text

    @functools.cached_property
    def _text_identity(self) -> str:
        return self.config.text.identity(self.variables)

    def encode_pixels(self, images: ArrayLike) -> jax.Array:
        """Embeddings of pixels. Every shape of images compiles a program.

        Args:
            images: [B, H, W, 3] of the size to be used; uint8, or float32 that is normalised already ((x / 255 - mean)
                / deviation, see `LSegConfig.mean`: in [-1, 1] for vision transformers). H and W are multiples of 32.

        Returns:
            float32 [B, H / 2, W / 2, C], l2-normalised.

        Raises:
            ImageError: another shape, dtype or range.
        """
        return inference.encode_pixels(self.config, self.variables, self._checked(images))

    def logits(self, images: ArrayLike, labels: Sequence[str] | None = None) -> jax.Array:
        """Logits float32 [B, H, W, N] after the official output upsampling; images as for `encode_pixels`.

        Every shape of images compiles a program, and all logits are held; `segment` needs neither.
        """
        return inference.logits(self.config, self.variables, self._checked(images), self.encode_text(labels))

    def _checked(self, images: ArrayLike) -> jax.Array:
        mean, deviation = np.asarray(self.config.mean), np.asarray(self.config.deviation)
        return check_pixels(jnp.asarray(images), tuple(-mean / deviation), tuple((1 - mean) / deviation), STRIDE)

    def preprocess(self, image: Picture, long_side: int | None = None) -> jax.Array:
        """A whole image as `encode_pixels` and `logits` take it: normalised and resized (bilinear, corners aligned).

        Args:
            image: see `vlseg.data.arrays.Picture`.
            long_side: in pixels, by default the base size of `inference`; both sides are rounded to multiples of 32.

        Returns:
            float32 [1, h, w, 3].
        """
        pixels = image_files.read_image(arrays.plain(image))
        height, width = pixels.shape[:2]
        scale = (long_side or self.inference.base_size) / max(height, width)
        rows, columns = (max(round(side * scale / STRIDE), 1) * STRIDE for side in (height, width))
        resized = resize_picture(pixels, rows, columns) / 255 - np.asarray(self.config.mean, np.float32)
        return jnp.asarray((resized / np.asarray(self.config.deviation, np.float32))[None])

    def scores(
        self, images: Sequence[np.ndarray], embeddings: jax.Array, settings: Sequence[Scheme], batch_size: int
    ) -> list[list[Scores]]:
        """See `Segmenter.scores`; they are computed when they are asked for."""
        return [
            [WindowScores(self.config, scheme, self.variables, image, embeddings, batch_size) for scheme in settings]
            for image in images
        ]

    def image_function(self, settings: Scheme) -> jax.tree_util.Partial:
        """See `Segmenter.image_function`; images are seen whole, whatever the settings."""
        del settings
        config = self.config

        def segment(arrays: tuple[dict[str, Any], jax.Array], images: jax.Array) -> dict[str, jax.Array]:
            variables, labels = arrays
            net: Any = LSegNet(config)
            pixels = net.apply(variables, inference.normalize(config, images), method=LSegNet.encode_pixels)
            cells = net.apply(variables, pixels, labels, method=LSegNet.cell_logits)
            logits = resize_bilinear(cells, images.shape[1], images.shape[2], align_corners=True)
            best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            label_map = jnp.where(jnp.isfinite(logits.max(axis=-1)), best, -1)
            return {"probabilities": jax.nn.softmax(cells, axis=-1), "label_map": label_map}

        # Label embeddings are already computed, so the text encoder is left out.
        params = {name: value for name, value in self.variables["params"].items() if name != "text"}
        return jax.tree_util.Partial(segment, ({**self.variables, "params": params}, self.encode_text()))

    @property
    def export_size(self) -> tuple[int, int]:
        return self.inference.crop_size, STRIDE

    def stored(self) -> Stored:
        weights = Weights(jax.tree.map(np.asarray, dict(self.variables)), dict(self.carried))
        settings = {"inference": dataclasses.asdict(self.inference), "labels": list(self.labels)}
        return Stored(self.config, weights, settings, arrays={checkpoint.LABELS_FILE: self.known})


def load(
    source: str | os.PathLike[str] = checkpoint.BUNDLED,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    *,
    step: int | None = None,
    block: str | None = None,
    block_depth: int | None = None,
    activation: str | None = None,
    dtype: str | None = None,
) -> LSeg:
    """Loads a model.

    Args:
        source: "tiny" or "clothing" (bundled: a procedural world; street fashion), an official Lightning checkpoint
            (`.ckpt`), a directory written by `LSeg.save`, or the folder of a training run; each also in a bucket
            (`gs://...`, copied once).
        tokenizer: of CLIP: a callable from a text to ids, or what `tokenizers.load_tokenizer` takes; by default the
            installed one. Models with the sentence encoder MiniLM need none.
        step: of a training run: one that it has kept; by default the model that it ended with.
        block, block_depth, activation: of an official checkpoint with a block, if its hyperparameters do not say:
            "bottleneck" or "depthwise"; a number; "relu", "lrelu" or "tanh".
        dtype: of the computation, "float32" or "bfloat16".

    Raises:
        CheckpointError, ConfigError, VocabularyError: with one line that says what to do.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    path = checkpoint.resolve(source, step)
    stored = checkpoint.read(
        path,
        place=lambda array: jnp.asarray(array, jnp.float32),
        block=block,
        block_depth=block_depth,
        activation=activation,
    )
    config = stored.config if dtype is None else dataclasses.replace(stored.config, dtype=dtype)
    if tokenizer is not None and stored.config.text.trained_apart:
        raise VocabularyError("a tokenizer has no effect: the text encoder of this model has its own; leave it out")
    if tokenizer is not None and not callable(tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    with usable(path / CONFIG_FILE):
        scheme = fields.read(Scheme, stored.settings.get("inference", {}), "inference")
        labels = fields.as_tuples(stored.settings.get("labels") or ())
        if not isinstance(labels, str):  # of which `check_labels` says more
            fields.check_value(labels, tuple[str, ...], "labels")
        names = check_labels(labels) if labels else ()
    return LSeg(
        config=config,
        variables=stored.weights.variables,
        tokenizer=tokenizer,
        inference=scheme,
        labels=names,
        carried=stored.weights.carried,
        known=checkpoint.known_labels(stored),
    )
