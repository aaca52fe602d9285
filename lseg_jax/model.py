"""The public model: load, encode, segment, save."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from lseg_jax import inference, storage, text
from lseg_jax.config import DTYPES, LSegConfig, TextConfig
from lseg_jax.official import Converted
from lseg_jax.tokenizers import Tokenizer, check_labels, clip_tokenizer, load_tokenizer, tokenize
from vlseg import files, remote, visualize
from vlseg.data import images as image_files
from vlseg.data.images import ImageSource
from vlseg.errors import CheckpointError, ConfigError, ImageError, VocabularyError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.nn.resize import resize_bilinear
from vlseg.state_dicts import TensorSource

BUNDLED = "tiny"
NONE = "none of these"
"""The label of pixels that are rejected."""

OFFICIAL_SCHEME = Scheme()
"""The official windows at one scale."""

STRIDE = 32
"""Sides of images are multiples of this: the coarsest level of the decoder has one cell for so many pixels."""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """When a pixel is "none of these" (the first failure case of Li et al. 2022, Sec. 5.4).

    Attributes:
        min_similarity: least similarity of the best label, see `inference.Ranking`; the cosine without a block.
        min_margin: least difference of the best label's similarity to the second's.
    """

    min_similarity: float | None = None
    min_margin: float | None = None

    def __bool__(self) -> bool:
        return self != Rejection()


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    Attributes:
        label_map: int32 [H, W], indices into `labels`, at the image's original size.
        labels: the label names; with rejection, "none of these" comes last.
        top_labels: int32 [H, W, k], the best labels of each pixel, best first, rejected or not.
        top_similarities: float32 [H, W, k], theirs: mean logit divided by the logit scale, the cosine of pixel and
            label for a model without a block.
        image: the image, uint8 [H, W, 3].
    """

    label_map: np.ndarray
    labels: tuple[str, ...]
    top_labels: np.ndarray
    top_similarities: np.ndarray
    image: np.ndarray
    _source: "Source" = dataclasses.field(repr=False)

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [H, W, N], softmax over the labels asked for; computed anew at each access because it is large."""
        return self._source.probabilities(self.image)

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image under its coloured label map, with a legend."""
        return visualize.overlay(self.image, self.label_map, self.labels, alpha)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a segmentation was made with."""

    model: "LSeg"
    embeddings: jax.Array
    scheme: Scheme

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """See `Segmentation.probabilities`."""
        model = self.model
        return inference.probabilities(model.config, self.scheme, model.variables, image, self.embeddings)


@dataclasses.dataclass(frozen=True)
class LSeg:
    """A model whose pixels and labels are embedded in one space. Frozen: methods return new objects.

    Attributes:
        config: sizes and options. variables: {"params", "batch_stats"}, float32 arrays.
        tokenizer: from a text to CLIP's ids; None for the installed one (`tokenizers.clip_tokenizer`).
        inference: how whole images are seen.
        labels: the default labels of the methods below; empty if there are none.
        carried: what an official checkpoint held besides; see `lseg_jax.official.Converted`.
        known: embeddings of labels that came with the model, float32 [C] each; they need no text encoder.
    """

    config: LSegConfig
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = dataclasses.field(default=None, repr=False)
    inference: Scheme = OFFICIAL_SCHEME
    labels: tuple[str, ...] = ()
    carried: Mapping[str, TensorSource] = dataclasses.field(default_factory=dict, repr=False)
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    def names(self, labels: Sequence[str] | None = None) -> tuple[str, ...]:
        """Labels as they are used, the model's own by default.

        Raises:
            VocabularyError: none, blanks, duplicates.
        """
        chosen = self.labels if labels is None else labels
        if labels is None and not chosen:
            raise VocabularyError('this model has no labels of its own: name some, e.g. --labels="cat,grass,dog"')
        return check_labels(chosen)

    def encode_text(self, labels: Sequence[str] | None = None) -> jax.Array:
        """Embeddings of labels: float32 [N, C], l2-normalised; kept on disk (`lseg_jax.text`).

        Raises:
            VocabularyError: as in `names`; or there is no tokenizer.
        """
        names = self.names(labels)
        if all(name in self.known for name in names):
            return jnp.asarray(np.stack([self.known[name] for name in names]))
        settings, texts = self.config.text, [self.config.text_of(name) for name in names]
        if not isinstance(settings, TextConfig):
            return jnp.asarray(text.embed_sentences(texts))
        tokenizer = self.tokenizer or clip_tokenizer()
        tokens = tokenize(texts, tokenizer, context=settings.context, vocabulary=settings.vocabulary)
        return jnp.asarray(text.embed_tokens(self.config, self.variables, self._text_fingerprint, tokens))

    @functools.cached_property
    def _text_fingerprint(self) -> str:
        return text.fingerprint(self.variables)

    def encode_pixels(self, images: ArrayLike) -> jax.Array:
        """Embeddings of pixels.

        Args:
            images: [B, H, W, 3] of the size to be used; uint8, or float32 that is normalised already ((x / 255 - mean)
                / deviation, see `LSegConfig.mean`: in [-1, 1] for vision transformers). H and W are multiples of 32.

        Returns:
            float32 [B, H / 2, W / 2, C], l2-normalised.

        Raises:
            ImageError: another shape or dtype.
        """
        return inference.encode_pixels(self.config, self.variables, _checked(images))

    def logits(self, images: ArrayLike, labels: Sequence[str] | None = None) -> jax.Array:
        """Logits float32 [B, H, W, N] after the official output upsampling; images as for `encode_pixels`."""
        return inference.logits(self.config, self.variables, _checked(images), self.encode_text(labels))

    def preprocess(self, image: ImageSource, long_side: int | None = None) -> jax.Array:
        """A whole image as `encode_pixels` and `logits` take it: normalised and resized (bilinear, corners aligned).

        Args:
            image: a path, a PIL image or uint8 [H, W, 3].
            long_side: in pixels, by default the base size of `inference`; both sides are rounded to multiples of 32.

        Returns:
            float32 [1, h, w, 3].
        """
        pixels = image_files.read_image(image)
        height, width = pixels.shape[:2]
        scale = (long_side or self.inference.base_size) / max(height, width)
        rows, columns = (max(round(side * scale / STRIDE), 1) * STRIDE for side in (height, width))
        normalized = inference.normalize(self.config, jnp.asarray(pixels))
        return resize_bilinear(normalized[None], rows, columns, align_corners=True)

    def segment(
        self,
        image: ImageSource | Sequence[ImageSource],
        labels: Sequence[str] | None = None,
        *,
        top_k: int = 1,
        rejection: Rejection = Rejection(),
    ) -> Any:
        """Segments an image, or each of a list.

        Args:
            image: a path, a PIL image or uint8 [H, W, 3]; or a list of them.
            labels: any N names; by default the model's own.
            top_k: how many labels to give for each pixel, with their similarities.
            rejection: which pixels are none of these labels.

        Returns:
            A `Segmentation`, or a list of them in the order of the images.

        Raises:
            VocabularyError: as in `names`. ImageError: an image that cannot be read. ConfigError: `top_k` is not in
            [1, N].
        """
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray | jax.Array):
            return list(self.segment_each(image, labels, top_k=top_k, rejection=rejection))
        return next(self.segment_each([image], labels, top_k=top_k, rejection=rejection))

    def segment_each(
        self,
        images: Iterable[ImageSource],
        labels: Sequence[str] | None = None,
        *,
        top_k: int = 1,
        rejection: Rejection = Rejection(),
        batch_size: int = 1,
    ) -> Iterator[Segmentation]:
        """Segments a stream of images, each read when it is its turn; `batch_size` windows in a forward pass."""
        names, source = self.names(labels), Source(self, self.encode_text(labels), self.inference)
        if not 1 <= top_k <= len(names):
            raise ConfigError(f"top_k is {top_k}; it must be from 1 to the number of labels, {len(names)}")
        if rejection and NONE in map(str.casefold, names):
            raise VocabularyError(f"{NONE!r} is what rejected pixels are called: leave it out of the labels")
        for item in images:
            pixels = image_files.read_image(np.asarray(item) if isinstance(item, jax.Array) else item)
            yield _segmented(source, pixels, names, top_k, rejection, batch_size)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a directory of safetensors and JSON that `load` reads anywhere; whole or not at all.

        It may be one of a bucket (`gs://...`), where a part of it is never taken for a model.

        Raises:
            StorageError: it exists and `overwrite` is False, or it cannot be written.
            ConfigError: a package for its bucket is missing.
        """
        settings = {"inference": dataclasses.asdict(self.inference), "labels": list(self.labels)}
        storage.write_directory(path, self.config, self.converted(), settings, self.known, overwrite)

    def converted(self) -> Converted:
        """The model as `lseg_jax.official` and `lseg_jax.storage` take it."""
        return Converted(jax.tree.map(np.asarray, dict(self.variables)), dict(self.carried))


