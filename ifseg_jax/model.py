"""The public model: load, adapt, segment, save."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ifseg_jax import inference, storage
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import Prediction, WordEmbeddings
from ifseg_jax.knn import knn_average
from ifseg_jax.official import Converted
from ifseg_jax.vocabulary import Tokenizer, Words, encode_categories, load_tokenizer
from vlseg import files, remote, visualize
from vlseg.data import images as image_files
from vlseg.data.folder import names_from
from vlseg.errors import CheckpointError, ConfigError, VocabularyError
from vlseg.nn.resize import resize_bilinear
from vlseg.state_dicts import TensorSource

BUNDLED = "tiny"
OPTIONS = ("dropout", "drop_path", "decoder_positions", "dtype", "remat", "query_blocks")
"""Settings of a model that change none of its parameters, which `load` takes."""

Item = TypeVar("Item")
ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Inference:
    """How real images are segmented; the defaults are the official evaluation's.

    short_side, long_side: pixels; an image is resized so that its short side has `short_side`, unless its long side
        would then exceed `long_side`.
    knn_k, knn_iterations: neighbours and rounds of probability averaging; 0 rounds switch it off.
    """

    short_side: int = 512
    long_side: int = 2048
    knn_k: int = 3
    knn_iterations: int = 25

    def __post_init__(self) -> None:
        least = {"short_side": 1, "long_side": 1, "knn_k": 1, "knn_iterations": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                raise ConfigError(f"inference setting {name} is {value!r}; it must be an integer from {minimum} up")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    label_map: int32 [H, W], indices into `labels`, at the image's original size.
    labels: the category names.
    grid_probabilities: float32 [h, w, M] on the token grid.
    image: the image, uint8 [H, W, 3].
    """

    label_map: np.ndarray
    labels: tuple[str, ...]
    grid_probabilities: np.ndarray
    image: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [H, W, M], bilinearly upsampled; made anew at each access because it is large."""
        height, width = self.label_map.shape
        return np.asarray(resize_bilinear(jnp.asarray(self.grid_probabilities)[None], height, width)[0])

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image under its coloured label map, with a legend."""
        return visualize.overlay(self.image, self.label_map, self.labels, alpha)


