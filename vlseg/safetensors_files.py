"""Safetensors files: tensors read on demand, and written with our errors."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vlseg import file_formats, files
from vlseg.checkpoints.rules import Broken, TensorSource, Variables, check_dtypes, check_names, check_shapes, unflatten
from vlseg.errors import CheckpointError, StorageError

# fmt: off
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}
# fmt: on
"""numpy's names, ml_dtypes' among them, of the format's data types."""


class SafetensorsTensor(NamedTuple):
    """One tensor of a safetensors file, read on demand. `kind` is its data type by the format's name."""

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def dtype(self) -> np.dtype | str:
        return np.dtype(_DTYPES[self.kind]) if self.kind in _DTYPES else self.kind

    def read(self) -> np.ndarray:
        """Its values.

        Raises:
            CheckpointError: the file changed or cannot be read any more, or numpy has no such data type.
        """
        try:
            with safe_open(self.path, framework="numpy") as file:
                return file.get_tensor(self.name)
        # The library answers data types that numpy lacks with AttributeError, and absurd shapes with ValueError.
        except (SafetensorError, OSError, AttributeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} cannot be read: its {self.name} of type {self.kind} and shape {list(self.shape)[:8]}: "
                f"{error}"
            ) from error


def open_safetensors(path: str | os.PathLike[str]) -> dict[str, SafetensorsTensor]:
    """The tensors of a file by name; none is read yet.

    Raises:
        CheckpointError: it is missing or no safetensors file.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise CheckpointError(f"{path} is missing")
    try:
        files.check_regular(path, CheckpointError)
        with open(path, "rb") as file:
            head = file.read(512)
        if kind := files.kind_of(head):
            raise CheckpointError(f"{path}: is {kind}")
        if not head[8:].startswith(b"{") and (kind := file_formats.format_of(head)):
            raise CheckpointError(f"{path}: is no safetensors file; it is {kind}")
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).removeprefix(f'{path}: ')}") from error
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            tensors = {
                name: SafetensorsTensor(path, name, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
        _check_names_once(path)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _check_names_once(path: Path) -> None:
    """Raises ValueError if two tensors have one name, of which the library shows the last."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"its header says twice what {max(names, key=names.count)} is")

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=once)


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
        CheckpointError: the file is missing or broken; names are missing, not known, of another shape or no floats; or
            tensors hold NaN or infinities.
    """
    weights: dict[str, TensorSource] = {**open_safetensors(path), **others}
    try:
        check_names(weights, expected, model)
        check_shapes({name: tensor.shape for name, tensor in weights.items()}, expected)
        check_dtypes(weights, expected)
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
