"""Trains a model as a configuration says.

WORKDIR receives config.json, summary.json (learning rates, images per update, steps), checkpoints, metrics.jsonl,
TensorBoard events, and at the end WORKDIR/model. Of a run that is validated (--config.validation.source, and .every or
.epochs) that is the best step, WORKDIR/last is the last one, and validation.jsonl has the scores. `load`, evaluate,
predict and export read WORKDIR, and with --step any step of it that was kept. It may be gs://BUCKET/FOLDER. The same
command continues a run that was stopped.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from vlseg import cli, distributed, effects, packages, settings, sharding, storage, visualize
from vlseg.checkpoints import directory, runs
from vlseg.checks import check_choices
from vlseg.data.arrays import Pixels
from vlseg.data.evidence import doubts
from vlseg.data.examples import First
from vlseg.data.sources import Dataset, open_section, opened_once, split_sources, without_folders
from vlseg.errors import CheckpointError, ConfigError, VocabularyError
from vlseg.evaluation.scoring import Candidates, choose, score
from vlseg.labels import names_from
from vlseg.labels.binding import explanation, renamed
from vlseg.packages import Package
from vlseg.segmenter import Segmenter, Variant
from vlseg.training import loop, program
from vlseg.training import workdir as workdirs
from vlseg.training.lease import Lease, held
from vlseg.training.preflight import check_checkpoint, inputs_of_data, inputs_of_files, state_bytes
from vlseg.training.program import METRICS, Prepared
from vlseg.training.telemetry import Work
from vlseg.training.validation import History, Validation
from vlseg.training.workdir import Place, Same, check_room

MOVABLE = ("data.source", "validation.source", "validation.score_labels", "checkpoint", "tokenizer")
"""Settings with paths whose parent folder may change on resume."""

EXAMPLES = 4
"""Rows of the picture that a run leaves."""

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def train(config: ml_collections.ConfigDict, workdir: str | Path, flags_given: Collection[str] = ()) -> Place:
    """Runs or resumes a training run and writes its model.

    What is wrong with settings, working directory, words or data is told before anything is downloaded or compiled.

    Args:
        config: a completed configuration, see `vlseg.settings`.
        flags_given: names of its settings that the command line gives.

    Returns:
        The model directory.

    Raises:
        VlsegError: anything wrong with the configuration, checkpoint, data or working directory, which may be in use by
            another run.
    """
    workdirs.check_place(workdir)
    with held(workdir) as lease:
        return _train(config, workdir, lease, flags_given)


def _train(config: ml_collections.ConfigDict, workdir: str | Path, lease: Lease, flags_given: Collection[str]) -> Place:
    """What `train` does, in a working directory that is held."""
    package = packages.find(config.package)
    check_checkpoint(config.checkpoint, package)
    config, idle = settings.effective(config, flags_given)
    same = Same((*loop.FREE, *package.free), (*MOVABLE, *package.movable), without_folders, package.filled)
    loop.Schedule.of(config, 0)  # their values; how many steps there are is known later
    mesh = sharding.make_mesh(config.mesh)
    plain = effects.recorded(config, idle, {})
    place = workdirs.check_place(workdir)
    with opened_once():
        checked = package.check(config, mesh)
        evaluation, validated = open_scored_sections(config, checked.words, checked.replaced)
        found = {**inputs_of_data(config, idle), **inputs_of_files(config, idle, package), **checked.inputs}
        workdirs.check_same(place, plain, found, same)
        if checked.outline:
            program.training(checked.outline.task, mesh, package.axes)
            check_room(place, state_bytes(checked.outline.task.state()), config.keep_checkpoints, together=False)
        prepared = package.prepare(config, mesh)
        if (prepared.words, prepared.replaced) != (checked.words, checked.replaced):
            evaluation, validated = open_scored_sections(config, prepared.words, prepared.replaced)
    compiled = program.training(prepared.task, mesh, package.axes)
    schedule = loop.Schedule.of(config, prepared.steps)
    validation = open_validation(config.validation, validated, prepared, mesh)
    found |= inputs_of_files(config, idle, package)
    if prepared.words is not None:
        found["names"] = list(prepared.words)
    check_room(place, state_bytes(prepared.task.state()), config.keep_checkpoints)
    ran = effects.recorded(config, idle, prepared.filled)
    path = workdirs.open_workdir(workdir, ran, *same[:3], found=found, filled=tuple(prepared.filled))
    if distributed.is_main():
        print(f"working directory {path}", flush=True)
    task, finish, report = prepared.task, prepared.finish, prepared.report
    describe(prepared, path, [evaluation, validated])
    state, step = start(prepared, compiled, package)
    del prepared  # with it the arrays that the state was made of
    state = loop.train(
        state,
        step,
        path,
        schedule,
        on_log=loop.print_metrics,
        work=Work(task.batch_size, task.flops),
        config=ran,
        validation=validation,
        lease=lease,
    )
    lease.check()
    model = write(finish, model_part(state, mesh), path, schedule.steps, validation)
    if evaluation:
        evaluate(model, evaluation, path)
    if report:
        report(model, path)
    distributed.wait_for_all("everything written")
    return path / "model"


class Scored(NamedTuple):
    """What a section of the configuration says that a model is scored on.

    where: the section. dataset: its images. asked: arguments of `scoring.choose` and `scoring.score`. candidates: what
    comes of them.
    """

    where: str

    dataset: Dataset
    asked: dict[str, Any]
    candidates: Candidates


def describe(prepared: Prepared, path: Place, scored: Sequence[Scored | None]) -> None:
    """Prints and writes what the settings come to. A new run also gets what training does not change.

    Process 0 does it.

    Args:
        path: the working directory. scored: what the run is scored on, of which other words than names are printed.
    """
    if not distributed.is_main():
        return
    summary: dict[str, int | float] = {"images_per_update": prepared.task.batch_size, "steps": prepared.steps}
    if prepared.epoch:
        summary["epochs"] = prepared.steps / prepared.epoch
    summary |= prepared.task.summary()
    shown = {name: value if isinstance(value, int) else f"{value:g}" for name, value in summary.items()}
    print("  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
    replaced = {"training": prepared.replaced} | {one.where: one.candidates.replaced for one in scored if one}
    for line in dict.fromkeys(map(explanation, replaced.values())):
        if line:
            print(line, flush=True)
    recorded = {where: dict(pairs) for where, pairs in replaced.items() if pairs}
    storage.write_json(path / runs.SUMMARY, {**summary, "replaced": recorded} if recorded else summary)
    if not runs.has_frozen(path):
        trained = {name: part for name, part in prepared.state.items() if name != runs.OPTIMIZER}
        model = prepared.finish(trained)
        directory.write_frozen(
            path, model.package, model.stored(), {name for part in trained.values() for name in part}
        )


def model_part(state: Any, mesh: Mesh) -> Any:
    """A training state without the optimizer's part, whole on this process; all processes call it together."""
    return sharding.gathered({name: part for name, part in state.items() if name != runs.OPTIMIZER}, mesh)


