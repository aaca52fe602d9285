"""The working directory of a training run: where it is, and that it is of the same run."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from vlseg import distributed, files, storage
from vlseg.errors import ConfigError, StorageError

Place: TypeAlias = Path | epath.Path
"""A path, local or of a bucket."""

CONFIG_FILE = "config.json"


def open_workdir(
    workdir: str | os.PathLike[str],
    config: dict[str, Any],
    free: Sequence[str] = (),
    movable: Sequence[str] = (),
    kept: Callable[[str], str] = lambda path: Path(path).name,
) -> Place:
    """Makes a working directory for this configuration, or checks that an existing one is of the same.

    Args:
        workdir: a local directory, or a folder of a bucket, `gs://BUCKET/FOLDER`, which needs no making.
        config: JSON-ready settings.
        free: names of settings that may differ, with dots such as "benchmark.root"; all settings of a section by its
            name.
        movable: names of settings that hold paths, which may differ in what `kept` leaves out.
        kept: what must stay of such a path; by default its last part.

    Raises:
        ConfigError: the directory holds a run of another configuration; the settings that differ are named. Or it is
            neither local nor `gs://...`, or a package for that is missing.
        StorageError: it cannot be made, or its bucket cannot be reached, or denies access.
    """
    path = _made(workdir)
    config = json.loads(json.dumps(config))

    def moved(name: str, before: Any, now: Any) -> bool:
        return name in movable and isinstance(before, str) and isinstance(now, str) and kept(before) == kept(now)

    recorded = path / CONFIG_FILE
    if not storage.exists(recorded):
        if distributed.is_main():
            storage.write_json(recorded, config)
        return path
    try:
        before = json.loads(storage.read_bytes(recorded))
    except ValueError as error:
        raise ConfigError(f"{recorded} is not readable: {error}") from error
    different = sorted(
        name
        for name, old, new in _differences(before, config)
        if not any(f"{name}.".startswith(f"{part}.") for part in free) and not moved(name, old, new)
    )
    if different:
        raise ConfigError(
            f"{path} holds a run with other settings ({', '.join(different[:8])}); choose another --workdir"
        )
    return path


def _made(workdir: str | os.PathLike[str]) -> Place:
    if files.is_remote(workdir):
        if not os.fspath(workdir).startswith("gs://"):
            raise ConfigError(f"{os.fspath(workdir)}: a working directory is a local one or gs://BUCKET/FOLDER")
        return epath.Path(workdir)
    path = Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file of that name exists" if path.exists() else error.strerror
        raise StorageError(f"cannot make the working directory {path}: {reason}") from error
    return path


def _differences(a: Any, b: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The settings that differ, each with its two values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            item for key in sorted(set(a) | set(b)) for item in _differences(a.get(key), b.get(key), f"{prefix}{key}.")
        ]
    return [] if a == b else [(prefix.rstrip("."), a, b)]
