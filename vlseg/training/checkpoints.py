"""Checkpoints of a training run, with Orbax.

Several processes write a checkpoint together, so they need a working directory that all of them see; a bucket is one.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata as packages
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vlseg import distributed, files, remote, storage
from vlseg.checkpoints import runs
from vlseg.errors import CheckpointError, StorageError, is_of_jax, one_line
from vlseg.training.finite import listed, not_finite
from vlseg.training.summed import Marked, Renamed
from vlseg.training.workdir import Place

PATIENCE = 120
"""Seconds that a shared folder is given to show the same to all processes."""

TREE_FILE = "default/_METADATA"
"""Where Orbax describes what a checkpoint holds."""

_READ = (ValueError, KeyError, TypeError)
"""What Orbax raises over what it could read."""

_DAMAGED = re.compile("NOT_FOUND|DATA_LOSS|OUT_OF_RANGE|[Cc]hecksum|CRC-?32C|[Cc]orrupt")
"""What TensorStore says of files that are missing, cut short or changed."""

_UNREACHABLE = re.compile("PERMISSION_DENIED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED")
"""What TensorStore says of files that may be whole."""

PACKAGES = ("vlseg-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
"""Those whose versions a checkpoint records."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, which asks JAX about preemption with the number of a step that was saved a while ago.

    JAX takes any such number for the step that this process has come to, by which processes agree when to stop.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class _Kept(NamedTuple):
    """Which checkpoints stay, see `Checkpoints`; a preservation policy of Orbax."""

    last: int
    period: int | None
    best: Callable[[Collection[int]], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of the checkpoints, in the order of their steps, stays."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        best, newest = self.best(steps), steps[-self.last :]
        return [step in newest or step == best or bool(self.period and step % self.period == 0) for step in steps]


class Checkpoints:
    """Saves and restores the state of one run in `workdir/checkpoints`.

    Orbax writes each step into a temporary directory and renames it, so a half-written checkpoint is never restored. In
    a bucket, where nothing can be renamed, each has a file commit_success.txt that is written last. Whatever writes or
    waits raises StorageError if the place is full or fails.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        keep: int = 2,
        keep_period: int | None = None,
        config: Mapping[str, Any] | None = None,
        best: Callable[[Collection[int]], int | None] = lambda steps: None,
    ) -> None:
        """The last `keep` checkpoints stay, multiples of `keep_period`, and the one that `best` gives.

        `config` is recorded beside them, with the versions of packages; in a bucket, in each of them.

        Raises:
            StorageError: a bucket cannot be reached, or denies access. ConfigError: a package for it is missing.
        """
        # What a run that was killed has left half-written would stay for ever.
        policy = _Kept(keep, keep_period, best)
        self._is_remote = files.is_remote(workdir)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            cleanup_tmp_directories=True,
            temporary_path_class=Marked if self._is_remote else Renamed,
        )
        described = {"config": json.loads(json.dumps(config)), "versions": _versions()}
        self._path: Place = (epath.Path(workdir) if self._is_remote else Path(workdir).absolute()) / runs.STEPS
        # What is said once of all needs an empty folder, which buckets do not have.
        self._described = {**(described if self._is_remote else {}), **runs.MARK}
        with self._storage_errors() if self._is_remote else contextlib.nullcontext():
            # Given its handler, Orbax does not look into the newest step, which may be damaged, for what steps hold.
            handler = ocp.StandardCheckpointHandler()
            metadata = None if self._is_remote else described
            make = functools.partial(_Manager, self._path, item_handlers=handler, options=options, metadata=metadata)
            self._undescribed: dict[int, str] = {}
            try:
                self._manager = make()
            except _READ as error:
                self._undescribed = self._without_descriptions(error)
                self._manager = make()

    def _without_descriptions(self, error: Exception) -> dict[int, str]:
        """Takes away what damaged steps say of themselves, over which Orbax fails before it lists any step.

        Args:
            error: what Orbax raised.

        Returns:
            What is wrong with these steps.

        Raises:
            CheckpointError: none is damaged.
        """
        steps = runs.kept_steps(self._path.parent)
        damaged = {step: damage for step in steps if (damage := self._damage(step))}
        if not damaged:
            raise CheckpointError(f"{self._path} cannot be read: {one_line(error)[:200]}") from error

        def remove() -> None:
            for step in damaged:
                storage.remove(self._path / str(step) / runs.METADATA_FILE)

        distributed.by_main(remove)
        return damaged

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, which may still be on its way, None if there is none."""
        return self._manager.latest_step()

    def finished(self) -> int | None:
        """The step of the newest checkpoint, after waiting for what is on its way."""
        with self._storage_errors():
            self._manager.wait_until_finished()
        return self.latest

    def restore(self, like: Any) -> tuple[Any, int]:
        """The newest state that is whole and its step, or (`like`, 0) when there is none yet.

        The state is spread over devices as `like` is, however it was when it was saved. Newer checkpoints that are
        damaged, or hold what is not finite, are removed, and one line says so.

        Raises:
            CheckpointError: the stored state has another structure than `like`, or all checkpoints are damaged.
            StorageError: a bucket cannot be reached, or denies access; or processes do not see the same place.
        """
        newest = self._agreed_latest()
        steps = [step for step in reversed(self._manager.all_steps()) if newest is not None and step <= newest]
        damaged: dict[int, str] = {}
        for step in steps:
            damage = self._damage(step)
            if not damage:
                state, damage = self._restored(step, like)
            if not damage:
                self._forget(damaged, step)
                return state, step
            damaged[step] = damage
        if not damaged:
            return like, 0
        raise CheckpointError(
            f"no checkpoint in {self._path} can be used: {_described(damaged)}; choose another --workdir, or remove "
            f"{self._path} to begin anew"
        )

    def _damage(self, step: int) -> str:
        """What is wrong with the files of a step, as process 0 finds it; empty if nothing is."""
        if step in self._undescribed:
            return self._undescribed[step]
        damage: list[str] = []

        def look() -> None:
            try:
                if not runs.check_step(self._path / str(step)):
                    print(f"checkpoint {step} has no checksums, being of an older version: used as it is", flush=True)
            except CheckpointError as error:
                damage.append(str(error))

        distributed.by_main(look)  # where the place cannot be read, all say so
        return distributed.text_from_main("".join(damage))

    def _restored(self, step: int, like: Any) -> tuple[Any, str]:
        """The state of a step, or None and what is wrong with it."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with remote.errors(self._path, StorageError) if self._is_remote else contextlib.nullcontext():
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:
                # TensorStore has no type for files that end too early.
                of_files = isinstance(error, FileNotFoundError) or type(error) is Exception
                if not (isinstance(error, _READ) or (of_files and not self._is_remote)):
                    raise
                damage = self._damage_by(step, error)
                if jax.process_count() > 1:  # the others may have restored it
                    raise CheckpointError(f"checkpoint {step} is damaged; delete {self._path / str(step)}") from error
                return None, damage
        broken = not_finite(state)
        return (None, f"{listed(broken)} of it are not finite") if broken else (state, "")

    def _damage_by(self, step: int, error: Exception) -> str:
        """What is wrong with a step from which Orbax raised an error; raises what is no damage."""
        folder, text = self._path / str(step), str(error)
        reason = one_line(text)[:200]
        if _UNREACHABLE.search(text):
            raise StorageError(f"checkpoint {step} in {self._path} cannot be read: {reason}") from error
        is_whole = isinstance(error, _READ) and (folder / TREE_FILE).exists()
        if is_whole and not isinstance(error, json.JSONDecodeError) and not _DAMAGED.search(text):
            raise CheckpointError(
                f"checkpoint {step} of this working directory does not fit the model: {reason}"
            ) from error
        return reason

    def _forget(self, damaged: Mapping[int, str], step: int) -> None:
        """Removes damaged steps, which will be written again, now that an earlier one is restored."""
        if not damaged:
            return
        if distributed.is_main():
            print(f"{self._path}: {_described(damaged)}; removed, going on from checkpoint {step}", flush=True)
        with self._storage_errors():
            for number in damaged:
                self._manager.delete(number)

    def _agreed_latest(self) -> int | None:
        """The newest step, once all processes see the same: a shared folder may show it later to some of them."""
        for _ in range(PATIENCE):
            own = -1 if self.latest is None else self.latest
            latest = int(distributed.from_main(np.int32(own)))
            if distributed.all_agree(own == latest):
                return self.latest
            time.sleep(1)
            with self._storage_errors():
                self._manager.reload()
        raise StorageError(
            f"processes do not find the same checkpoints in {self._path}; all of them need the same folder"
        )

    def save(self, step: int, state: Any) -> None:
        """Saves `state`, a dict of arrays, unless that step is saved already. Returns before the files are complete."""
        if self.latest != step:
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            with self._storage_errors():
                arguments = ocp.args.StandardSave(state)
                self._manager.save(step, args=arguments, force=True, custom_metadata=self._described)

    def close(self) -> None:
        """Waits for pending writes."""
        with self._storage_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    def _check_room(self, needed: int) -> None:
        """Raises StorageError if the disk is too full to begin: its threads would fail with a hundred tracebacks."""
        if self._is_remote:
            return
        # Process 0 decides: others may see another number, and those that go on would wait for those that do not.
        free = float(distributed.from_main(np.float32(shutil.disk_usage(self._path).free)))
        if free < needed:
            raise StorageError(
                f"cannot write checkpoints to {self._path}: it needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are "
                "free; make room and run the same command again"
            )

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Whatever fails below Orbax while it writes, of its own type or TensorStore's, is a place that fails."""
        if self._is_remote:
            with remote.errors(self._path, StorageError):
                yield
            return
        try:
            yield
        except Exception as error:
            if is_of_jax(error):
                raise  # another process may be lost, which is no fault of the place
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StorageError(f"cannot write checkpoints to {self._path}: {reason[:200]}") from error


def _described(damaged: Mapping[int, str]) -> str:
    return ", ".join(f"checkpoint {step} is damaged ({damage})" for step, damage in damaged.items())


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[name] = packages.version(name)
    return versions