@dataclasses.dataclass(frozen=True)
class IFSeg:
    """An OFA model that segments images into categories given as words. Frozen: methods return new objects.

    config: sizes and options. variables: {"params", "batch_stats"}, float32 arrays.
    tokenizer: from a text to word ids, or None if only ready-made ids will be used.
    inference: how images are treated.
    adaptation: settings that suit this model better than the official ones, the defaults of `adapt`.
    categories: what the model was adapted to, the default of the methods below; empty if it was not.
    carried, tied, fresh: what an official checkpoint held besides, or lacked; see `ifseg_jax.official.Converted`.
    words_file: the model's own vocabulary, copied along when it is saved.
    """

    config: OFAConfig
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = None
    inference: Inference = Inference()
    adaptation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    categories: tuple[str, ...] = ()
    carried: Mapping[str, TensorSource] = dataclasses.field(default_factory=dict, repr=False)
    tied: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    words_file: Path | None = None

    def words(self, categories: Sequence[str] | None = None) -> Words:
        """Ids of the categories and of the prompt.

        Raises:
            VocabularyError: no categories, duplicates, blanks; no tokenizer; a text longer than the model reads.
        """
        chosen = self.categories if categories is None else categories
        if self.tokenizer is None:
            raise VocabularyError(
                "this checkpoint has no tokenizer: give one (--tokenizer=DIRECTORY) with the official utils/BPE files "
                "(encoder.json, vocab.bpe, dict.txt) or with Hugging Face tokenizer files of OFA"
            )
        words = encode_categories(chosen, self.tokenizer)
        if len(words.prompt_ids) > self.config.max_positions:
            raise VocabularyError(
                f"the prompt with {len(words.names)} categories has {len(words.prompt_ids)} tokens; "
                f"the model reads at most {self.config.max_positions}"
            )
        if max(words.prompt_ids) >= self.config.vocabulary_size:
            raise VocabularyError(
                f"the tokenizer gives id {max(words.prompt_ids)}, the model knows {self.config.vocabulary_size} words"
            )
        return words

    def named(self, given: str | None = None) -> tuple[str, ...]:
        """The categories that a command is asked for, by default the model's own.

        Args:
            given: names with commas, or a list or file of them, see `vlseg.data.folder.names_from`.

        Raises:
            VocabularyError: there are none, or as in `words`.
        """
        categories = names_from(given) if given else self.categories
        if not categories:
            raise VocabularyError('this model was not adapted to categories: name some, e.g. --labels="cat,grass,dog"')
        return self.words(categories).names

    def word_embeddings(self, categories: Sequence[str] | None = None) -> WordEmbeddings:
        """Embeddings of categories, prompt and <s>."""
        return inference.embed_words(self.variables["params"]["word_embedding"]["table"], self.words(categories))

    def logits(self, images: jax.Array, categories: Sequence[str] | None = None) -> jax.Array:
        """Category logits on the token grid, before kNN averaging.

        Args:
            images: float32 [B, H, W, 3] in [-1, 1], already of the size to be used (or uint8).
            categories: M names.

        Returns:
            float32 [B, h, w, M], h = ceil(H / 16) for the official models.
        """
        return self._predict(images, categories).logits

    def _predict(self, images: jax.Array, categories: Sequence[str] | None) -> Prediction:
        return inference.predict(self.config, self.variables, self.word_embeddings(categories), jnp.asarray(images))

    def artificial_logits(self, grids: jax.Array, categories: Sequence[str] | None = None) -> jax.Array:
        """The image-free branch: int [B, h, w] category ids in the place of image tokens -> float32 [B, h, w, M].

        Raises:
            VocabularyError: as in `words`. ConfigError: an id that is none of the categories'.
        """
        words = self.word_embeddings(categories)
        if not isinstance(grids, jax.core.Tracer):
            ids, count = np.asarray(grids), words.categories.shape[0]
            if ids.ndim != 3 or ids.size == 0 or ids.min() < 0 or ids.max() >= count:
                raise ConfigError(f"grids must be [B, h, w] of ids from 0 to {count - 1}")
        return inference.artificial_logits(self.config, self.variables, words, jnp.asarray(grids))

    def image_features(self, images: jax.Array) -> jax.Array:
        """Features of the image trunk: float32 [B, H, W, 3] in [-1, 1] -> float32 [B, h, w, 1024]."""
        return inference.image_features(self.config, self.variables, jnp.asarray(images))

    def segment(
        self,
        image: ImageSource | Sequence[ImageSource],
        categories: Sequence[str] | None = None,
        *,
        knn: bool = True,
    ) -> Any:
        """Segments an image, or each of a list.

        Args:
            image: a path, a PIL image or uint8 [H, W, 3]; or a list of them.
            categories: names; by default those that the model was adapted to.
            knn: average probabilities over nearest neighbours as `inference` says.

        Returns:
            A `Segmentation`, or a list of them in the order of the images.
        """
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray | jax.Array):
            segmented = dict(self.segment_each(image, categories, knn=knn))
            return [segmented[index] for index in range(len(segmented))]
        return next(self.segment_each([image], categories, knn=knn))[1]

    def segment_each(
        self,
        images: Iterable[ImageSource],
        categories: Sequence[str] | None = None,
        *,
        knn: bool = True,
        batch_size: int = 1,
    ) -> Iterator[tuple[int, Segmentation]]:
        """Segments a stream of images; each is read when it is its turn.

        Images whose padded sizes agree are batched, so with `batch_size` above 1 results come out of order.

        Yields:
            (index of the image in the stream, its segmentation).
        """
        embeddings, names = self.word_embeddings(categories), self.words(categories).names
        rounds = self.inference.knn_iterations if knn else 0
        stream = ((index, image_files.read_image(_on_host(source))) for index, source in enumerate(images))
        for batch in self.batches(stream, lambda item: item[1], batch_size):
            pixels = [item[1] for item in batch]
            (probabilities,), grids = self.grid_probabilities(pixels, embeddings, (rounds,), batch_size)
            maps = self.label_maps(probabilities, grids, [image.shape[:2] for image in pixels])
            host = np.asarray(probabilities)
            for row, (index, image) in enumerate(batch):
                rows, columns = grids[row]
                yield index, Segmentation(maps[row], names, host[row, :rows, :columns], image)

    def batches(
        self, items: Iterable[Item], image_of: Callable[[Item], np.ndarray], batch_size: int
    ) -> Iterator[list[Item]]:
        """Groups a stream into lists of at most `batch_size` items whose images share a padded size."""
        waiting: dict[tuple[int, int], list[Item]] = {}
        for item in items:
            height, width = self.inference_size(image_of(item).shape)
            bucket = inference.bucket_side(height, self.config.stride), inference.bucket_side(width, self.config.stride)
            group = waiting.setdefault(bucket, [])
            group.append(item)
            if len(group) == batch_size:
                yield waiting.pop(bucket)
        yield from waiting.values()

    def inference_size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width at which an image of `shape` (H, W, ...) is segmented."""
        return image_files.rescaled_size(shape[0], shape[1], self.inference.short_side, self.inference.long_side)

    def grid_probabilities(
        self, images: Sequence[np.ndarray], words: WordEmbeddings, rounds: Sequence[int], batch_size: int = 1
    ) -> tuple[list[jax.Array], list[tuple[int, int]]]:
        """Probabilities on padded grids, for several numbers of averaging rounds after one forward pass.

        Args:
            images: uint8 [H, W, 3] each, original sizes that share a bucket.
            words: from `word_embeddings`.
            rounds: rounds of kNN averaging, 0 for none.
            batch_size: the batch is filled up to this size, so that its shape is static.

        Returns:
            Per entry of `rounds` float32 [batch_size, h, w, M]; and the valid (rows, columns) of each image.
        """
        sizes = [self.inference_size(image.shape) for image in images]
        resized = [image_files.resize_image(image, size) for image, size in zip(images, sizes, strict=True)]
        resized += resized[-1:] * (batch_size - len(resized))
        batch, valid = inference.pad_images(resized, self.config.stride)
        prediction = inference.predict(self.config, self.variables, words, batch, valid)
        probabilities = jax.nn.softmax(prediction.logits, axis=-1)
        results = [self._average(probabilities, prediction, number) for number in rounds]
        stride = self.config.stride
        return results, [(-(-height // stride), -(-width // stride)) for height, width in sizes]

    def _average(self, probabilities: jax.Array, prediction: Prediction, rounds: int) -> jax.Array:
        if not rounds:
            return probabilities
        batch, rows, columns, categories = probabilities.shape
        mask = inference.cell_mask(prediction.cells, rows, columns)
        features = prediction.features.reshape(batch, rows * columns, -1)
        flat = probabilities.reshape(batch, rows * columns, categories)
        return knn_average(flat, features, self.inference.knn_k, rounds, mask).reshape(probabilities.shape)

    @staticmethod
    def label_maps(
        probabilities: jax.Array, grids: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, ...]]
    ) -> list[np.ndarray]:
        """int32 [H, W] label maps of original `sizes` from padded grid probabilities [B, h, w, M]."""
        return _at_sizes(inference.label_maps, probabilities, grids, sizes)

    @staticmethod
    def best_categories(
        probabilities: jax.Array, grids: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, ...]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same with the probability float32 [H, W] of each pixel's category."""
        return list(zip(*_at_sizes(inference.best_categories, probabilities, grids, sizes), strict=True))

    def adapt(self, categories: Sequence[str], steps: int | None = None, **settings: Any) -> "IFSeg":
        """Adapts the model to categories without any image (Sec. 2.3 of the paper).

        Args:
            categories: names.
            steps: optimization steps; by default the model's own number, or the official 2,000.
            settings: any field of `ifseg_jax.adaptation.Adaptation`, e.g. `batch_size`, `learning_rate`, `seed`.

        Returns:
            A new model whose default categories are these.

        Raises:
            VocabularyError: as in `words`. ConfigError: a setting that does not exist, or is out of range.
        """
        from ifseg_jax import adaptation

        given = settings if steps is None else {"steps": steps, **settings}
        return adaptation.adapt(self, categories, adaptation.Adaptation.from_dict({**self.adaptation, **given}))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a directory of safetensors and JSON that `load` reads anywhere; whole or not at all.

        It may be one of a bucket (`gs://...`), where a part of it is never taken for a model.

        Raises:
            StorageError: it exists and `overwrite` is False, or it cannot be written.
            ConfigError: a package for its bucket is missing.
        """
        settings = {
            "inference": dataclasses.asdict(self.inference),
            "adaptation": dict(self.adaptation),
            "categories": list(self.categories),
        }
        storage.write_directory(path, self.config, self.converted(), settings, self.words_file, overwrite)

    def converted(self) -> Converted:
        """The model as `ifseg_jax.official` and `ifseg_jax.storage` take it."""
        variables = jax.tree.map(np.asarray, dict(self.variables))
        return Converted(variables, dict(self.carried), self.tied, self.fresh)


def _at_sizes(
    upsample: Callable[..., Any],
    probabilities: jax.Array,
    grids: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, ...]],
) -> Any:
    """What a function of `ifseg_jax.inference` makes of padded grid probabilities [B, h, w, M], cut to each image.

    Returns:
        A list of arrays [H, W] on the host, one for each of `sizes`; or for several results a tuple of such lists.
    """
    filler = len(probabilities) - len(sizes)
    height = inference.output_side(max(size[0] for size in sizes))
    width = inference.output_side(max(size[1] for size in sizes))
    grid_array = np.asarray([*grids, *[grids[-1]] * filler], np.int32)
    size_array = np.asarray([*sizes, *[sizes[-1]] * filler], np.int32)

    def cut(maps: np.ndarray) -> list[np.ndarray]:
        return [maps[row, : size[0], : size[1]] for row, size in enumerate(sizes)]

    return jax.tree.map(
        lambda maps: cut(np.asarray(maps)), upsample(probabilities, grid_array, size_array, height, width)
    )


def _on_host(image: Any) -> Any:
    return np.asarray(image) if isinstance(image, jax.Array) else image


def load(
    source: str | os.PathLike[str] = BUNDLED,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    **options: Any,
) -> IFSeg:
    """Loads a model.

    Args:
        source: "tiny" (bundled), the name of an official checkpoint such as "ofa_base" (downloaded once), an official
            `.pt`, or a directory written by `IFSeg.save`; either also in a bucket (`gs://...`, copied once).
        tokenizer: a callable from a text to ids, or what `load_tokenizer` takes; by default the model's own, if any.
        options: fields of `OFAConfig` named in `OPTIONS`, e.g. `dtype="bfloat16"`.

    Raises:
        CheckpointError, ConfigError, VocabularyError, DownloadError: with one line that says what to do.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"a loaded model has no option {', '.join(unknown)}; there are {', '.join(OPTIONS)}")
    path = resolve(source)
    stored = storage.read(path, place=lambda array: jnp.asarray(array, jnp.float32))
    words_file = None
    if stored.directory is not None and (stored.directory / storage.WORDS_FILE).exists():
        words_file = stored.directory / storage.WORDS_FILE
    if tokenizer is None and words_file is not None:
        tokenizer = words_file.parent
    if tokenizer is not None and not callable(tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    try:
        settings = Inference(**stored.settings.get("inference", {}))
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path / storage.CONFIG_FILE} cannot be used: {error}") from error
    return IFSeg(
        config=dataclasses.replace(stored.config, **options),
        variables=stored.converted.variables,
        tokenizer=tokenizer,
        inference=settings,
        adaptation=stored.settings.get("adaptation", {}),
        categories=tuple(stored.settings.get("categories", ())),
        carried=stored.converted.carried,
        tied=stored.converted.tied,
        fresh=stored.converted.fresh,
        words_file=words_file,
    )


def resolve(source: str | os.PathLike[str]) -> Path:
    """Path of a checkpoint given as for `load`; official ones and those in buckets are downloaded at the first use."""
    from ifseg_jax import download

    name = os.fspath(source)
    if name == BUNDLED:  # a folder of that name is ./tiny
        return Path(__file__).with_name(BUNDLED)
    if files.is_remote(name):
        return remote.local_copy(name, storage.CONFIG_FILE, CheckpointError)
    if Path(name).exists():
        return Path(name)
    if name in download.OFFICIAL_CHECKPOINTS:
        return download.fetch(name)
    known = ", ".join([BUNDLED, *download.OFFICIAL_CHECKPOINTS])
    raise CheckpointError(f"no such checkpoint: {name} is neither a file, a directory nor one of {known}")