def write(
    finish: Callable[[Any], Segmenter], last: Any, path: Place, steps: int, validation: Validation | None
) -> Segmenter:
    """Writes the model of a run: of the best step if it was validated, and then the last beside it.

    Args:
        finish: of `Prepared`. last: the state after the last step, see `model_part`.
        path: the working directory. steps: of the run.

    Returns:
        The model.
    """
    record: dict[str, Any] = {"step": steps, "of": steps, "chosen": "the last step"}
    if validation is None:
        return _save(finish(last), path / runs.MODEL, record)
    history = History(path, validation)
    # A shared folder may show later to other processes what was kept.
    best = int(distributed.from_main(np.int32(_best_whole(history, path, steps) if distributed.is_main() else 0)))
    chosen = f"the best {validation.metric} of {len(history.scores)} validations"
    if not best:
        best, chosen = steps, f"the last step, because no {validation.metric} is a number"
    parts = last if best == steps else jax.tree.map(jnp.asarray, runs.read_parts(path / runs.STEPS / str(best)))
    best_record = {**record, "step": best, "chosen": chosen, "scores": history.scores[best]}
    model = _save(finish(parts), path / runs.MODEL, best_record)
    _save(finish(last), path / runs.LAST, {**record, "scores": history.scores[steps]})
    return model


