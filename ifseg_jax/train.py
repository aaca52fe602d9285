"""Adapts OFA to categories, image-free or supervised.

python -m ifseg_jax.train --config=configs/coco.py --config.tokenizer=BPE_DIRECTORY --workdir=runs/coco

WORKDIR receives config.json, checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which
`ifseg_jax.load`, evaluate, predict and export read. It may be gs://BUCKET/FOLDER. The same command continues a run that
was stopped.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from ifseg_jax import adaptation, flops
from ifseg_jax.config import OFAConfig
from ifseg_jax.evaluate import evaluate
from ifseg_jax.inference import WordEmbeddings
from ifseg_jax.model import IFSeg, load
from vlseg import cli, distributed, sharding, visualize
from vlseg.data import transforms
from vlseg.data.folder import names_from
from vlseg.data.sources import Dataset, open_section, without_folders
from vlseg.data.stream import Stream, prefetched
from vlseg.errors import ConfigError
from vlseg.training import checkpoints, loop
from vlseg.training import flags as training_flags
from vlseg.training.checkpoints import Place
from vlseg.training.speed import Work

MODES = ("image_free", "supervised")

MOVABLE = ("data.source", "checkpoint", "tokenizer")
"""Settings with paths, whose folders may be others when it goes on."""


def categories_of(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The categories of a configuration: a list of ours by name, a names file, or names with commas.

    Raises:
        ConfigError: none are given.
    """
    given = config.categories
    if not given:
        raise ConfigError("config.categories is empty: give a list such as coco_stuff_171, a names file or 'cat,grass'")
    return names_from(given)


def supervised_batches(
    dataset: Dataset, settings: adaptation.Adaptation, side: int, **reading: Any
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Training batches of a data set as a pure function of the step: augmented crops of `side` pixels, -1 ignored.

    `reading`: keyword arguments of `vlseg.data.stream.Stream`.
    """
    ignored = dataset.ignore_label
    stream = Stream([dataset], settings.batch_size, settings.seed, **reading)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = []
        for example, _, rng in stream.draws(step):
            image, label = transforms.random_crop(example.image, example.label, (side, side), rng, ignore_label=ignored)
            pairs.append((image, np.where(label == ignored, adaptation.IGNORED, label)))
        images, targets = zip(*pairs, strict=True)
        return np.stack(images), np.stack(targets).astype(np.int32)

    return batch


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes a training run and writes its model.

    Returns:
        The model directory.

    Raises:
        VlsegError: anything wrong with the configuration, checkpoint, data or working directory.
    """
    if config.mode not in MODES:
        raise ConfigError(f"config.mode {config.mode!r} is none of {', '.join(MODES)}")
    try:
        settings = adaptation.Adaptation.from_dict(config.adaptation)
    except ConfigError as error:
        raise ConfigError(f"config.{error}") from error
    schedule = loop.Schedule.of(config, settings.steps)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, settings.batch_size // settings.accumulation_steps)
    categories = categories_of(config)
    model = load(config.checkpoint, tokenizer=config.tokenizer or None, **config.model)
    names = model.words(categories).names
    side = settings.side(model.config)
    words = model.word_embeddings(categories)
    sharding.check_heads(mesh, model.config.heads)
    trained, kept = adaptation.split(model.variables, model.config)
    model = dataclasses.replace(model, variables={})  # the state takes over its arrays
    if config.mode == "image_free":
        step = adaptation.image_free_step(model.config, settings, words, kept, mesh)
    else:
        dataset = open_training_data(config, categories)
        loading = config.loading
        rows = sharding.own_rows(mesh, settings.batch_size)
        batches = supervised_batches(dataset, settings, side, rows=rows, on_error=loading.on_error)
        batches = prefetched(batches, loading.threads, loading.workers)
        step = adaptation.supervised_step(model.config, settings, words, kept, batches, mesh)
    evaluation = open_evaluation_data(config, categories)
    path = checkpoints.open_workdir(workdir, config.to_dict(), loop.FREE, MOVABLE, without_folders)
    trained = sharding.place(trained, mesh)
    state = sharding.place(adaptation.initial_state(trained, settings.optimizer(), copy=False), mesh)
    del trained
    work = Work(settings.batch_size, settings.batch_size * flops_of(config.mode, model.config, side, words))
    state = loop.train(state, step, path, schedule, on_log=loop.print_metrics, work=work, config=config.to_dict())
    params = sharding.gathered(state["params"], mesh)
    result = adaptation.adapted(model, names, {"params": params}, kept)
    if distributed.is_main():
        result.save(path / "model", overwrite=True)
        print(f"wrote {path / 'model'}", flush=True)
    if evaluation:
        report(result, evaluation, path)
    distributed.wait_for_all("everything written")
    return path / "model"


def flops_of(mode: str, config: OFAConfig, side: int, words: WordEmbeddings) -> int:
    """Operations of a training step for one image of `side` pixels, see `ifseg_jax.flops`."""
    count = flops.image_free_step if mode == "image_free" else flops.supervised_step
    return count(config, side, words.prompt.shape[1], words.categories.shape[0])


def open_training_data(config: ml_collections.ConfigDict, categories: tuple[str, ...]) -> Dataset:
    """The labelled images of a supervised run.

    Raises:
        ConfigError: no data set is given, or its classes do not fit the categories.
    """
    if not config.data.source:
        raise ConfigError("a supervised run needs images: give --config.data.source=FOLDER")
    return _open(config.data, categories)


def open_evaluation_data(config: ml_collections.ConfigDict, categories: tuple[str, ...]) -> Dataset | None:
    """The images that the finished model is scored on, or None.

    Raises:
        ConfigError: their classes do not fit the categories.
    """
    if not config.evaluation.source:
        return None
    return _open(config.evaluation, categories)


def _open(section: ml_collections.ConfigDict, categories: tuple[str, ...]) -> Dataset:
    dataset = open_section(section.source, section)
    if len(dataset.names) != len(categories):
        raise ConfigError(
            f"{len(categories)} categories do not fit the {len(dataset.names)} classes of {section.source}"
        )
    return dataset


def report(model: IFSeg, dataset: Dataset, path: Place) -> None:
    """Scores the model, prints the result, and leaves a picture of the first images."""
    rounds = [0, model.inference.knn_iterations] if model.inference.knn_iterations else [0]
    results = evaluate(model, dataset, rounds, categories=model.categories)
    if not distributed.is_main():
        return
    for number, metrics in zip(rounds, results, strict=True):
        print(f"kNN averaging rounds: {number}\n{metrics.table(model.categories)}\n")
    colours = visualize.palette(len(model.categories))
    rows = []
    for index in range(min(4, len(dataset))):
        example = dataset[index]
        predicted = model.segment(example.image).label_map
        rows.append(
            [
                example.image,
                visualize.colorize(np.asarray(example.label), colours),
                visualize.colorize(predicted, colours),
            ]
        )
    visualize.save_image(path / "examples.png", visualize.panel(rows, ["image", "label", "prediction"]))


def main(_: list[str]) -> Any:
    """The command."""
    distributed.initialize(saves=True)
    train(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    training_flags.define("configs/coco.py")
    cli.run(main)
