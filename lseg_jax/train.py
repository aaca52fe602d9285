"""Trains LSeg on labelled images: a folder of them, several folders with labels of their own, or the tiny world.

python -m lseg_jax.train --config=configs/lseg_folder.py --config.data.source=FOLDER --workdir=runs/mine

A folder holds images/, labels/ (PNG) and names.txt; several are given with commas. WORKDIR receives config.json,
checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which `lseg_jax.load`, evaluate, predict
and export read. The same command continues a run that was stopped.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from lseg_jax import pretrained, storage, training
from lseg_jax.config import LSegConfig, TextConfig
from lseg_jax.evaluate import evaluate
from lseg_jax.model import LSeg, load
from lseg_jax.tokenizers import load_tokenizer
from lseg_jax.training import Batch, Training
from vlseg import cli, visualize
from vlseg.data import transforms
from vlseg.data.folder import Example, batch_indices
from vlseg.data.sources import TINY_WORLD, Dataset, open_dataset
from vlseg.errors import ConfigError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.training import checkpoints, loop

LABEL_SETS = ("names", "others")
OTHERS = "others"
"""The label of everything but the class that is asked for, in the zero-shot experiments (Li et al. 2022, Sec. 5.1)."""

FREE = ("evaluation", "log_every", "keep_checkpoints")
"""Settings that a run may change when it goes on."""


def initial_model(config: ml_collections.ConfigDict, settings: Training) -> LSeg:
    """The model that training starts from: a checkpoint, or fresh parameters with pre-trained encoders put in.

    Raises:
        ConfigError: fresh parameters without a trained text encoder. CheckpointError: a file that does not fit.
    """
    tokenizer = config.tokenizer or None
    if config.checkpoint:
        return load(config.checkpoint, tokenizer=tokenizer)
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


def named_batches(datasets: list[Dataset], settings: Training) -> Callable[[int], Batch]:
    """Batches over the union of data sets, whose labels are their own: the label set is the data set's number."""

    def prepare(example: Example, dataset: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, label = _view(example, datasets[dataset].ignore_label, settings, rng)
        return image, label, dataset

    return _batches(datasets, settings, prepare)


def pair_batches(dataset: Dataset, settings: Training) -> Callable[[int], Batch]:
    """Batches of "others" against one class of each image: the label set is the class's number."""

    def prepare(example: Example, _: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, label = _view(example, dataset.ignore_label, settings, rng)
        present = np.unique(label[label != training.IGNORED])
        chosen = int(rng.choice(present)) if len(present) else 0
        target = np.where(label == training.IGNORED, training.IGNORED, label == chosen)
        return image, target.astype(np.int32), chosen

    return _batches([dataset], settings, prepare)


def _view(
    example: Example, ignore_label: int, settings: Training, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random view of an example, with IGNORED for what does not count."""
    label = np.where(example.label == ignore_label, training.IGNORED, example.label).astype(np.int32)
    return transforms.scale_and_crop(
        example.image,
        label,
        rng,
        base_size=settings.base_size,
        crop_size=settings.crop_size,
        scale_range=settings.scale_range,
        ignore_label=training.IGNORED,
    )


def _batches(
    datasets: list[Dataset],
    settings: Training,
    prepare: Callable[[Example, int, np.random.Generator], tuple[np.ndarray, np.ndarray, int]],
) -> Callable[[int], Batch]:
    """Batches as a pure function of the step; every example of every data set comes once an epoch."""
    firsts = np.cumsum([0, *(len(dataset) for dataset in datasets)])

    def batch(step: int) -> Batch:
        examples = []
        indices = batch_indices(int(firsts[-1]), settings.batch_size, settings.seed, step)
        for position, index in enumerate(indices):
            number = int(np.searchsorted(firsts, index, side="right")) - 1
            rng = np.random.default_rng((settings.seed, step, position))
            examples.append(prepare(datasets[number][int(index - firsts[number])], number, rng))
        images, targets, sets = zip(*examples, strict=True)
        return Batch(np.stack(images), np.stack(targets).astype(np.int32), np.asarray(sets, np.int32))

    return batch


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> Path:
    """Runs or resumes a training run and writes its model.

    Returns:
        The model directory.

    Raises:
        VlsegError: anything wrong with the configuration, checkpoint, data or working directory.
    """
    settings, scheme = read_settings(config)
    datasets = open_datasets(config.data)
    evaluation = open_evaluation(config.evaluation)
    model = dataclasses.replace(initial_model(config, settings), inference=scheme)
    if config.label_sets == "others":
        if len(datasets) > 1:
            raise ConfigError('config.label_sets "others" takes one data set, not several')
        texts = [model.encode_text([OTHERS, name]) for name in datasets[0].names]
        batches = pair_batches(datasets[0], settings)
    else:
        texts = [model.encode_text(dataset.names) for dataset in datasets]
        batches = named_batches(datasets, settings)
    examples = sum(len(dataset) for dataset in datasets)
    optimizer = settings.make_optimizer(examples)
    state, frozen = training.split(model.variables)
    model = dataclasses.replace(model, variables={})  # the state takes over its arrays
    step = training.make_step(model.config, settings, training.label_sets(texts), optimizer, batches)
    path = checkpoints.open_workdir(workdir, config.to_dict(), free=FREE)
    state = jax.tree.map(jnp.asarray, state)
    state["optimizer"] = optimizer.init(state["params"])
    schedule = loop.Schedule(
        settings.total_steps(examples), config.log_every, config.checkpoint_every, config.keep_checkpoints
    )
    state = loop.train(state, step, path, schedule, on_log=loop.print_metrics)
    labels = datasets[0].names if len(datasets) == 1 else ()
    result = dataclasses.replace(model, variables=training.joined(state, frozen), labels=labels)
    result.save(path / "model", overwrite=True)
    print(f"wrote {path / 'model'}", flush=True)
    if evaluation:
        report(result, evaluation, path)
    return path / "model"


def read_settings(config: ml_collections.ConfigDict) -> tuple[Training, Scheme]:
    """Optimization settings, and how the finished model sees whole images.

    Raises:
        ConfigError: a setting that does not exist or cannot be.
    """
    if config.label_sets not in LABEL_SETS:
        raise ConfigError(f"config.label_sets {config.label_sets!r} is none of {', '.join(LABEL_SETS)}")
    loop.check_counts(config)
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
    return [open_dataset(name, **(section.tiny_world if name == TINY_WORLD else section.folder)) for name in sources]


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


def report(model: LSeg, dataset: Dataset, path: Path) -> None:
    """Scores the model, prints the result, and leaves a picture of the first images."""
    print(evaluate(model, dataset).table(dataset.names))
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
    train(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", help_string="A file such as configs/lseg_ade20k.py.")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("workdir", None, "Where everything of this run goes.", required=True)
    cli.run(main)
