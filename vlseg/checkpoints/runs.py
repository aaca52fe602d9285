"""Folders of training runs as models: the steps that a run has kept.

RUN/model          the model of a finished run: the best step of a run that was validated, else the last
RUN/last           the last step of a run that was validated
RUN/summary.json   learning rates, images per update, steps and epochs that the settings come to
RUN/frozen         a model directory without what training changes, saved once
RUN/checkpoints/N  what training has changed up to step N

So RUN is all that is needed of a run, and RUN/checkpoints/N is read wherever a model directory is.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vlseg import files, json_files, remote, safetensors_files, storage
from vlseg.checkpoints import checksums, rules
from vlseg.errors import CheckpointError, one_line

CONFIG_FILE, WEIGHTS = "config.json", "model.safetensors"
MODEL, LAST, FROZEN, STEPS, SUMMARY = "model", "last", "frozen", "checkpoints", "summary.json"
COMMITTED = "commit_success.txt"
"""What Orbax writes last into a step: in a bucket, where nothing can be renamed, the sign that it is whole."""

METADATA_FILE = "_CHECKPOINT_METADATA"
"""What Orbax says of a step, among it what a run has added under "custom_metadata"."""

MARK = {"checksums": checksums.FILE}
"""Added there: a step that says so and has no checksums has lost them."""

RECORD = "training"
"""The part of a model directory's config.json that says which step of which run it is."""

OPTIMIZER = "optimizer"
"""The part of a training state that is no part of the model."""


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether this is the folder of a run; local or of a bucket."""
    return storage.exists(f"{os.fspath(path)}/{FROZEN}/{CONFIG_FILE}")


def is_step(path: str | os.PathLike[str]) -> bool:
    """Whether this is what a run has kept of a step."""
    run, step = _run_and_step(path)
    return step.isdecimal() and is_run(run)


def _run_and_step(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The run and the step of RUN/checkpoints/STEP; of other paths an empty step."""
    whole = os.fspath(path).rstrip("/") if files.is_remote(path) else os.path.abspath(path)
    run, _, step = whole.rpartition(f"/{STEPS}/")
    return (run, step) if run and "/" not in step else ("", "")


def frozen(path: Path) -> Path:
    """The directory with what training does not change, of a step."""
    return Path(_run_and_step(path)[0]) / FROZEN


def check_frozen(run: str | os.PathLike[str]) -> None:
    """Raises CheckpointError if what training does not change of a run is damaged."""
    folder = f"{os.fspath(run)}/{FROZEN}"
    try:
        checksums.check(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is damaged: {error}; the command that trains the run writes it again"
        ) from error


def has_frozen(run: str | os.PathLike[str]) -> bool:
    """Whether a run has what training does not change, and that is not damaged."""
    try:
        check_frozen(run)
    except CheckpointError:
        return False
    return is_run(run)


def kept_steps(run: str | os.PathLike[str]) -> list[int]:
    """The steps that a run has kept, in order; those of a bucket only if they were written to their end."""
    folder = epath.Path(run) / STEPS
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.exists() else []
    if files.is_remote(run):
        found = [path for path in found if (path / COMMITTED).exists()]
    return sorted(int(path.name) for path in found)


def find(run: str | os.PathLike[str], step: int | None) -> str:
    """The model directory, or the kept step, that is a step of a run.

    Args:
        run: its folder, local or of a bucket. step: None for the model of a finished run.

    Raises:
        CheckpointError: the run is not finished and no step is named, or it has not kept the step.
    """
    run = os.fspath(run).rstrip("/")
    for name in (MODEL,) if step is None else (MODEL, LAST):
        config = f"{run}/{name}/{CONFIG_FILE}"
        if storage.exists(config) and (step is None or _recorded_step(config) == step):
            return f"{run}/{name}"
    kept = kept_steps(run)
    if step in kept:
        return f"{run}/{STEPS}/{step}"
    there = f"it has kept {', '.join(map(str, kept))}" if kept else "it has kept none yet"
    if step is None:
        raise CheckpointError(f"{run} is a run that is not finished: name a step (--step); {there}")
    raise CheckpointError(f"{run} has not kept step {step}; {there}")


