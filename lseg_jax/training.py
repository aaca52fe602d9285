"""From a configuration to a training run: label sets, weights and data for the task of `lseg_jax.objective`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from lseg_jax import checkpoint, encoders, flops, inference, objective, zero_shot
from lseg_jax.batches import OTHERS, classes_shown, count_labels, episode_batches, named_batches, pair_batches
from lseg_jax.config import LSegConfig
from lseg_jax.encoders import merge
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.model import LSeg, load
from lseg_jax.objective import Batch, Matching
from lseg_jax.settings import LABEL_SETS, SQUARED, Training, pretrained
from lseg_jax.tokenizers import load_tokenizer
from vlseg import distributed, overrides, settings, sharding
from vlseg.checkpoints.efficientnet import WEIGHTS
from vlseg.checkpoints.rules import flatten, unflatten
from vlseg.checks import check_choices
from vlseg.data.catalog import fss1000
from vlseg.data.episodes import open_benchmark
from vlseg.data.sources import Dataset, open_section, split_sources
from vlseg.data.stream import prefetched
from vlseg.errors import ConfigError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.packages import Checked
from vlseg.segmenter import without_variables
from vlseg.training import inputs
from vlseg.training.program import Inference, Outline, Prepared


def read_settings(config: ml_collections.ConfigDict) -> tuple[Training, Scheme]:
    """Optimization settings, and how the finished model sees whole images.

    Raises:
        ConfigError: a setting that does not exist or cannot be.
    """
    check_choices(config, "config.", label_sets=LABEL_SETS)
    useless = [name for name in overrides.set_in(Scheme, config.inference) if name not in SQUARED]
    if config.benchmark.name and useless:
        raise ConfigError(
            f"config.inference.{'.'.join(overrides.fields(Scheme)[useless[0]].path)} has no effect on a benchmark, "
            "whose pictures are squeezed into squares of config.inference.crop_size: leave it out"
        )
    training = settings.read(Training, config.training, "config.training")
    scheme = Scheme(training.base_size, training.crop_size)
    return training, overrides.changed(scheme, config.inference, "config.inference.")


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> Checked:
    """See `vlseg.packages.Package.check`."""
    training, _ = read_settings(config)
    sharding.check_batch(mesh, training.batch_size // training.accumulation_steps)
    if config.tokenizer:
        load_tokenizer(config.tokenizer)
    open_source(config, training, sharding.own_rows(mesh, training.batch_size), look=False)
    benchmark, found = config.benchmark, {}
    for part in ("train", "test") if benchmark.name else ():
        opened = open_benchmark(benchmark.name, benchmark.root, benchmark.fold, part)
        found[f"benchmark.root ({part})"] = inputs.of_data(opened)
    _check_start(config)
    if image := "" if config.checkpoint else pretrained(config, "image"):
        encoders.check_image(image)
        if image in WEIGHTS:
            found["pretrained.image"] = WEIGHTS[image].identity
    return Checked(inputs=found)


def prepare(config: ml_collections.ConfigDict, mesh: Mesh) -> Prepared:
    """See `vlseg.packages.Package.prepare`."""
    training, scheme = read_settings(config)
    source = open_source(config, training, sharding.own_rows(mesh, training.batch_size))
    steps = training.scheduled_steps(source.examples)
    benchmark = config.benchmark
    tested = open_benchmark(benchmark.name, benchmark.root, benchmark.fold) if benchmark.name else None
    model = dataclasses.replace(initial_model(config, training), inference=scheme, labels=source.labels)
    # The same on all hosts, of which some may keep embeddings that another kind of device has computed.
    texts = [jnp.asarray(distributed.from_main(model.encode_text(labels))) for labels in source.label_sets]
    weights = None
    if training.class_balance:
        counts = [count_labels(dataset) for dataset in source.counted]
        weights = [objective.balanced_weights(each, training.class_balance) for each in counts]
    labels = objective.label_sets(texts, weights)
    task = Matching(model.config, training, source.examples, *labels.valid.shape)
    state, frozen = task.split(model.variables)
    build = without_variables(model)
    return Prepared(
        task=task,
        state=state,
        constants=task.given(labels, frozen),
        batches=prefetched(source.batches, config.loading.threads, config.loading.workers),
        steps=training.total_steps(source.examples),
        finish=lambda state: build(objective.joined(state, frozen)),
        epoch=training.steps_per_epoch(source.examples),
        validate=functools.partial(zero_shot.scores, tested) if tested else None,
        metrics=zero_shot.METRICS,
        report=functools.partial(zero_shot.report, tested) if tested else None,
        filled={"model": model.config.to_dict(), "training.steps": steps, "inference": dataclasses.asdict(scheme)},
    )


def initial_model(config: ml_collections.ConfigDict, training: Training) -> LSeg:
    """The model that training starts from: a checkpoint, or fresh parameters with pre-trained encoders put in.

    Raises:
        ConfigError: fresh parameters without a trained text encoder, or `remat` of an encoder that is not cut up.
        CheckpointError: a file that does not fit.
    """
    model = _initial_model(config, training)
    undivided = model.config.image.undivided
    if model.config.remat != "none" and undivided:
        raise ConfigError(
            f"config.model.remat={model.config.remat} has no effect in {undivided}, which is not cut up: leave it out"
        )
    return model


def _initial_model(config: ml_collections.ConfigDict, training: Training) -> LSeg:
    tokenizer = config.tokenizer or None
    if config.checkpoint:
        given = load(config.checkpoint, tokenizer=tokenizer)
        computed = {name: config.model[name] for name in ("dtype", "remat")}
        return dataclasses.replace(given, config=dataclasses.replace(given.config, **computed))
    _check_start(config)
    new, parts = read_encoders(config)
    present = flatten(merge(checkpoint.abstract_variables(new), *parts))

    # What is given need not be drawn, which takes long to compile.
    @jax.jit
    def drawn(key: jax.Array) -> dict[str, jax.Array]:
        variables = flatten(checkpoint.initializer(new)(key))
        return {path: value for path, value in variables.items() if isinstance(present[path], jax.ShapeDtypeStruct)}

    variables = unflatten({**present, **drawn(jax.random.key(training.seed))})
    return LSeg(new, variables, load_tokenizer(tokenizer) if tokenizer else None)


def read_encoders(config: ml_collections.ConfigDict, fetch: bool = True) -> tuple[LSegConfig, list[Any]]:
    """A new model with the encoders that the configuration has weights for, and the variables of these.

    Args:
        fetch: read weights that are known by name, too, which may be fetched; else only what they are is told.

    Raises:
        CheckpointError: a file that does not fit. DownloadError: weights by name that cannot be had. ConfigError: norms
            of an encoder that has none of that kind.
    """
    values, parts = config.model.to_dict(), []
    sources = {part: source for part in encoders.KINDS if (source := pretrained(config, part))}
    given = {part: values.pop(part) for part in sources}
    model = LSegConfig.from_dict(values)
    if "text" in sources:
        text, variables = encoders.read_text(sources["text"])
        model = dataclasses.replace(model, text=text)
        parts.append(variables)
    if "image" in sources:
        named = None if fetch else encoders.NAMED.get(sources["image"])
        image, variables = (named, {}) if named else encoders.read_image(sources["image"])
        norms = given["image"].get("norms", EfficientNetConfig.norms)
        if isinstance(image, EfficientNetConfig):
            image = dataclasses.replace(image, norms=norms)
        elif norms != EfficientNetConfig.norms:
            raise ConfigError(
                f"config.model.image.norms={norms} has no effect with {sources['image']}, which is no EfficientNet: "
                "leave it out"
            )
        model = dataclasses.replace(model, image=image)
        parts.append(variables)
    return model, parts


def _check_start(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where there is no trained text encoder to start from."""
    if config.checkpoint or pretrained(config, "text"):
        return
    if not LSegConfig.from_dict({"text": config.model.text.to_dict()}).text.trained_apart:
        raise ConfigError(
            "training starts from a trained text encoder: give --config.pretrained.text=FILE with CLIP's weights, or "
            "--config.checkpoint, or --config.model.text.kind=minilm"
        )


