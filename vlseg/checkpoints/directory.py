"""Model directories: safetensors and JSON, in one format for all packages.

config.json            format (the package), version, the model's configuration, and settings such as labels
model.safetensors      parameters, by our names and in our layout
official.safetensors   tensors that only the official code needs, if there are any
...                    whatever else the package keeps beside them
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from vlseg import devices, fields, files, json_files, paths, remote, safetensors_files, storage
from vlseg.checkpoints import checksums, download, rules, runs
from vlseg.checkpoints.rules import TensorSource, Variables
from vlseg.errors import CheckpointError, ConfigError, VocabularyError
from vlseg.fields import Range

VERSION = 1
CONFIG_FILE, WEIGHTS_FILE = runs.CONFIG_FILE, runs.WEIGHTS
OFFICIAL_FILE = "official.safetensors"

Place = Callable[[np.ndarray], Any]
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters of a model, and what an official checkpoint held besides.

    Attributes:
        variables: nested dict of arrays in our layout.
        carried: official name -> tensor, what only the official code needs (tied copies excepted); still in the file.
        tied: official names under which the checkpoint held one of the parameters again.
        fresh: official names of parameters that it lacked, so that they were started fresh; left out on the way back.
    """

    variables: Variables
    carried: Mapping[str, TensorSource] = dataclasses.field(default_factory=dict)
    tied: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


class Stored(NamedTuple):
    """A model as read from disk.

    config: the configuration dataclass of its package. settings: further parts of config.json. directory: where it
    lies, None for an official checkpoint. arrays, others: what else is to be written into a directory: safetensors
    files by name, and files by name.
    """

    config: Any
    weights: Weights
    settings: Mapping[str, Any] = {}
    directory: Path | None = None
    arrays: Mapping[str, Mapping[str, np.ndarray]] = {}
    others: Mapping[str, bytes] = {}


@dataclasses.dataclass(frozen=True)
class _Told:
    """What every config.json says; packages have settings of their own beside these."""

    model: Mapping[str, Any]
    version: Annotated[int, Range(1, VERSION)] = VERSION
    tied: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


_TOLD = tuple(field.name for field in dataclasses.fields(_Told))


def read(
    path: Path,
    package: str,
    parse: Callable[[Mapping[str, Any]], tuple[Any, Shapes]],
    place: Place = np.ascontiguousarray,
) -> Stored:
    """Reads a model directory, or a step that a run has kept, one tensor at a time.

    Args:
        path: the directory, or RUN/checkpoints/N, see `vlseg.checkpoints.runs`. package: the format it must have.
        parse: from the model's part of config.json to its configuration and the shape of every parameter by its path.
        place: what to make of each array.

    Raises:
        CheckpointError: it is no such directory, broken, or of another format; parameters whose names or shapes do not
            fit its configuration are named.
    """
    settings = read_settings(path)
    config_file = (runs.frozen(path) if runs.is_step(path) else path) / CONFIG_FILE
    if settings["format"] != package:
        raise CheckpointError(f"{path} holds a model of format {settings['format']!r}, not {package!r}")
    trained: Mapping[str, TensorSource] = {}
    if runs.is_step(path):
        runs.check_frozen(runs.frozen(path).parent)
        trained = {name: rules.ArrayTensor(array) for name, array in runs.read(path).items()}
        path = runs.frozen(path)
    elif settings.get("part") == runs.FROZEN:
        raise CheckpointError(f"{path} is only the frozen part of a run: load {path.parent}")
    devices.check()
    with usable(config_file):
        told = fields.read(_Told, {name: settings[name] for name in _TOLD if name in settings})
        config, shapes = parse(told.model)
    variables = safetensors_files.read_variables(path / WEIGHTS_FILE, shapes, "the model", place, trained)
    carried: Mapping[str, TensorSource] = {}
    if (path / OFFICIAL_FILE).exists():
        carried = safetensors_files.open_safetensors(path / OFFICIAL_FILE)
    return Stored(config, Weights(variables, carried, told.tied, told.fresh), settings, path)


def read_settings(path: Path) -> Mapping[str, Any]:
    """What the config.json of a model directory, or of a step that a run has kept, says; its "format" among it.

    Raises:
        CheckpointError: it is no model directory, or its config.json cannot be used.
    """
    if runs.is_step(path):
        return runs.settings_of_step(read_settings(runs.frozen(path)), path.name)
    if not (path / CONFIG_FILE).exists():
        raise CheckpointError(f"{path} is not a model directory: it has no {CONFIG_FILE}")
    settings = json_files.read(path / CONFIG_FILE, CheckpointError)
    with usable(path / CONFIG_FILE):
        found = fields.mapping(settings, "it")
        if "format" not in found:
            raise ConfigError("it lacks 'format'")
        fields.check_value(found["format"], str, "format")
    return found


