"""Trains a model as a configuration says.

WORKDIR receives config.json, checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which
`load`, evaluate, predict and export read. It may be gs://BUCKET/FOLDER. The same command continues a run that was
stopped.
"""

import functools
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np
from absl import flags

from vlseg import cli, distributed, packages, settings, sharding, visualize
from vlseg.data.sources import Dataset, open_section, without_folders
from vlseg.errors import ConfigError
from vlseg.evaluation.scoring import score
from vlseg.packages import Package
from vlseg.segmenter import Segmenter
from vlseg.training import checkpoints, loop, program
from vlseg.training.checkpoints import Place
from vlseg.training.program import Prepared
from vlseg.training.telemetry import Work

MOVABLE = ("data.source", "checkpoint", "tokenizer")
"""Settings with paths whose parent folder may change on resume."""

EXAMPLES = 4
"""Rows of the picture that a run leaves."""

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes a training run and writes its model.

    Args:
        config: a completed configuration, see `vlseg.settings`.

    Returns:
        The model directory.

    Raises:
        VlsegError: anything wrong with the configuration, checkpoint, data or working directory.
    """
    package = packages.find(config.package)
    mesh = sharding.make_mesh(config.mesh)
    prepared = package.prepare(config, mesh)
    compiled = program.training(prepared.task, mesh, package.axes)
    schedule = loop.Schedule.of(config, prepared.steps)
    evaluation = open_evaluation(config, prepared.words)
    settings_that_move = (*MOVABLE, *package.movable)
    path = checkpoints.open_workdir(
        workdir, config.to_dict(), (*loop.FREE, *package.free), settings_that_move, without_folders
    )
    task, finish, words, report = prepared.task, prepared.finish, prepared.words, prepared.report
    state, step = start(prepared, compiled, package)
    del prepared  # with it the arrays that the state was made of
    work = Work(task.batch_size, task.flops)
    state = loop.train(state, step, path, schedule, on_log=loop.print_metrics, work=work, config=config.to_dict())
    model = finish(sharding.gathered({name: part for name, part in state.items() if name != "optimizer"}, mesh))
    if distributed.is_main():
        model.save(path / "model", overwrite=True)
        print(f"wrote {path / 'model'}", flush=True)
    if evaluation:
        evaluate(model, evaluation, words or evaluation.names, path)
    if report:
        report(model, path)
    distributed.wait_for_all("everything written")
    return path / "model"


def start(prepared: Prepared, compiled: program.Program, package: Package) -> tuple[Any, loop.StepFunction]:
    """The state spread over the mesh, and the step (state, number) -> (state, metrics), compiled at its first call."""
    mesh, batches, size = compiled.mesh, prepared.batches, prepared.task.batch_size
    state = sharding.place(prepared.state, mesh, package.axes)
    constants = sharding.place(prepared.constants, mesh, package.axes)
    update = functools.cache(compiled.compile)

    def step(state: Any, number: int) -> tuple[Any, dict[str, jax.Array]]:
        batch = sharding.place_batch(batches(number), mesh, size) if batches else None
        return update()(state, constants, batch, np.int32(number))

    return state, step


def open_evaluation(config: ml_collections.ConfigDict, words: tuple[str, ...] | None) -> Dataset | None:
    """The data set that the finished model is scored on, or None.

    Raises:
        ConfigError: several are given, or their classes do not fit the words. DatasetError: it is no data set.
    """
    section = config.evaluation
    if not section.source:
        return None
    if "," in section.source:
        raise ConfigError(
            f"config.evaluation.source names {1 + section.source.count(',')} data sets; name one, and score the model "
            "on the others with evaluate"
        )
    dataset = open_section(section.source, section)
    if words is not None and len(words) != len(dataset.names):
        raise ConfigError(f"{len(words)} labels do not fit the {len(dataset.names)} classes of {section.source}")
    return dataset


def evaluate(model: Segmenter, dataset: Dataset, words: tuple[str, ...], path: Place) -> None:
    """Scores the model, prints the result, and leaves a picture of the first images."""
    variants = model.variants()
    results = score(model, dataset, variants, labels=words)
    if not distributed.is_main():
        return
    for variant, metrics in zip(variants, results, strict=True):
        print("\n".join(filter(None, [variant.title, metrics.table(words)])), flush=True)
    colours = visualize.palette(len(words))
    rows = []
    for index in range(min(EXAMPLES, len(dataset))):
        example = dataset[index]
        maps = (example.label, model.segment(example.image, words).label_map)
        rows.append([example.image, *(visualize.colorize(np.asarray(labels), colours) for labels in maps)])
    visualize.save_image(path / "examples.png", visualize.panel(rows, ["image", "label", "prediction"]))


def main(package: Package | None, _: list[str]) -> None:
    """The command."""
    config = flags.FLAGS.config
    if package and config.package != package.name:
        raise ConfigError(f"this is a configuration of {config.package}: run python -m {config.package}.train")
    distributed.initialize(saves=True)
    train(config, flags.FLAGS.workdir)


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    settings.define_flag("A file such as configs/coco.py.")
    flags.DEFINE_string(
        "workdir",
        None,
        "Where everything of this run goes: a folder that every process sees, or gs://BUCKET/FOLDER.",
        required=True,
    )
    distributed.define_flags()
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