def _best_whole(history: History, path: Place, steps: int) -> int:
    """The best step among the last and those that were kept and are not damaged; 0 if no score is a number."""
    kept = {*runs.kept_steps(path), steps}
    while (best := history.best(kept)) not in (None, steps):
        try:
            runs.check_step(path / runs.STEPS / str(best))
            break
        except CheckpointError as error:
            print(f"checkpoint {best} is damaged ({error}); the best of the others is taken", flush=True)
            kept.remove(best)
    return best or 0


def _save(model: Segmenter, path: Place, record: dict[str, Any]) -> Segmenter:
    """Writes a model directory that says which step of a run it is."""
    if distributed.is_main():
        stored = model.stored()
        recorded = stored._replace(settings={**stored.settings, runs.RECORD: record})
        directory.write(path, model.package, recorded, overwrite=True)
        print(f"{path.name}: step {record['step']}, {record['chosen']}\nwrote {path}", flush=True)
    return model


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


def check_validation(section: ml_collections.ConfigDict) -> None:
    """Checks what is known of the section "validation" before anything is opened.

    Raises:
        ConfigError: settings that do not go together, or cannot be.
    """
    where = "config.validation"
    if section.every and section.epochs:
        raise ConfigError(f"{where}.every and {where}.epochs both say when to validate: leave one out")
    given = [name for name in ("source", "metric", "count") if section[name] != getattr(settings.VALIDATION, name)]
    if given and not (section.every or section.epochs):
        raise ConfigError(f"{where}.{given[0]} needs {where}.every, in updates, or {where}.epochs")
    if section.source:
        check_choices(section, f"{where}.", metric=METRICS)
    elif section.count:
        raise ConfigError(f"{where}.count is of the images of {where}.source: give that, or leave it out")


def open_validation(
    section: ml_collections.ConfigDict, scored: Scored | None, prepared: Prepared, mesh: Mesh
) -> Validation | None:
    """When and how a run is validated as a section of its configuration says; None for never.

    Args:
        scored: what `open_scored` makes of the section.

    Raises:
        ConfigError: settings that do not go together, or cannot be.
    """
    where = "config.validation"
    every = section.every
    if section.epochs:
        if prepared.epoch is None:
            raise ConfigError(f"{where}.epochs: this run has no images, so no epochs; give {where}.every in updates")
        every = section.epochs * prepared.epoch
    if not every:
        return None
    validate, finish = prepared.validate, prepared.finish
    if scored is None and validate is None:
        raise ConfigError(f"a run is validated on labelled images: give {where}.source")
    check_choices(section, f"{where}.", metric=prepared.metrics if scored is None else METRICS)

    def scores(model: Segmenter) -> Mapping[str, float]:
        if scored is None:
            assert validate is not None
            return validate(model)
        dataset = First(scored.dataset, section.count) if section.count else scored.dataset
        (found,) = score(model, dataset, [Variant("validation", "", model.validation_settings())], **scored.asked)
        return dict(zip(METRICS, (found.miou, found.macc, found.aacc), strict=True))

    def score_state(state: Any, step: int) -> Mapping[str, float]:
        found = scores(finish(model_part(state, mesh)))
        if distributed.is_main():
            shown = "  ".join(f"{name} {100 * value:.2f}" for name, value in found.items())
            print(f"step {step}  validation  {shown}", flush=True)
        return found

    return Validation(every, section.metric, score_state)


