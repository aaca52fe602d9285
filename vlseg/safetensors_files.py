"""Safetensors files: tensors read on demand, and written with our errors."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vlseg.checkpoints.rules import Broken, TensorSource, Variables, check_names, check_shapes, unflatten
from vlseg.errors import CheckpointError, StorageError


class SafetensorsTensor(NamedTuple):
    """One tensor of a safetensors file, read on demand."""

    path: Path
    name: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        with safe_open(self.path, framework="numpy") as file:
            return file.get_tensor(self.name)


def open_safetensors(path: str | os.PathLike[str]) -> dict[str, SafetensorsTensor]:
    """The tensors of a file by name; none is read yet.

    Raises:
        CheckpointError: it is missing or no safetensors file.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: SafetensorsTensor(path, name, tuple(file.get_slice(name).get_shape())) for name in names}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_variables(
    path: Path,
    expected: Mapping[str, tuple[int, ...]],
    model: str,
    place: Callable[[np.ndarray], Any],
    others: Mapping[str, TensorSource] = MappingProxyType({}),
) -> Variables:
    """The variables of a model, one tensor at a time.

    Args:
        path: a file of ours.
        expected: path in the variables -> shape, of every parameter of the model.
        model: what messages call it, "an LSeg model".
        place: what to make of each array.
        others: parameters that are elsewhere.

    Raises:
        CheckpointError: the file is missing or broken, names are missing, not known or of another shape, or tensors
            hold NaN or infinities.
    """
    weights: dict[str, TensorSource] = {**open_safetensors(path), **others}
    try:
        check_names(weights, expected, model)
        check_shapes({name: tensor.shape for name, tensor in weights.items()}, expected)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    broken = Broken()
    flat = {name: place(broken.seen(name, tensor.read())) for name, tensor in weights.items()}
    broken.refuse(path)
    return unflatten(flat)


def save_safetensors(arrays: Mapping[str, np.ndarray], path: Path, destination: str | os.PathLike[str]) -> None:
    """Writes arrays, contiguous ones, to `path`; `destination` is what an error names.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        # The library writes mode 0600: restore the umask's.
        path.touch()
        mode = path.stat().st_mode
        save_file(dict(arrays), path)
        path.chmod(mode)
    except (SafetensorError, OSError) as error:  # the former is the library's word for a full disk, too
        raise StorageError(f"cannot write {os.fspath(destination)}: {error}") from error
