"""Trains LSeg on labelled images: data sets of the catalog or folders, each with labels of its own.

python -m lseg_jax.train --config=configs/lseg_folder.py --config.data.source=FOLDER --workdir=runs/mine

A folder holds images/, labels/ (PNG) and names.txt; instead of it NAME:ROOT is a data set of the catalog in its
official layout (`python -m vlseg.data.list`), such as ade20k:/data/ade20k. Several are given with commas. WORKDIR
receives config.json, checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which
`lseg_jax.load`, evaluate, predict and export read; it may be gs://BUCKET/FOLDER. The same command continues a run that
was stopped.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from lseg_jax import fewshot, flops, pretrained, storage, training
from lseg_jax.batches import OTHERS, episode_batches, named_batches, pair_batches
from lseg_jax.config import LSegConfig, TextConfig, ViTConfig
from lseg_jax.evaluate import evaluate
from lseg_jax.model import LSeg, load
from lseg_jax.tokenizers import load_tokenizer
from lseg_jax.training import Batch, Training
from vlseg import cli, distributed, sharding, visualize
from vlseg.data.catalog import fss1000
from vlseg.data.fewshot import open_benchmark
from vlseg.data.sources import Dataset, open_section, without_folders
from vlseg.data.stream import prefetched
from vlseg.errors import ConfigError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.training import checkpoints, loop
from vlseg.training import flags as training_flags
from vlseg.training.checkpoints import Place
from vlseg.training.speed import Work

LABEL_SETS = ("names", "others")
FREE = (*loop.FREE, "benchmark.root", "root", "roots")
"""Settings that a run may change when it goes on."""

MOVABLE = ("data.source", "checkpoint", "tokenizer", "pretrained.text", "pretrained.image")
"""Settings with paths, whose folders may be others when it goes on."""


def initial_model(config: ml_collections.ConfigDict, settings: Training) -> LSeg:
    """The model that training starts from: a checkpoint, or fresh parameters with pre-trained encoders put in.

    Raises:
        ConfigError: fresh parameters without a trained text encoder. CheckpointError: a file that does not fit.
    """
    tokenizer = config.tokenizer or None
    if config.checkpoint:
        given = load(config.checkpoint, tokenizer=tokenizer)
        computed = {name: config.model[name] for name in ("dtype", "remat")}
        return dataclasses.replace(given, config=dataclasses.replace(given.config, **computed))
    model = LSegConfig.from_dict(config.model.to_dict())
    parts = []
    if config.pretrained.text:
        encoder, variables = pretrained.read_text(config.pretrained.text)
        model = dataclasses.replace(model, text=encoder)
        parts.append(variables)
    elif isinstance(model.text, TextConfig):
        raise ConfigError(
            "training starts from a trained text encoder: give --config.pretrained.text=FILE with CLIP's weights, or "
            "--config.checkpoint, or --config.model.text.kind=minilm"
        )
    if config.pretrained.image:
        trunk, variables = pretrained.read_image(config.pretrained.image)
        model = dataclasses.replace(model, image=trunk)
        parts.append(variables)
    variables = jax.jit(storage.initializer(model))(jax.random.key(settings.seed))
    merged = pretrained.merge(variables, *parts)
    return LSeg(model, merged, load_tokenizer(tokenizer) if tokenizer else None)


class Source(NamedTuple):
    """What a run trains on.

    label_sets: words, one set for each value of `Batch.sets`. batches: step -> examples. examples: of an epoch. labels:
    what the finished model is asked for by default.
    """

    label_sets: list[tuple[str, ...]]
    batches: Callable[[int], Batch]
    examples: int
    labels: tuple[str, ...]


def open_source(config: ml_collections.ConfigDict, settings: Training, rows: np.ndarray) -> Source:
    """The training data that the configuration names; of every batch these rows.

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
        batches = episode_batches(episodes, settings, **reading)
        return Source(asked, batches, episodes.epoch, ())
    datasets = open_datasets(config.data)
    examples = sum(len(dataset) for dataset in datasets)
    labels = datasets[0].names if len(datasets) == 1 else ()
    if config.label_sets == "names":
        names = [dataset.names for dataset in datasets]
        batches = named_batches(datasets, settings, weights=read_weights(config.data), **reading)
        return Source(names, batches, examples, labels)
    if len(datasets) > 1:
        raise ConfigError('config.label_sets "others" takes one data set, not several')
    if labels == fss1000.NAMES:
        # Its pictures show one class each and hold no label for everything else.
        raise ConfigError('FSS-1000 with "others" is a benchmark: give --config=configs/lseg_zero_shot.py:fss1000')
    _refuse_weights(config.data, 'config.label_sets "others"')
    batches = pair_batches(datasets[0], settings, **reading)
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


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes a training run and writes its model.

    Returns:
        The model directory.

    Raises:
        VlsegError: anything wrong with the configuration, checkpoint, data or working directory.
    """
    settings, scheme = read_settings(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, settings.batch_size // settings.accumulation_steps)
    source = open_source(config, settings, sharding.own_rows(mesh, settings.batch_size))
    evaluation = open_evaluation(config.evaluation)
    benchmark = config.benchmark
    tested = open_benchmark(benchmark.name, benchmark.root, benchmark.fold) if benchmark.name else None
    model = dataclasses.replace(initial_model(config, settings), inference=scheme)
    if isinstance(model.config.image, ViTConfig):
        sharding.check_heads(mesh, model.config.image.heads)
    schedule = loop.Schedule.of(config, settings.total_steps(source.examples))
    # The same on all hosts, of which some may keep embeddings that another kind of device has computed.
    texts = [jnp.asarray(distributed.from_main(model.encode_text(labels))) for labels in source.label_sets]
    optimizer = settings.make_optimizer(source.examples)
    state, frozen = training.split(model.variables)
    model = dataclasses.replace(model, variables={})  # the state takes over its arrays
    batches = prefetched(source.batches, config.loading.threads, config.loading.workers)
    labels = training.label_sets(texts)
    step = training.make_step(model.config, settings, labels, optimizer, batches, mesh)
    path = checkpoints.open_workdir(workdir, config.to_dict(), FREE, MOVABLE, without_folders)
    state = sharding.place(jax.tree.map(jnp.asarray, state), mesh)
    state["optimizer"] = sharding.place(optimizer.init(state["params"]), mesh)
    image = flops.training_step(model.config, settings.crop_size, labels.embeddings.shape[1])
    state = loop.train(
        state,
        step,
        path,
        schedule,
        on_log=loop.print_metrics,
        work=Work(settings.batch_size, settings.batch_size * image),
        config=config.to_dict(),
    )
    del state["optimizer"]
    state = sharding.gathered(state, mesh)
    result = dataclasses.replace(model, variables=training.joined(state, frozen), labels=source.labels)
    if distributed.is_main():
        result.save(path / "model", overwrite=True)
        print(f"wrote {path / 'model'}", flush=True)
    if evaluation:
        report(result, evaluation, path)
    if tested:
        fewshot.report(result, tested, path)
    distributed.wait_for_all("everything written")
    return path / "model"


def read_settings(config: ml_collections.ConfigDict) -> tuple[Training, Scheme]:
    """Optimization settings, and how the finished model sees whole images.

    Raises:
        ConfigError: a setting that does not exist or cannot be.
    """
    if config.label_sets not in LABEL_SETS:
        raise ConfigError(f"config.label_sets {config.label_sets!r} is none of {', '.join(LABEL_SETS)}")
    try:
        settings = Training.from_dict(config.training)
        return settings, Scheme(settings.base_size, settings.crop_size)
    except ConfigError as error:
        raise ConfigError(f"config.{error}") from error


def open_datasets(section: ml_collections.ConfigDict) -> list[Dataset]:
    """The data sets of a section of the configuration.

    Raises:
        ConfigError: none is given. DatasetError: a folder that is no data set.
    """
    sources = [source.strip() for source in section.source.split(",") if source.strip()]
    if not sources:
        raise ConfigError("training needs labelled images: give --config.data.source=FOLDER")
    return [open_section(source, section) for source in sources]


def open_evaluation(section: ml_collections.ConfigDict) -> Dataset | None:
    """The data set that the finished model is scored on, or None.

    Raises:
        ConfigError: several are given. DatasetError: a folder that is no data set.
    """
    if not section.source:
        return None
    first, *others = open_datasets(section)
    if others:
        raise ConfigError(
            f"config.evaluation.source names {1 + len(others)} data sets; name one, and score the model on the others "
            "with lseg_jax.evaluate"
        )
    return first


def report(model: LSeg, dataset: Dataset, path: Place) -> None:
    """Scores the model, prints the result, and leaves a picture of the first images."""
    metrics = evaluate(model, dataset)
    if not distributed.is_main():
        return
    print(metrics.table(dataset.names))
    colours = visualize.palette(len(dataset.names))
    rows = []
    for index in range(min(4, len(dataset))):
        example = dataset[index]
        predicted = model.segment(example.image, dataset.names).label_map
        maps = (visualize.colorize(np.asarray(labels), colours) for labels in (example.label, predicted))
        rows.append([example.image, *maps])
    visualize.save_image(path / "examples.png", visualize.panel(rows, ["image", "label", "prediction"]))


def main(_: list[str]) -> Any:
    """The command."""
    distributed.initialize(saves=True)
    train(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    training_flags.define("configs/lseg_ade20k.py")
    cli.run(main)