class Source(NamedTuple):
    """What a run trains on.

    label_sets: words, one set for each value of `Batch.sets`. batches: step -> examples. examples: of an epoch. labels:
    what the finished model is asked for by default. counted: the data set whose labels a label set is, one for each, as
    far as there are such.
    """

    label_sets: list[tuple[str, ...]]
    batches: Callable[[int], Batch]
    examples: int
    labels: tuple[str, ...]
    counted: tuple[Dataset, ...] = ()


def open_source(
    config: ml_collections.ConfigDict, training: Training, rows: np.ndarray, *, look: bool = True
) -> Source:
    """The training data that the configuration names; of every batch these rows.

    `look` says whether labels are read, where that decides what is drawn; without it the batches are not those of the
    run.

    Raises:
        ConfigError: none, or several that do not go together. DatasetError: data that cannot be used.
    """
    reading: dict[str, Any] = {"rows": rows, "on_error": config.loading.on_error}
    if config.benchmark.name:
        if config.data.source:
            raise ConfigError("config.benchmark and config.data.source both name training data: leave one out")
        _refuse_weights(config.data, "a benchmark")
        episodes = open_benchmark(config.benchmark.name, config.benchmark.root, config.benchmark.fold, "train")
        asked: list[tuple[str, ...]] = [(OTHERS, episodes.names[class_id]) for class_id in episodes.class_ids]
        batches = episode_batches(episodes, training, **reading)
        # The authors put a second picture of the class beside each, so an epoch sees twice as many.
        return Source(asked, batches, 2 * episodes.epoch, ())
    datasets = open_datasets(config.data)
    examples = sum(len(dataset) for dataset in datasets)
    labels = datasets[0].names if len(datasets) == 1 else ()
    if len(datasets) == 1:
        _refuse_weights(config.data, "one")
    if config.label_sets == "names":
        names = [dataset.names for dataset in datasets]
        shown = [classes_shown(dataset) for dataset in datasets] if training.class_share and look else []
        batches = named_batches(datasets, training, shown, read_weights(config.data), **reading)
        return Source(names, batches, examples, labels, tuple(datasets))
    if len(datasets) > 1:
        raise ConfigError('config.label_sets "others" takes one data set, not several')
    if labels == fss1000.NAMES:
        # Its pictures show one class each and hold no label for everything else.
        raise ConfigError('FSS-1000 with "others" is a benchmark: give --config=configs/lseg_zero_shot.py:fss1000')
    _refuse_weights(config.data, 'config.label_sets "others"')
    batches = pair_batches(datasets[0], training, **reading)
    return Source([(OTHERS, name) for name in labels], batches, examples, labels)