@contextlib.contextmanager
def usable(config_file: Path) -> Iterator[None]:
    """Turns what the block says of settings out of a config.json into a CheckpointError that names the file."""
    try:
        yield
    except (ConfigError, VocabularyError) as error:
        raise CheckpointError(f"{config_file} cannot be used: {error}") from error


def write_frozen(run: str | os.PathLike[str], package: str, stored: Stored, trained: Collection[str]) -> None:
    """Writes what training does not change of a model into the folder of a run, once; see `vlseg.checkpoints.runs`.

    Args:
        run: the folder. package, stored: as for `write`. trained: paths of the parameters that are left out.

    Raises:
        StorageError: it cannot be written.
    """
    flat = rules.flatten(stored.weights.variables)
    variables = rules.unflatten({name: value for name, value in flat.items() if name not in trained})
    weights = dataclasses.replace(stored.weights, variables=variables)
    settings = {**stored.settings, "part": runs.FROZEN}
    # A bucket may hold a part of it, of a run that was killed meanwhile.
    write(
        f"{os.fspath(run)}/{runs.FROZEN}", package, stored._replace(weights=weights, settings=settings), overwrite=True
    )
    checksums.write(f"{os.fspath(run)}/{runs.FROZEN}")


def write(path: str | os.PathLike[str], package: str, stored: Stored, *, overwrite: bool = False) -> None:
    """Writes a model directory; whole or not at all.

    Args:
        path: local or of a bucket (`gs://...`); must not exist unless `overwrite`.
        package: its format.
        stored: its configuration has a method `to_dict`; its settings are JSON-ready.

    Raises:
        StorageError: it cannot be written. ConfigError: a package for its bucket is missing.
    """
    weights = stored.weights
    described = {"format": package, "version": VERSION, "model": stored.config.to_dict()}
    described |= {name: list(value) for name in ("tied", "fresh") if (value := getattr(weights, name))}
    flat = {name: np.ascontiguousarray(value) for name, value in rules.flatten(weights.variables).items()}
    carried = {name: tensor.read() for name, tensor in weights.carried.items()}
    with storage.directory(path, CONFIG_FILE, overwrite) as temporary:
        safetensors_files.save_safetensors(flat, temporary / WEIGHTS_FILE, path)
        for file, tensors in {OFFICIAL_FILE: carried, **stored.arrays}.items():
            if tensors:
                # Unlike np.ascontiguousarray this leaves scalars what they are.
                whole = {name: np.asarray(value, order="C") for name, value in tensors.items()}
                safetensors_files.save_safetensors(whole, temporary / file, path)
        for file, content in stored.others.items():
            files.atomic_write_bytes(temporary / file, content)
        files.atomic_write_json(temporary / CONFIG_FILE, {**described, **stored.settings})


def resolve(
    source: str | os.PathLike[str],
    bundled: Mapping[str, Path],
    weights: Mapping[str, download.WeightFile],
    step: int | None = None,
) -> Path:
    """The local path of a checkpoint; what has to be downloaded is, at the first use.

    Args:
        source: the name of a bundled model or of published weights, a file or directory, the folder of a training run,
            or `gs://...`.
        bundled: of the package, name -> directory. weights: of the package, see `vlseg.checkpoints.download`.
        step: of a run, see `vlseg.checkpoints.runs.find`.

    Raises:
        CheckpointError: there is none, or a step of what is no run. DownloadError, StorageError: it cannot be fetched.
    """
    name = os.fspath(source)
    if not name:
        raise CheckpointError("the name of the checkpoint is empty, as a shell variable without a value: give one")
    paths.check_reachable(name, CheckpointError)
    is_run = name not in bundled and runs.is_run(name)
    if step is not None and not is_run:
        raise CheckpointError(f"{name} is not the folder of a training run, of which a step could be loaded")
    if name in bundled:  # a folder of that name is ./NAME
        return bundled[name]
    if is_run:
        name = runs.find(name, step)
    if files.is_remote(name):
        if runs.is_step(name):
            return runs.local_step(name)
        return remote.local_copy(name, CONFIG_FILE, CheckpointError)
    if Path(name).exists():
        return Path(name)
    if name in weights:
        return download.fetch(name, weights)
    names = [*bundled, *weights]
    known = f", a directory nor {'one of ' * (len(names) > 1)}{', '.join(names)}" if names else " nor a directory"
    raise CheckpointError(f"no such checkpoint: {name} is neither a file{known}")