def _recorded_step(path: str) -> int | None:
    try:
        found = json_files.parse(storage.read_bytes(path), path, CheckpointError)[RECORD]["step"]
    except (CheckpointError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def settings_of_step(frozen: Mapping[str, Any], step: str) -> dict[str, Any]:
    """What the config.json of a step would say, from that of the frozen part of its run."""
    return {**{name: value for name, value in frozen.items() if name != "part"}, RECORD: {"step": int(step)}}


def check_step(path: str | os.PathLike[str]) -> bool:
    """Compares a step, RUN/checkpoints/N, with the checksums that were written with it.

    Returns:
        False if it has none because it is of an older version.

    Raises:
        CheckpointError: it is damaged; the message says how, without the path. StorageError: it cannot be read.
    """
    step = os.fspath(path)
    if not files.is_remote(step):  # Orbax would wait for a pipe without end
        for name in storage.sizes(step):
            try:
                files.check_regular(f"{step}/{name}", CheckpointError)
            except CheckpointError as error:
                raise CheckpointError(str(error).removeprefix(f"{step}/")) from error
    if checksums.check(step, later=(COMMITTED,)):
        return True
    described = f"{step}/{METADATA_FILE}"
    if storage.exists(described):
        said = json_files.parse(storage.read_bytes(described), METADATA_FILE, CheckpointError)
        added = said.get("custom_metadata") if isinstance(said, dict) else None
        if isinstance(added, dict) and added.items() >= MARK.items():
            raise CheckpointError(f"{checksums.FILE} is missing")
    return False


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of `read_parts` by path in the model's variables; arguments and errors are the same."""
    return {name: array for part in read_parts(path).values() for name, array in part.items()}


def read_parts(path: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
    """What training has changed up to a step but the state of its optimizer, in flat dicts as an update has them.

    Args:
        path: RUN/checkpoints/N; local or of a bucket.

    Raises:
        CheckpointError: it is damaged, or holds NaN or infinities. StorageError: a bucket cannot be reached.
    """
    # Imported here: commands that load other models need none of it.
    import jax
    import orbax.checkpoint as ocp

    folder = epath.Path(path) / "default"
    handler = ocp.PyTreeCheckpointHandler()
    with remote.errors(path, CheckpointError):
        if not folder.exists():
            raise CheckpointError(f"{os.fspath(path)}: there is no such step")
        try:
            check_step(path)
        except CheckpointError as error:
            raise CheckpointError(f"{os.fspath(path)} is damaged: {error}") from error
        try:
            saved: Mapping[str, Any] = handler.metadata(folder).tree
            wanted = {name: part for name, part in saved.items() if name != OPTIMIZER}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            item = jax.tree.map(lambda _: 0, wanted)
            arguments = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
            parts: dict[str, dict[str, np.ndarray]] = handler.restore(folder, args=arguments)
        except Exception as error:
            if files.is_remote(path):
                raise
            # TensorStore and Orbax have no type of their own for damaged files.
            raise CheckpointError(f"{os.fspath(path)} is damaged: {one_line(error)[:200]}") from error
    rules.check_finite({name: array for part in parts.values() for name, array in part.items()}, path)
    return parts


def local_step(url: str) -> Path:
    """A step of a run in a bucket, RUN/checkpoints/N, as a model directory in the cache, made at its first use."""
    run, step = _run_and_step(url)
    frozen = remote.local_copy(f"{run}/{FROZEN}", CONFIG_FILE, CheckpointError)
    # The cache has a folder of its own for each state of this file, which is written anew with every checkpoint.
    folder = remote.fetch(f"{url}/default", ["_METADATA"], CheckpointError)
    with files.locked(folder / ".model.lock"):
        if not (folder / MODEL).exists():
            tensors = safetensors_files.open_safetensors(frozen / WEIGHTS)
            arrays = {name: tensor.read() for name, tensor in tensors.items()} | read(url)
            with files.atomic_directory(folder / MODEL) as temporary:
                shutil.copytree(
                    frozen, temporary, ignore=shutil.ignore_patterns(WEIGHTS, checksums.FILE, ".*"), dirs_exist_ok=True
                )
                safetensors_files.save_safetensors(arrays, temporary / WEIGHTS, folder / MODEL)
                settings = settings_of_step(json_files.read(frozen / CONFIG_FILE, CheckpointError), step)
                files.atomic_write_json(temporary / CONFIG_FILE, settings)
    return folder / MODEL
