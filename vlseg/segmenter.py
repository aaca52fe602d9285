"""What every model does: words and images in, a segmentation out. Commands are written over this contract.

Its centre is the scores of one image, not the logits of a batch: one model adds up the scores of windows, scales and
mirrored views, another averages probabilities over neighbours in feature space. What the user sees is a `Segmentation`.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np

from vlseg.checkpoints import directory
from vlseg.checkpoints.directory import Stored
from vlseg.data import arrays
from vlseg.data import images as image_files
from vlseg.data.arrays import Picture
from vlseg.errors import ConfigError, VocabularyError
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.finite import check_embeddings, check_scores, naming
from vlseg.labels import NONE, check_names
from vlseg.scores import RefinedScores, Scores
from vlseg.segmentation import NOTHING_REJECTED, Rejection, Segmentation
from vlseg.streams import in_order

OFF = CRF()
"""No CRF."""

Item = TypeVar("Item")
Settings = TypeVar("Settings")


class Variant(NamedTuple):
    """Settings of inference that a model is scored with.

    key: in metrics.json, and the name of a table. title: above the scores, or "". settings: see `Segmenter.inference`.
    """

    key: str
    title: str
    settings: Any


class Segmenter(abc.ABC, Generic[Settings]):
    """A model that segments images into labels given as words. Frozen: methods return new objects.

    Attributes:
        package: the name of its package.
        variables: {"params", "batch_stats"}, float32 arrays.
        inference: how images are seen, the model's own settings.
    """

    package: ClassVar[str]
    variables: Mapping[str, Any]
    inference: Settings

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The model's own labels, empty if there are none."""

    def names(self, labels: Sequence[str] | None = None) -> tuple[str, ...]:
        """Labels as they are used, by default the model's own. Case is none: a model that has it overrides this.

        Raises:
            VocabularyError: none, blanks, duplicates, or words that the model cannot read.
        """
        if labels is None and not self.labels:
            raise VocabularyError('this model has no labels of its own: name some, e.g. --labels="cat,grass,dog"')
        return check_names(self.labels if labels is None else labels, "label", "labels")

    @abc.abstractmethod
    def embed(self, labels: Sequence[str] | None = None) -> Any:
        """What the model needs to know of labels: a pytree of arrays.

        Raises:
            VocabularyError: as `names`; or labels that the model cannot tell apart or read, which it finds out with
                `vlseg.labels.distinct`.
        """

    def with_labels(self, labels: Sequence[str]) -> Self:
        """The same model with other labels of its own."""
        return dataclasses.replace(self, labels=tuple(labels))  # type: ignore[type-var]

    def batch_key(self, shape: Sequence[int], settings: Sequence[Settings]) -> Hashable | None:
        """Images of shape (H, W, ...) whose keys are equal are scored together; None for one at a time."""
        del shape, settings
        return None

    @abc.abstractmethod
    def scores(
        self, images: Sequence[np.ndarray], embeddings: Any, settings: Sequence[Settings], batch_size: int
    ) -> list[list[Scores]]:
        """Scores of images under several settings, which share what they can.

        Args:
            images: uint8 [H, W, 3] each, with one `batch_key`.
            embeddings: from `embed`.
            settings: of inference. batch_size: images, or windows, of a forward pass, so that its shape is static.

        Returns:
            One list for each image, with one entry for each of `settings`.
        """

    @abc.abstractmethod
    def image_function(self, settings: Settings) -> jax.tree_util.Partial:
        """Segmentation into the model's own labels as a pure function that holds weights and embeddings of labels.

        Returns:
            A function whose leaves are the arrays that it holds. It takes images uint8 [B, H, W, 3], with sides as
            `export_size` says, and returns {"probabilities": float32 [B, h, w, N] on the model's grid, "label_map":
            int32 [B, H, W]}. A program cannot refuse: where scores are not finite the label is -1.

        Raises:
            VocabularyError: the model has no labels of its own, or no tokenizer.
        """

    @property
    @abc.abstractmethod
    def export_size(self) -> tuple[int, int]:
        """The side in pixels of the images that `image_function` takes by default, and what sides are multiples of."""

    @abc.abstractmethod
    def stored(self) -> Stored:
        """The model as `vlseg.checkpoints.directory.write` takes it."""

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a directory of safetensors and JSON that `load` reads anywhere; whole or not at all.

        It may be one of a bucket (`gs://...`), where a part of it is never taken for a model.

        Raises:
            StorageError: it exists and `overwrite` is False, or it cannot be written.
            ConfigError: a package for its bucket is missing.
        """
        directory.write(path, self.package, self.stored(), overwrite=overwrite)

    def variants(self) -> list[Variant]:
        """The settings that `evaluate` reports, the model's own last."""
        return [Variant("metrics", "", self.inference)]

    def validation_settings(self) -> Settings:
        """The settings with which `train` validates a run, again and again: the model's own without a CRF."""
        return _without_crf(self.inference)

    def segment(self, image: Picture | Iterable[Picture], labels: Sequence[str] | None = None, **options: Any) -> Any:
        """Segments an image, or each of several.

        Args:
            image: see `vlseg.data.arrays.Picture`; or several as a list, another iterable, or a batch [B, ...].
            labels: any names; by default the model's own.
            options: as for `segment_each`.

        Returns:
            A `Segmentation`, or a list of them in the order of the images.

        Raises:
            As `segment_each`.
        """
        if arrays.is_picture(image):
            return next(self.segment_each([image], labels, **options))
        return list(self.segment_each(image, labels, **options))

    def segment_each(
        self,
        images: Iterable[Picture],
        labels: Sequence[str] | None = None,
        *,
        top_k: int = 1,
        rejection: Rejection = NOTHING_REJECTED,
        batch_size: int = 1,
        settings: Settings | None = None,
    ) -> Iterator[Segmentation]:
        """Segments a stream of images, in its order; see `score_each` for what is read when.

        Args:
            images: as for `segment`.
            labels: any N names; by default the model's own.
            top_k: how many labels to give for each pixel, with their scores.
            rejection: which pixels are none of these labels.
            batch_size: images, or windows of an image, of a forward pass.
            settings: how images are seen, by default as `inference` says.

        Raises:
            VocabularyError: as in `names`. ImageError: an image that cannot be read, or whose scores are not finite;
            it is named. ConfigError: `top_k` is not in [1, N].
        """
        names = self.names(labels)
        if not 1 <= top_k <= len(names):
            raise ConfigError(f"top_k is {top_k}; it must be from 1 to the number of labels, {len(names)}")
        if rejection and NONE in map(str.casefold, names):
            raise VocabularyError(f"{NONE!r} is what rejected pixels are called: leave it out of the labels")
        embeddings = self.embed(names)
        wanted = [self.inference if settings is None else settings]
        pixels = (
            (_called(image, place), image_files.read_image(arrays.plain(image)))
            for place, image in enumerate(arrays.several(images))
        )
        for (called, image), (scores,) in self.score_each(pixels, lambda item: item[1], embeddings, wanted, batch_size):
            yield _segmentation(called, image, names, scores, top_k, rejection)

    def score_each(
        self,
        items: Iterable[Item],
        image_of: Callable[[Item], np.ndarray],
        embeddings: Any,
        settings: Sequence[Settings],
        batch_size: int = 1,
    ) -> Iterator[tuple[Item, list[Scores]]]:
        """Scores of a stream of images, in its order.

        Images that share a `batch_key` are scored together. At most 4 * `batch_size` are read before the next result
        is given; then a batch that is not full yet has to do.

        Args:
            items: each is read when it is its turn. image_of: the image of an item, uint8 [H, W, 3].
            embeddings, settings, batch_size: as for `scores`.

        Yields:
            An item and its scores, one entry for each of `settings`; refined where these have a CRF. They may hold NaN
            where the model computes it; who makes labels of them looks (`vlseg.evaluation.finite`).

        Raises:
            CheckpointError: `embeddings` are not finite.
        """
        check_embeddings(embeddings)
        plain = [_without_crf(wanted) for wanted in settings]  # no compiled program depends on a CRF

        def key(item: Item) -> Hashable | None:
            return self.batch_key(image_of(item).shape, plain)

        def score(batch: list[Item]) -> list[list[Scores]]:
            images = [image_of(item) for item in batch]
            found = self.scores(images, embeddings, plain, batch_size)
            return [
                list(map(_refined, each, [image] * len(each), settings))
                for image, each in zip(images, found, strict=True)
            ]

        return in_order(items, key, score, batch_size)