def _refuse_weights(section: ml_collections.ConfigDict, what: str) -> None:
    if section.weights:
        raise ConfigError(f"config.data.weights are for several data sets; {what} has no use for them: leave them out")


def read_weights(section: ml_collections.ConfigDict) -> list[float] | None:
    """How often each data set comes, from numbers with commas; None for as often as its size says.

    Raises:
        ConfigError: what is not a number.
    """
    try:
        return [float(weight) for weight in section.weights.split(",")] if section.weights else None
    except ValueError as error:
        raise ConfigError(f"config.data.weights {section.weights!r} is not like 2,1: {error}") from error


def open_datasets(section: ml_collections.ConfigDict) -> list[Dataset]:
    """The data sets of a section of the configuration.

    Raises:
        ConfigError: none is given. DatasetError: a folder that is no data set.
    """
    sources = split_sources(section.source)
    if not sources:
        raise ConfigError("training needs labelled images: give --config.data.source=FOLDER")
    return [open_section(source, section) for source in sources]


def outline(config: ml_collections.ConfigDict, labels: int) -> Outline:
    """See `vlseg.packages.Package.outline`."""
    if config.checkpoint:
        model = dataclasses.replace(load(config.checkpoint).config, dtype=config.model.dtype, remat=config.model.remat)
    else:
        model, _ = read_encoders(config, fetch=False)
    training, _ = read_settings(config)
    task = Matching(model, training, training.batch_size, 1, labels)
    size = training.view_size

    def score(variables: Any, asked: jax.Array, images: jax.Array) -> jax.Array:
        return inference.logits(model, variables, images, asked)

    def segment(variables: Any, asked: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.argmax(score(variables, asked, images), axis=-1).astype(jnp.int32)

    embeddings = jax.ShapeDtypeStruct((labels, model.text.features), jnp.float32)
    variables = checkpoint.abstract_variables(model)
    seen = Inference(score, variables, embeddings, size, flops.inference(model, *size, labels))
    return Outline(task, seen, seen._replace(function=segment))