def _segmented(
    source: Source, image: np.ndarray, names: tuple[str, ...], top_k: int, rejection: Rejection, batch_size: int
) -> Segmentation:
    model = source.model
    wanted = min(max(top_k, 2 if rejection.min_margin is not None else 1), len(names))
    ranking = inference.rank(model.config, source.scheme, model.variables, image, source.embeddings, wanted, batch_size)
    similarities, best = (np.asarray(array) for array in ranking)
    label_map = np.ascontiguousarray(best[..., 0])
    if rejection:
        label_map = np.where(_rejected(similarities, rejection), len(names), label_map).astype(np.int32)
        names = (*names, NONE)
    return Segmentation(label_map, names, best[..., :top_k], similarities[..., :top_k], image, source)


def _rejected(similarities: np.ndarray, rejection: Rejection) -> np.ndarray:
    """bool [H, W] of the similarities [H, W, k] of the best labels."""
    rejected = np.zeros(similarities.shape[:2], bool)
    if rejection.min_similarity is not None:
        rejected |= similarities[..., 0] < rejection.min_similarity
    if rejection.min_margin is not None and similarities.shape[-1] > 1:
        rejected |= similarities[..., 0] - similarities[..., 1] < rejection.min_margin
    return rejected


def _checked(images: ArrayLike) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ImageError(f"images of shape {list(images.shape)} are not [B, H, W, 3]")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ImageError(f"images of dtype {images.dtype} are neither uint8 nor normalised floats; convert them")
    if images.shape[1] % STRIDE or images.shape[2] % STRIDE:
        raise ImageError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels: both sides must be multiples of {STRIDE}; resize "
            "or pad them, or use segment, which takes any size"
        )
    return images