def _without_crf(settings: Any) -> Any:
    return dataclasses.replace(settings, crf=OFF) if hasattr(settings, "crf") else settings


def _refined(scores: Scores, image: np.ndarray, settings: Any) -> Scores:
    wanted = getattr(settings, "crf", OFF)
    return RefinedScores(scores, image, wanted) if wanted.iterations else scores


def _called(image: Picture, place: int) -> str:
    """What messages call an image: its path, or which of the images it is, counted from 1."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {place + 1}"


def _segmentation(
    called: str, image: np.ndarray, names: tuple[str, ...], scores: Scores, top_k: int, rejection: Rejection
) -> Segmentation:
    wanted = min(max(top_k, 2 if rejection.min_margin is not None else 1), len(names))
    with naming(called):
        best, values = scores.top(wanted)
    check_scores(called, values)
    label_map = np.ascontiguousarray(best[..., 0])
    if rejection:
        label_map = np.where(rejection.of(values), len(names), label_map).astype(np.int32)
        names = (*names, NONE)
    return Segmentation(label_map, names, best[..., :top_k], values[..., :top_k], image, scores)


def without_variables(model: Any) -> Callable[[Mapping[str, Any]], Any]:
    """The model, a dataclass, as a function of its variables: it keeps none of the present ones alive."""
    kind = type(model)
    rest = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name != "variables"}
    return lambda variables: kind(variables=variables, **rest)
