"""Models on disk: our directory of safetensors and JSON, and official PyTorch archives.

A directory holds `config.json` (model and inference settings, categories if the model was adapted to some),
`model.safetensors` (our names and layout), `official.safetensors` (what only the official code needs, if any) and
`words.txt` (a word-level vocabulary, if the model has its own).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ifseg_jax import official
from ifseg_jax.config import OFAConfig
from ifseg_jax.official import Converted
from ifseg_jax.shapes import Shape, official_shapes, parameter_shapes
from vlseg import files, remote, state_dicts, torch_files
from vlseg.errors import CheckpointError, ConfigError
from vlseg.safetensors_files import open_safetensors, read_variables, save_safetensors
from vlseg.state_dicts import ArrayTensor, TensorSource

FORMAT, VERSION = "ifseg_jax", 1
CONFIG_FILE, WEIGHTS_FILE, OFFICIAL_FILE, WORDS_FILE = (
    "config.json",
    "model.safetensors",
    "official.safetensors",
    "words.txt",
)
Place = Callable[[np.ndarray], Any]


class Stored(NamedTuple):
    """A model as read from disk.

    settings: further parts of config.json ("inference", "categories"). directory: where it lies, None for an archive.
    """

    config: OFAConfig
    converted: Converted
    settings: Mapping[str, Any]
    directory: Path | None


def read(path: str | os.PathLike[str], place: Place = np.ascontiguousarray) -> Stored:
    """Reads a directory of ours or an official archive, one tensor at a time.

    Args:
        path: a directory, or a PyTorch archive with an OFA or IFSeg state dict.
        place: see `official.from_official`.

    Raises:
        CheckpointError: there is no such file, it is broken, or it is not such a model; parameters whose shapes do not
            fit its configuration are named.
    """
    path = Path(path)
    return _read_directory(path, place) if path.is_dir() else _read_archive(path, place)


def _read_archive(path: Path, place: Place) -> Stored:
    tensors = torch_files.load_state_dict(path)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        config = official.config_from_official(found)
        state_dicts.check_shapes(found, official_shapes(config))
        return Stored(config, official.from_official(tensors, config, place=place), {}, None)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_directory(path: Path, place: Place) -> Stored:
    config, expected, settings = _read_config(path)
    variables = read_variables(path / WEIGHTS_FILE, expected, "an OFA or IFSeg model", place)
    carried: dict[str, TensorSource] = {}
    if (path / OFFICIAL_FILE).exists():
        carried = dict(open_safetensors(path / OFFICIAL_FILE))
    tied, fresh = (tuple(settings.get(name, ())) for name in ("tied", "fresh"))
    return Stored(config, Converted(variables, carried, tied, fresh), settings, path)


def _read_config(path: Path) -> tuple[OFAConfig, dict[str, Shape], Mapping[str, Any]]:
    """Configuration, the shapes that follow from it, and all of config.json."""
    try:
        settings = json.loads((path / CONFIG_FILE).read_text())
        if settings["format"] != FORMAT:
            raise CheckpointError(f"{path} holds a model of format {settings['format']!r}, not {FORMAT!r}")
        config = OFAConfig.from_dict(settings["model"])
        return config, parameter_shapes(config), settings
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a model directory: it has no {CONFIG_FILE}") from error
    except KeyError as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be used: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, OSError, ConfigError) as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be used: {error}") from error


def write_directory(
    path: str | os.PathLike[str],
    config: OFAConfig,
    converted: Converted,
    settings: Mapping[str, Any],
    words: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a directory of ours; whole or not at all.

    Args:
        path: local or of a bucket (`gs://...`); must not exist unless `overwrite`.
        settings: JSON-ready parts of config.json besides the model's own.
        words: a word-level vocabulary to copy into it.

    Raises:
        StorageError: it cannot be written. ConfigError: a package for its bucket is missing.
    """
    described = {"format": FORMAT, "version": VERSION, "model": config.to_dict()}
    described |= {"tied": list(converted.tied), "fresh": list(converted.fresh)}
    flat = {name: np.ascontiguousarray(value) for name, value in state_dicts.flatten(converted.variables).items()}
    with remote.directory(path, CONFIG_FILE, overwrite) as temporary:
        save_safetensors(flat, temporary / WEIGHTS_FILE, path)
        if converted.carried:
            # Unlike np.ascontiguousarray this leaves scalars what they are.
            carried = {name: np.asarray(tensor.read(), order="C") for name, tensor in converted.carried.items()}
            save_safetensors(carried, temporary / OFFICIAL_FILE, path)
        if words:
            files.atomic_write_bytes(temporary / WORDS_FILE, words.read_bytes())
        files.atomic_write_json(temporary / CONFIG_FILE, {**described, **settings})


def write_official(path: str | os.PathLike[str], config: OFAConfig, converted: Converted) -> None:
    """Writes a PyTorch archive with the state dict under the official names, which the official trainer restores.

    fairseq's loader wants the history of a training run beside "model"; this one has none.
    """
    history = {
        "criterion_name": "SegCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    archive = {
        "args": None,
        "cfg": None,
        "model": official.to_official(converted, config),
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch_files.save(path, archive)


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, TensorSource]:
    """Arrays in memory as tensor sources."""
    return {name: ArrayTensor(array) for name, array in arrays.items()}