def open_scored_sections(
    config: ml_collections.ConfigDict, words: tuple[str, ...] | None, replaced: Sequence[tuple[str, str]]
) -> tuple[Scored | None, Scored | None]:
    """What the sections "evaluation" and "validation" score a model on, see `open_scored`."""
    check_validation(config.validation)
    evaluation = open_scored(config.evaluation, "config.evaluation", words, replaced)
    return evaluation, open_scored(config.validation, "config.validation", words, replaced)


def open_scored(
    section: ml_collections.ConfigDict,
    where: str,
    words: tuple[str, ...] | None,
    replaced: Sequence[tuple[str, str]] = (),
) -> Scored | None:
    """What a section of the configuration, `where`, scores a model on, or None.

    Args:
        words, replaced: of `Prepared`.

    Raises:
        ConfigError: several data sets are given, or score_labels without one; or words or score_labels do not fit its
            classes, see `scoring.choose`.
        DatasetError: it is no data set.
    """
    if not section.source:
        if section.score_labels:
            raise ConfigError(f"{where}.score_labels are classes of {where}.source: give that, or leave them out")
        return None
    if (count := len(split_sources(section.source))) > 1:
        raise ConfigError(
            f"{where}.source names {count} data sets; name one, and score the model on the others with evaluate"
        )
    dataset = open_section(section.source, section)
    # A word that was trained for a class stands for it here as well, wherever the class stands.
    asked: dict[str, Any] = {"labels": words and renamed(dataset.names, words, replaced)}
    try:
        asked["score_labels"] = names_from(section.score_labels, pairs=True) if section.score_labels else None
        return Scored(where.rpartition(".")[2], dataset, asked, choose(dataset.names, **asked))
    except (ConfigError, VocabularyError) as error:
        raise ConfigError(f"{where}.source={section.source}: {error}") from error


def evaluate(model: Segmenter, scored: Scored, path: Place) -> None:
    """Scores the model, prints the result, and leaves a picture of the first images."""
    variants, (_, dataset, asked, candidates) = model.variants(), scored
    results = score(model, dataset, variants, **asked)
    if not distributed.is_main():
        return
    for variant, metrics in zip(variants, results, strict=True):
        print("\n".join(filter(None, [variant.title, metrics.table(candidates.names)])), flush=True)
    for doubt in doubts(dataset, candidates.names, results[-1].label_pixels):
        print(f"note: {doubt}", flush=True)
    names = (*dataset.names, "another word")
    classes = np.asarray(candidates.classes) % len(names)  # NO_CLASS, which is -1, becomes the last
    shown = ((one, model.segment(one.image.view(Pixels), candidates.words)) for one in First(dataset, EXAMPLES))
    rows = [(one.image, [one.label, classes[found.label_map]]) for one, found in shown]
    drawn = visualize.comparison(rows, ["image", "label", "prediction"], names, ignore=dataset.ignore_label)
    visualize.save_image(path / "examples.png", drawn)


def main(package: Package | None, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    config = options.config
    if package and config.package != package.name:
        raise ConfigError(f"this is a configuration of {config.package}: run python -m {config.package}.train")
    file, overridden = settings.given("config")
    workdir = options.workdir
    if workdir is None:
        if distributed.is_asked_for():
            raise ConfigError(
                "--workdir is required with several processes: a folder that all of them see, or gs://BUCKET/FOLDER"
            )
        workdir = workdirs.default(file)
    distributed.initialize(saves=True)
    train(config, workdir, overridden)


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    settings.define_flag("A file such as configs/coco.py.")
    flags.DEFINE_string(
        "workdir",
        None,
        "Where everything of this run goes: a folder that every process sees, or gs://BUCKET/FOLDER. Default on one "
        "host: runs/NAME, or runs/NAME_ARGUMENT of --config=NAME.py:ARGUMENT.",
    )
    distributed.define_flags()
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
