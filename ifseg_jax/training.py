"""From a configuration to a training run: words, weights and data for the tasks of `ifseg_jax.objective`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from ifseg_jax import checkpoint, flops, inference, objective
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.model import IFSeg, adapted, load, with_category_table
from ifseg_jax.objective import TASKS, Adapting
from ifseg_jax.prompt import UNKNOWN, WordEmbeddings, word_ids
from ifseg_jax.settings import Adaptation
from ifseg_jax.settings import Inference as Seen
from ifseg_jax.vocabulary import load_tokenizer
from ifseg_jax.weights import WEIGHTS, fetch_tokenizer, has_tokenizer, tokenizer_folder
from vlseg import overrides, settings, sharding
from vlseg.checkpoints import rules
from vlseg.checks import check_choices
from vlseg.data import transforms
from vlseg.data.examples import IGNORED
from vlseg.data.sources import Dataset, open_section
from vlseg.data.stream import Stream, prefetched
from vlseg.errors import ConfigError, VocabularyError
from vlseg.labels import names_from
from vlseg.labels.binding import Binding, bind
from vlseg.packages import Checked
from vlseg.training.program import Inference, Outline, Prepared

LONG_SIDE = 43
"""Tokens of the long side of a 4:3 image whose short side is 512 pixels."""


def read_settings(
    config: ml_collections.ConfigDict, pairs: bool = False
) -> tuple[type[Adapting], Adaptation, tuple[str, ...]]:
    """The way of training, its settings, and the categories of a configuration.

    Args:
        pairs: whether "name=word" may be among the categories, see `vlseg.labels.binding`.

    Raises:
        ConfigError: a setting that does not exist or cannot be, or no categories.
    """
    check_choices(config, "config.", mode=TASKS)
    if not config.categories:
        raise ConfigError("config.categories is empty: give a list such as coco_stuff_171, a names file or 'cat,grass'")
    adaptation = settings.read(Adaptation, config.adaptation, "config.adaptation")
    return TASKS[config.mode], adaptation, names_from(config.categories, pairs=pairs)


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> Checked:
    """See `vlseg.packages.Package.check`."""
    supervised = config.get("mode") == "supervised"
    _, adaptation, categories = read_settings(config, pairs=supervised)
    sharding.check_batch(mesh, adaptation.batch_size // adaptation.accumulation_steps)
    bound = open_data(config.data, categories)[1] if supervised else Binding(categories, ())
    categories = bound.words
    # Of one that is there, the tokenizer may be its own, and is read with it.
    fetched = config.checkpoint in WEIGHTS and not Path(config.checkpoint).exists()
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    if not fetched:
        return Checked(categories, replaced=bound.replaced)
    overrides.changed(Seen(), config.inference, "config.inference.")
    asked = outline(config, len(categories))
    if tokenizer is None and has_tokenizer():
        tokenizer = load_tokenizer(tokenizer_folder())
    if tokenizer is not None:
        categories = IFSeg(_model_config(config, categories), {}, tokenizer).names(categories)
    return Checked(categories, outline=asked, replaced=bound.replaced)


def prepare(config: ml_collections.ConfigDict, mesh: Mesh) -> Prepared:
    """See `vlseg.packages.Package.prepare`."""
    supervised = config.get("mode") == "supervised"
    kind, adaptation, categories = read_settings(config, pairs=supervised)
    dataset, bound = open_data(config.data, categories) if supervised else (None, Binding(categories, ()))
    if config.checkpoint in WEIGHTS and not Path(config.checkpoint).exists() and not config.tokenizer:
        # Before the weights, which take longer: words that it cannot spell are told first.
        tokenizer = load_tokenizer(fetch_tokenizer())
        IFSeg(_model_config(config, bound.words), {}, tokenizer).names(bound.words)
    model = load(config.checkpoint, config.tokenizer or None, **config.model)
    seen = overrides.changed(model.inference, config.inference, "config.inference.")
    model = dataclasses.replace(model, inference=seen)
    names = model.names(bound.words)
    model = model.with_labels(names) if adaptation.freeze_embedding else with_category_table(model, names)
    words, ids = model.embed(names), word_ids(model.words(names))
    task = kind(model.config, adaptation, len(names), len(ids.prompt), ids.categories.shape[1])
    batches = epoch = None
    if dataset is not None:
        rows = sharding.own_rows(mesh, adaptation.batch_size)
        epoch = -(-len(dataset) // adaptation.batch_size)
        make = supervised_batches(
            dataset, task, bound.places(len(dataset.names)), rows=rows, on_error=config.loading.on_error
        )
        batches = prefetched(make, config.loading.threads, config.loading.workers)
    state, needed, frozen = task.split(model.variables)
    build = adapted(model, names)
    return Prepared(
        task=task,
        state=state,
        constants={"frozen": needed, "words": task.text(words, ids)},
        batches=batches,
        steps=adaptation.steps,
        finish=lambda state: build(objective.joined(state, frozen)),
        words=names,
        replaced=bound.replaced,
        epoch=epoch,
        filled={
            "model": {name: getattr(model.config, name) for name in config.model},
            "adaptation.image_size": task.side,
            "inference": dataclasses.asdict(seen),
        },
    )


def open_data(section: ml_collections.ConfigDict, categories: tuple[str, ...]) -> tuple[Dataset, Binding]:
    """The labelled images of a supervised run, and which of the categories stand for its classes.

    Raises:
        ConfigError: no data set is given, or its classes do not fit the categories, see `vlseg.labels.binding`.
    """
    if not section.source:
        raise ConfigError("a supervised run needs images: give --config.data.source=FOLDER")
    dataset = open_section(section.source, section)
    try:
        return dataset, bind(dataset.names, categories, what="categories", source=section.source)
    except VocabularyError as error:
        raise ConfigError(f"{section.source}: {error}") from error


def supervised_batches(
    dataset: Dataset, task: Adapting, category_of: np.ndarray | None = None, **reading: Any
) -> Callable[[int], tuple[Any, Any]]:
    """Training batches of a data set as a pure function of the step: augmented crops, -1 where a pixel is ignored.

    Args:
        dataset: the examples. task: says what a batch is.
        category_of: int32 [N], of each class of the data set its category; by default they are the same.
        reading: keyword arguments of `vlseg.data.stream.Stream`.
    """
    classes = len(dataset.names)
    # One more entry, for -1 as an index: a pixel that is ignored.
    targets_of = np.append(np.arange(classes) if category_of is None else category_of, IGNORED).astype(np.int32)
    ignored, side = dataset.ignore_label, task.side
    stream = Stream([dataset], task.batch_size, task.settings.seed, **reading)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = []
        for example, _, rng in stream.draws(step):
            image, label = transforms.random_crop(example.image, example.label, (side, side), rng, ignore_label=ignored)
            counted = (label != ignored) & (label >= 0) & (label < classes)
            pairs.append((image, targets_of[np.where(counted, label, -1)]))
        images, targets = zip(*pairs, strict=True)
        return np.stack(images), np.stack(targets)

    return batch


def outline(config: ml_collections.ConfigDict, labels: int) -> Outline:
    """See `vlseg.packages.Package.outline`. The tokenizer's files are not needed: every word counts as one token.

    Args:
        labels: of no use, because the configuration names the categories.
    """
    del labels
    kind, adaptation, categories = read_settings(config)
    model = _model_config(config, categories)
    if not adaptation.freeze_embedding:
        model = dataclasses.replace(model, category_rows=len(categories))
    texts = (model.prompt_prefix, *categories, UNKNOWN)
    length = 2 + sum(len(text.split()) for text in texts)
    task = kind(model, adaptation, len(categories), length, max(len(name.split()) for name in categories))
    flat = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in checkpoint.parameter_shapes(model).items()}
    size = model.image_grid * model.stride, LONG_SIDE * model.image_grid * model.stride // 32

    def predict(variables: Any, words: WordEmbeddings, images: jax.Array) -> jax.Array:
        return inference.predict(model, variables, words, images).logits

    def segment(variables: Any, words: WordEmbeddings, images: jax.Array) -> jax.Array:
        averaging = inference.Averaging(Seen.knn_k, Seen.knn_iterations)
        return inference.label_maps(model, averaging, variables, words, images)[1]

    seen = Inference(
        predict,
        rules.unflatten(flat),
        task.embeddings(),
        size,
        flops.inference(model, *size, length, len(categories)),
    )
    return Outline(task, seen, seen._replace(function=segment))


def _model_config(config: ml_collections.ConfigDict, categories: tuple[str, ...]) -> OFAConfig:
    """The configuration of the checkpoint with these categories; official checkpoints need not be there."""
    name = config.checkpoint
    if name in SIZES:
        given = {option: value for option, value in config.model.items() if value is not None}
        return dataclasses.replace(SIZES[name], **given)
    if name not in checkpoint.BUNDLED_MODELS and not Path(name).exists():
        raise ConfigError(
            f"config.checkpoint {name} is not there; name the size that it has: --config.checkpoint=ofa_base"
        )
    model = load(name, **config.model)
    return dataclasses.replace(model.config, category_rows=model.table_rows(categories))