def load(
    source: str | os.PathLike[str] = BUNDLED,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    *,
    block: str | None = None,
    block_depth: int | None = None,
    activation: str | None = None,
    dtype: str | None = None,
) -> LSeg:
    """Loads a model.

    Args:
        source: "tiny" (bundled), an official Lightning checkpoint (`.ckpt`), or a directory written by `LSeg.save`;
            either also in a bucket (`gs://...`, copied once).
        tokenizer: of CLIP: a callable from a text to ids, or what `tokenizers.load_tokenizer` takes; by default the
            installed one. Models with the sentence encoder MiniLM need none.
        block, block_depth, activation: of an official checkpoint with a block, if its hyperparameters do not say:
            "bottleneck" or "depthwise"; a number; "relu", "lrelu" or "tanh".
        dtype: of the computation, "float32" or "bfloat16".

    Raises:
        CheckpointError, ConfigError, VocabularyError: with one line that says what to do.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    path = resolve(source)
    stored = storage.read(
        path,
        place=lambda array: jnp.asarray(array, jnp.float32),
        block=block,
        block_depth=block_depth,
        activation=activation,
    )
    config = stored.config if dtype is None else dataclasses.replace(stored.config, dtype=dtype)
    if tokenizer is not None and not callable(tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    return LSeg(
        config=config,
        variables=stored.converted.variables,
        tokenizer=tokenizer,
        inference=_scheme(stored.settings.get("inference", {}), path),
        labels=_labels(stored.settings.get("labels"), path),
        carried=stored.converted.carried,
        known=stored.known,
    )


def _scheme(values: Any, path: Path) -> Scheme:
    try:
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Scheme(**{**values, **lists})
    except (TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path / storage.CONFIG_FILE} cannot be used: {error}") from error


def _labels(values: Any, path: Path) -> tuple[str, ...]:
    try:
        return check_labels(values) if values else ()
    except VocabularyError as error:
        raise CheckpointError(f"{path / storage.CONFIG_FILE} cannot be used: {error}") from error


def resolve(source: str | os.PathLike[str]) -> Path:
    """Path of a checkpoint given as for `load`; those in buckets are downloaded at the first use."""
    name = os.fspath(source)
    if name == BUNDLED:  # a folder of that name is ./tiny
        return Path(__file__).with_name(BUNDLED)
    if files.is_remote(name):
        return remote.local_copy(name, storage.CONFIG_FILE, CheckpointError)
    if Path(name).exists():
        return Path(name)
    raise CheckpointError(f"no such checkpoint: {name} is neither a file, a directory nor {BUNDLED}")
