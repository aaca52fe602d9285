"""The public model: load, adapt, segment, save."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ifseg_jax import checkpoint, inference
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import Averaging
from ifseg_jax.postprocess import GridScores, ImageScores
from ifseg_jax.prompt import WordEmbeddings, Words, embed_words, encode_categories, report_untrained, rows_of, word_ids
from ifseg_jax.settings import Adaptation, Inference, Options, stored_adaptation
from ifseg_jax.tokenizer import own_tokenizer, words_file_of
from ifseg_jax.vocabulary import UNK, Tokenizer
from vlseg import fields
from vlseg import settings as settings_of
from vlseg.checkpoints import directory, rules
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.data import images as image_files
from vlseg.data.arrays import Picture
from vlseg.errors import ConfigError, VocabularyError
from vlseg.labels.distinct import check_embeddings, check_known, check_tokens
from vlseg.nn.inputs import check_pixels
from vlseg.scores import Scores
from vlseg.segmentation import Segmentation
from vlseg.segmenter import Segmenter, Variant, without_variables
from vlseg.training import program

OFFICIAL = Inference()
"""The official evaluation's settings."""


@dataclasses.dataclass(frozen=True)
class IFSeg(Segmenter[Inference]):
    """An OFA model that segments images into categories given as words. Frozen: methods return new objects.

    Attributes:
        config: sizes and options. variables: {"params", "batch_stats"}, float32 arrays.
        tokenizer: from a text to word ids, or None if only ready-made ids will be used.
        inference: how images are treated.
        adaptation: settings that suit this model better than the official ones, the defaults of `adapt`.
        categories: what the model was adapted to, the default labels of the methods below; empty if it was not.
        carried, tied, fresh: what an official checkpoint held besides, or lacked; see `Weights`.
        words_file: the model's own vocabulary, copied along when it is saved.

    Wherever labels are taken, the keyword `categories` means the same.
    """

    package = checkpoint.FORMAT

    config: OFAConfig
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None = dataclasses.field(default=None, repr=False)
    inference: Inference = OFFICIAL
    adaptation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    categories: tuple[str, ...] = ()
    carried: Mapping[str, rules.TensorSource] = dataclasses.field(default_factory=dict, repr=False)
    tied: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    words_file: Path | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's own labels, its categories."""
        return self.categories

    def words(self, labels: Sequence[str] | None = None) -> Words:
        """Ids of the categories and of the prompt.

        Raises:
            VocabularyError: no categories, duplicates, blanks; no tokenizer; a text longer than the model reads; names
                that the tokenizer takes for the same, as of another case if it ignores that, or has no piece of.
        """
        if labels is None and not self.categories:
            raise VocabularyError('this model was not adapted to categories: name some, e.g. --labels="cat,grass,dog"')
        chosen = self.categories if labels is None else labels
        if self.tokenizer is None:
            raise VocabularyError(
                "this checkpoint has no tokenizer: give one (--tokenizer=DIRECTORY) with the official utils/BPE files "
                "(encoder.json, vocab.bpe, dict.txt) or with Hugging Face tokenizer files of OFA"
            )
        words = encode_categories(chosen, self.tokenizer, self.config.prompt_prefix)
        if len(words.prompt_ids) > self.config.max_positions:
            raise VocabularyError(
                f"the prompt with {len(words.names)} categories has {len(words.prompt_ids)} tokens; "
                f"the model reads at most {self.config.max_positions}"
            )
        if max(words.prompt_ids) >= self.config.vocabulary_size:
            raise VocabularyError(
                f"the tokenizer gives id {max(words.prompt_ids)}, the model knows {self.config.vocabulary_size} words"
            )
        check_known(words.names, words.category_ids, UNK)
        check_tokens(words.names, words.category_ids)
        return words

    def names(self, labels: Sequence[str] | None = None) -> tuple[str, ...]:
        return self.words(labels).names

    def embed(self, labels: Sequence[str] | None = None) -> WordEmbeddings:
        """Embeddings of categories, prompt and <s>; see `Segmenter.embed`."""
        words = self.words(labels)
        found = embed_words(self.variables["params"]["word_embedding"]["table"], words)
        if self.table_rows(words.names):
            own = np.array(rows_of(words.names, self.categories, self.tokenizer))
            table = self.variables["params"]["category_embedding"]["table"]
            report_untrained(tuple(name for name, row in zip(words.names, own, strict=True) if row < 0))
            # Names that the table has not are the means of their words.
            projection = jnp.where((own >= 0)[:, None], table[np.maximum(own, 0)], found.categories)
            found = found._replace(projection=projection)
        check_embeddings(words.names, found.projected)
        return found

    def table_rows(self, names: Iterable[str]) -> int:
        """`category_rows` of the model with these labels: one each, or 0 if its table has none of them."""
        rows = rows_of(tuple(names), self.categories, self.tokenizer) if self.config.category_rows else []
        return len(rows) if max(rows, default=-1) >= 0 else 0

    def with_labels(self, labels: Sequence[str]) -> "IFSeg":
        chosen = dataclasses.replace(self, categories=tuple(labels))
        if not self.config.category_rows or chosen.categories == self.categories:
            return chosen
        params = {name: part for name, part in self.variables["params"].items() if name != "category_embedding"}
        rows = self.table_rows(chosen.categories)
        if rows:
            params["category_embedding"] = {"table": self.embed(chosen.categories).projected}
        config = dataclasses.replace(self.config, category_rows=rows)
        return dataclasses.replace(chosen, config=config, variables={**self.variables, "params": params})

    def logits(
        self, images: jax.Array, labels: Sequence[str] | None = None, *, categories: Sequence[str] | None = None
    ) -> jax.Array:
        """Category logits on the token grid, before kNN averaging. Every shape of images compiles a program.

        Args:
            images: float32 [B, H, W, 3] in [-1, 1], already of the size to be used (or uint8).
            labels: M names.
            categories: the same.

        Returns:
            float32 [B, h, w, M], h = ceil(H / 16) for the official models.

        Raises:
            ImageError: images of another shape, dtype or range.
        """
        embeddings = self.embed(_labels(labels, categories))
        return inference.predict(self.config, self.variables, embeddings, _checked(images)).logits

    def artificial_logits(
        self, grids: jax.Array, labels: Sequence[str] | None = None, *, categories: Sequence[str] | None = None
    ) -> jax.Array:
        """The image-free branch: int [B, h, w] category ids in the place of image tokens -> float32 [B, h, w, M].

        Raises:
            VocabularyError: as in `words`. ConfigError: an id that is none of the categories'.
        """
        words = self.embed(_labels(labels, categories))
        if not isinstance(grids, jax.core.Tracer):
            ids, count = np.asarray(grids), words.categories.shape[0]
            if ids.ndim != 3 or ids.size == 0 or ids.min() < 0 or ids.max() >= count:
                raise ConfigError(f"grids must be [B, h, w] of ids from 0 to {count - 1}")
        return inference.artificial_logits(self.config, self.variables, words, jnp.asarray(grids))

    def image_features(self, images: jax.Array) -> jax.Array:
        """Features of the image trunk: float32 [B, H, W, 3] in [-1, 1] -> float32 [B, h, w, 1024]."""
        return inference.image_features(self.config, self.variables, _checked(images))

    def segment_each(
        self,
        images: Iterable[Picture],
        labels: Sequence[str] | None = None,
        *,
        knn: bool = True,
        categories: Sequence[str] | None = None,
        settings: Inference | None = None,
        **options: Any,
    ) -> Iterator[Segmentation]:
        """Segments a stream of images, in its order; see `Segmenter.segment_each`.

        Args:
            images, labels, options: as there.
            knn: average probabilities over nearest neighbours as the settings say.
            categories: the same as `labels`.
            settings: by default `inference`.
        """
        chosen = settings or self.inference
        if not knn:
            chosen = dataclasses.replace(chosen, knn_iterations=0)
        return super().segment_each(images, _labels(labels, categories), settings=chosen, **options)

    def batch_key(self, shape: Sequence[int], settings: Sequence[Inference]) -> tuple[int, ...]:
        """Padded sizes; see `Segmenter.batch_key`."""
        stride = self.config.stride
        sides = ((side, wanted.short_side) for wanted in settings for side in image_size(self.config, shape, wanted))
        return tuple(inference.bucket_side(side, stride, short_side) for side, short_side in sides)

    def scores(
        self, images: Sequence[np.ndarray], embeddings: WordEmbeddings, settings: Sequence[Inference], batch_size: int
    ) -> list[list[Scores]]:
        """See `Segmenter.scores`; settings of one size share a forward pass."""
        stride, sizes = self.config.stride, [image.shape[:2] for image in images]
        found: dict[Inference, GridScores] = {}
        for sides in {(wanted.short_side, wanted.long_side) for wanted in settings}:
            same = [wanted for wanted in settings if (wanted.short_side, wanted.long_side) == sides]
            resized = [
                image_files.resize_image(image, image_size(self.config, image.shape, same[0])) for image in images
            ]
            grids = [(-(-image.shape[0] // stride), -(-image.shape[1] // stride)) for image in resized]
            resized += resized[-1:] * (batch_size - len(resized))
            batch, valid = inference.pad_images(resized, stride, sides[0])
            ways = tuple(map(_averaging, same))
            results = inference.probabilities(self.config, ways, self.variables, embeddings, batch, valid)
            for wanted, probabilities in zip(same, results, strict=True):
                found[wanted] = GridScores(probabilities, grids, sizes)
        return [[ImageScores(found[wanted], row) for wanted in settings] for row in range(len(images))]

    def variants(self) -> list[Variant]:
        """Without and with averaging, if the model averages, both with its CRF if any; see `Segmenter.variants`."""
        plain = Variant("plain", "without kNN averaging", dataclasses.replace(self.inference, knn_iterations=0))
        k, rounds = self.inference.knn_k, self.inference.knn_iterations
        if not rounds:
            return [plain]
        return [plain, Variant("knn", f"with kNN averaging ({k} neighbours, {rounds} rounds)", self.inference)]

    def validation_settings(self) -> Inference:
        """Without kNN averaging, as the authors validate, nor a CRF; see `Segmenter.validation_settings`."""
        return dataclasses.replace(super().validation_settings(), knn_iterations=0)

    def image_function(self, settings: Inference) -> jax.tree_util.Partial:
        """See `Segmenter.image_function`; probabilities are averaged as the settings say."""
        # The words are looked up already, and their table would be a third of an exported file.
        flat = rules.flatten(self.variables)
        variables = {name: value for name, value in flat.items() if "/word_embedding/" not in name}
        config = self.config

        def segment(arrays: tuple[dict[str, Any], WordEmbeddings], images: jax.Array) -> dict[str, jax.Array]:
            variables, words = arrays
            nested = rules.unflatten(variables)
            probabilities, label_map = inference.label_maps(config, _averaging(settings), nested, words, images)
            return {"probabilities": probabilities, "label_map": label_map}

        return jax.tree_util.Partial(segment, (variables, self.embed()))

    @property
    def export_size(self) -> tuple[int, int]:
        return self.config.image_grid * self.config.stride, 1

    def adapt(
        self,
        labels: Sequence[str] | None = None,
        steps: int | None = None,
        *,
        categories: Sequence[str] | None = None,
        **settings: Any,
    ) -> "IFSeg":
        """Adapts the model to categories without any image (Sec. 2.3 of the paper).

        Args:
            labels: names; by default the model's own. categories: the same.
            steps: optimization steps; by default the model's own number, or the official 2,000.
            settings: any field of `ifseg_jax.settings.Adaptation`, e.g. `batch_size`, `learning_rate`, `seed`.

        Returns:
            A new model whose default categories are these.

        Raises:
            VocabularyError: as in `words`. ConfigError: a setting that does not exist, or is out of range.
        """
        # Imported here because it brings the optimizers, which take half a second.
        from ifseg_jax import objective

        given = settings if steps is None else {"steps": steps, **settings}
        chosen = settings_of.read(Adaptation, {**self.adaptation, **given}, "adaptation")
        names = self.names(_labels(labels, categories))
        model = self.with_labels(names) if chosen.freeze_embedding else with_category_table(self, names)
        words, ids = model.embed(names), word_ids(model.words(names))
        task = objective.ImageFree(model.config, chosen, len(names), len(ids.prompt), ids.categories.shape[1])
        copied = jax.tree.map(jnp.copy, model.variables)  # updates give the buffers of their state away
        state, needed, frozen = task.split(copied)
        constants = {"frozen": needed, "words": task.text(words, ids)}
        state = program.run_in_memory(task, state, constants, chosen.steps, title="adapt")
        return adapted(model, names)(objective.joined(state, frozen))

    def stored(self) -> Stored:
        weights = Weights(jax.tree.map(np.asarray, dict(self.variables)), dict(self.carried), self.tied, self.fresh)
        settings = {
            "inference": dataclasses.asdict(self.inference),
            "adaptation": dict(self.adaptation),
            "categories": list(self.categories),
        }
        others = {checkpoint.WORDS_FILE: self.words_file.read_bytes()} if self.words_file else {}
        return Stored(self.config, weights, settings, others=others)


def with_category_table(model: IFSeg, names: tuple[str, ...]) -> IFSeg:
    """A model for these categories with a table that logits are taken against, at first the means of their words."""
    model = model.with_labels(names)
    if model.config.category_rows:
        return model
    table = {"table": model.embed(names).categories}
    variables = {**model.variables, "params": {**model.variables["params"], "category_embedding": table}}
    config = dataclasses.replace(model.config, category_rows=len(names))
    return dataclasses.replace(model, config=config, variables=variables)


def adapted(model: IFSeg, categories: tuple[str, ...]) -> Callable[[Mapping[str, Any]], IFSeg]:
    """The model for these categories as a function of its variables, flat; it keeps none of the present ones alive."""
    carried = {name: tensor for name, tensor in model.carried.items() if ".seg_" not in name}
    build = without_variables(dataclasses.replace(model, categories=categories, carried=carried, fresh=()))
    return lambda flat: build(rules.unflatten(flat))


def _checked(images: ArrayLike) -> jax.Array:
    return check_pixels(jnp.asarray(images), (-1.0,), (1.0,))


def _labels(labels: Sequence[str] | None, categories: Sequence[str] | None) -> Sequence[str] | None:
    if labels is not None and categories is not None:
        raise VocabularyError("labels and categories mean the same: give one of them")
    return categories if labels is None else labels


def image_size(config: OFAConfig, shape: Sequence[int], settings: Inference) -> tuple[int, int]:
    """Height and width at which an image of `shape` (H, W, ...) is segmented, multiples of `config.side_multiple`."""
    unit = config.side_multiple
    size = image_files.rescaled_size(shape[0], shape[1], settings.short_side, settings.long_side)
    most = max(settings.long_side // unit, 1)
    rows, columns = (min(max(int(side / unit + 0.5), 1), most) * unit for side in size)
    return rows, columns


def _averaging(settings: Inference) -> Averaging:
    return Averaging(settings.knn_k, settings.knn_iterations)


def load(
    source: str | os.PathLike[str] = checkpoint.BUNDLED,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    *,
    step: int | None = None,
    **options: Any,
) -> IFSeg:
    """Loads a model.

    Args:
        source: "tiny" or "clothing" (bundled: a procedural world; street fashion, adapted to 59 words without images),
            the name of an official checkpoint such as "ofa_base" (downloaded once), an official `.pt`, a directory
            written by `IFSeg.save`, or the folder of a training run; each also in a bucket (`gs://...`, copied once).
        tokenizer: a callable from a text to ids, or what `load_tokenizer` takes; by default the model's own, if any;
            of official models the one that is fetched beside them (`ifseg_jax.weights`).
        step: of a training run: one that it has kept; by default the model that it ended with.
        options: fields of `ifseg_jax.settings.Options`, e.g. `dtype="bfloat16"`.

    Raises:
        CheckpointError, ConfigError, VocabularyError, DownloadError: with one line that says what to do.
    """
    given = settings_of.read(Options, options, "a loaded model")
    path = checkpoint.resolve(source, step)
    stored = checkpoint.read(path, place=lambda array: jnp.asarray(array, jnp.float32))
    words_file = words_file_of(stored)
    tokenizer = own_tokenizer(stored, tokenizer, source)
    told = stored.settings
    with directory.usable(path / directory.CONFIG_FILE):
        seen = fields.read(Inference, told.get("inference", {}), "inference")
        adaptation = stored_adaptation(told.get("adaptation", {}))
        categories = fields.as_tuples(told.get("categories", ()))
        fields.check_value(categories, tuple[str, ...], "categories")
    chosen = {name: value for name, value in dataclasses.asdict(given).items() if value is not None}
    return IFSeg(
        config=dataclasses.replace(stored.config, **chosen),
        variables=stored.weights.variables,
        tokenizer=tokenizer,
        inference=seen,
        adaptation=adaptation,
        categories=categories,
        carried=stored.weights.carried,
        tied=stored.weights.tied,
        fresh=stored.weights.fresh,
        words_file=words_file,
    )
