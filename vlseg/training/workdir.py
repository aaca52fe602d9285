"""The working directory of a training run: where it is, that it can be written, and that it is of the same run."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from etils import epath

from vlseg import distributed, files, json_files, outputs, storage
from vlseg.checkpoints import runs
from vlseg.effects import is_in, leaves
from vlseg.errors import ConfigError, StorageError
from vlseg.training import inputs

Place: TypeAlias = Path | epath.Path
"""A path, local or of a bucket."""

CONFIG_FILE = "config.json"
"""What ran: the settings that took effect."""

INPUTS_FILE = "inputs.json"
"""What it ran on: names, data and weights, see `vlseg.training.inputs`."""

METRICS_FILE = "metrics.jsonl"

NOTHING = object()
"""The value of a setting that had no effect."""

SHOWN = 3
"""Differences that a message explains."""


def _last_part(path: str) -> str:
    return Path(path).name


class Same(NamedTuple):
    """What makes two runs the same.

    free: names of settings that may differ, with dots such as "benchmark.root"; all settings of a section by its name.
    movable: names of settings that hold paths, which may differ in what `kept` leaves out, and altogether where what
        they lead to is the same.
    kept: what must stay of such a path; by default its last part.
    filled: settings that the run itself finds out, in which directories of older versions may differ.
    """

    free: Sequence[str] = ()
    movable: Sequence[str] = ()
    kept: Callable[[str], str] = _last_part
    filled: Collection[str] = ()


def default(config_file: str) -> Path:
    """Where a run goes if nobody says: runs/NAME, or runs/NAME_ARGUMENT of --config=NAME.py:ARGUMENT."""
    path, _, argument = config_file.partition(".py:")
    name = re.sub(r"[^\w.=+-]+", "_", f"{Path(path).name.removesuffix('.py')}{'_' * bool(argument)}{argument}")
    return Path("runs") / (name.strip(".") or "run")


def check_place(workdir: str | os.PathLike[str]) -> Place:
    """The path of a working directory, of which nothing tells that it cannot be made and written; makes nothing.

    Raises:
        ConfigError: it is neither local nor `gs://...`, or a package for that is missing.
        StorageError: it, or what should hold it, is a file or a link to nothing, or nothing may be written there.
    """
    if not os.fspath(workdir):
        raise ConfigError("--workdir is empty, as a shell variable without a value: name a folder")
    if files.is_remote(workdir):
        return _remote(workdir)
    try:
        outputs.check_output_directory(workdir)
    except StorageError as error:
        reason = str(error).partition(": ")[2]
        raise StorageError(f"cannot make the working directory {os.fspath(workdir)}: {reason}") from error
    for name in (runs.MODEL, runs.LAST, runs.FROZEN, runs.STEPS):
        if os.path.lexists(Path(workdir) / name) and not (Path(workdir) / name).is_dir():
            raise StorageError(f"{Path(workdir) / name} is no folder, where a run needs one: choose another --workdir")
    for name in (CONFIG_FILE, INPUTS_FILE, METRICS_FILE, runs.SUMMARY):
        if (Path(workdir) / name).is_dir():
            raise StorageError(f"{Path(workdir) / name} is a folder, not a file: choose another --workdir")
    return Path(workdir)


def check_same(path: Place, config: dict[str, Any], found: Mapping[str, Any], same: Same) -> None:
    """Checks, before the weights of a run are read, that a working directory is its own, if it is there.

    Args:
        config: its settings, without those that only the run finds out. found: its inputs as far as they are known.

    Raises:
        ConfigError, StorageError: as `open_workdir`.
    """
    _compare(path, config, found, same, partly=True)


def open_workdir(
    workdir: str | os.PathLike[str],
    config: dict[str, Any],
    free: Sequence[str] = (),
    movable: Sequence[str] = (),
    kept: Callable[[str], str] = _last_part,
    *,
    found: Mapping[str, Any] | None = None,
    filled: Collection[str] = (),
) -> Place:
    """Makes a working directory for this configuration, or checks that an existing one is of the same.

    Args:
        workdir: a local directory, or a folder of a bucket, `gs://BUCKET/FOLDER`, which needs no making.
        config: JSON-ready settings.
        free, movable, kept, filled: see `Same`.
        found: what the run is made of beside them, by the names of settings, see `vlseg.training.inputs`.

    Raises:
        ConfigError: the directory holds a run of another configuration, of other names, data or weights; what differs
            is said. Or it is neither local nor `gs://...`, or a package for that is missing.
        StorageError: it cannot be made, or its bucket cannot be reached, or denies access.
    """
    path = _made(workdir)
    config = json.loads(json.dumps(config))
    _compare(path, config, found, Same(free, movable, kept, filled))
    if distributed.is_main():
        if not storage.exists(path / CONFIG_FILE):
            storage.write_json(path / CONFIG_FILE, config)
        if found is not None and not storage.exists(path / INPUTS_FILE):
            storage.write_json(path / INPUTS_FILE, found)
    return path


def check_room(path: Place, state_bytes: float, kept: int, together: bool = True) -> None:
    """Raises StorageError if checkpoints of this size clearly do not fit the disk: those that stay, and the next one.

    Args:
        path: the working directory, which may not be there yet; in a bucket there is always room.
        state_bytes: of a checkpoint. kept: how many stay.
        together: whether all processes call this; process 0 decides, as others may see another number.
    """
    if files.is_remote(path) or not (together or distributed.is_main()):
        return
    here = next(place for place in (Path(path).absolute(), *Path(path).absolute().parents) if place.exists())
    seen = np.asarray([kept + 1 - len(runs.kept_steps(path)), shutil.disk_usage(here).free], np.float32)
    counted, free = map(float, distributed.from_main(seen) if together else seen)
    left = max(1, int(counted))
    needed = state_bytes * left
    if free < needed:
        raise StorageError(
            f"{path}: {left} checkpoints of {state_bytes / 1e6:,.1f} MB need {needed / 1e6:,.1f} MB and "
            f"{free / 1e6:,.1f} MB are free: make room, choose another --workdir, or keep fewer "
            "(--config.keep_checkpoints)"
        )


def _compare(
    path: Place, config: Mapping[str, Any], found: Mapping[str, Any] | None, same: Same, *, partly: bool = False
) -> None:
    """Raises ConfigError if a working directory holds another run; `partly` if not all of this one is known yet."""
    if not storage.exists(path / CONFIG_FILE):
        if steps := runs.kept_steps(path):
            raise ConfigError(
                f"{path} holds checkpoints (of step {steps[-1]}) but no {CONFIG_FILE} that says of which run: "
                "put it back, or choose another --workdir"
            )
        return
    before = _recorded(path / CONFIG_FILE)
    is_older = not storage.exists(path / INPUTS_FILE)
    known = {} if is_older else _recorded(path / INPUTS_FILE)
    differing = [
        (name, f"{name} {inputs.difference(known[name], value)}")
        for name, value in (found or {}).items()
        if name in known and known[name] != value
    ]
    told = {name for name in (found or {}) if name in known}
    old, new = leaves(before), leaves(config)
    changed = []
    for name in sorted(old.keys() | new.keys()):
        value, other = old.get(name, NOTHING), new.get(name, NOTHING)
        if value == other or is_in(name, same.free) or name in told or _is_moved(name, value, other, same):
            continue
        # What only the run itself finds out is not known yet, and older versions did not write it down.
        if (partly or (found is not None and is_older)) and (is_in(name, same.filled) or other is NOTHING):
            continue
        changed.append((name, f"{name} {_was(value)} and {_is(other)} now"))
    # Settings that another one has switched on or off follow from that one.
    changed.sort(key=lambda item: NOTHING in (old.get(item[0], NOTHING), new.get(item[0], NOTHING)))
    both = changed + differing
    if not both:
        return
    kinds = [*(["settings"] if changed else []), *sorted({_kind(name) for name, _ in differing})]
    names = ", ".join(name for name, _ in both[:8])
    said = ", ".join(text for _, text in both[:SHOWN])
    raise ConfigError(
        f"{path} holds a run with other {' and '.join(kinds)} ({names}): {said}; choose another --workdir"
    )


def _kind(name: str) -> str:
    return "names" if name == "names" else "data" if name.startswith(("data", "validation", "benchmark")) else "files"


def _was(value: Any) -> str:
    return "had no effect" if value is NOTHING else f"was {json.dumps(value)}"


def _is(value: Any) -> str:
    return "has none" if value is NOTHING else f"is {json.dumps(value)}"


def _is_moved(name: str, before: Any, now: Any, same: Same) -> bool:
    are_paths = name in same.movable and isinstance(before, str) and isinstance(now, str)
    return are_paths and same.kept(before) == same.kept(now)


def _recorded(path: Place) -> dict[str, Any]:
    try:
        found = json_files.parse(storage.read_bytes(path), "it", ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{path} is not readable: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not readable: it holds no settings")
    return found


def _remote(workdir: str | os.PathLike[str]) -> Place:
    if not os.fspath(workdir).startswith("gs://"):
        raise ConfigError(f"{os.fspath(workdir)}: a working directory is a local one or gs://BUCKET/FOLDER")
    return epath.Path(workdir)


def _made(workdir: str | os.PathLike[str]) -> Place:
    if files.is_remote(workdir):
        return _remote(workdir)
    path = Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file of that name exists" if path.exists() else error.strerror
        raise StorageError(f"cannot make the working directory {path}: {reason}") from error
    return path
