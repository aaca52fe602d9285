"""What a training run is made of, found out before its weights are fetched and read."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vlseg import files, settings
from vlseg.checkpoints import directory, download
from vlseg.data.sources import open_section
from vlseg.effects import is_in
from vlseg.packages import Package
from vlseg.training import inputs


def check_checkpoint(checkpoint: str, package: Package) -> None:
    """Raises CheckpointError if what training starts from is neither there nor can be fetched; fetches nothing."""
    if checkpoint and not files.is_remote(checkpoint) and not is_published(checkpoint, package):
        directory.resolve(checkpoint, package.bundled, package.weights)


def is_published(checkpoint: str, package: Package) -> bool:
    """Whether this is the name of published weights, which may have to be fetched."""
    return checkpoint in package.weights and not Path(checkpoint).exists()


def inputs_of_data(config: ConfigDict, idle: Collection[str]) -> dict[str, Any]:
    """What tells the data of a run from others, by the names of settings.

    Args:
        config, idle: of `vlseg.settings.effective`.

    Raises:
        DatasetError, ConfigError: there is none, or not all of it.
    """
    found: dict[str, Any] = {}
    for name, several in {"data": settings.takes_several(config), "validation": False}.items():
        section = config[name]
        listed = settings.sources_of(section.source, several)
        if not listed or f"{name}.source" in idle:
            continue
        told = [inputs.of_data(open_section(source, section), source) for source in listed]
        found[f"{name}.source"] = told if several else told[0]
    return found


def inputs_of_files(config: ConfigDict, idle: Collection[str], package: Package) -> dict[str, Any]:
    """What tells the weights of a run from others, by the names of settings, as far as they lie on a local disk."""
    found: dict[str, Any] = {}
    for name in ("checkpoint", "tokenizer", *package.movable):
        value: Any = config
        for part in name.split("."):
            value = value[part]
        if not value or is_in(name, idle):
            continue
        path = Path(value).expanduser()
        if name == "checkpoint":
            path = _local(value, package)
        if path.exists():
            found[name] = inputs.of_files(path)
    return found


def _local(checkpoint: str, package: Package) -> Path:
    """Where a checkpoint lies; a path without a file if that is not known without fetching it."""
    if files.is_remote(checkpoint):
        return Path(checkpoint)
    if is_published(checkpoint, package):
        return download.target(checkpoint, package.weights[checkpoint])
    return directory.resolve(checkpoint, package.bundled, {})


def state_bytes(state: Any) -> float:
    """Bytes of a training state, given as arrays or shapes."""
    return float(sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(state)))
