"""NumPy's archives of arrays (.npz): tensors read on demand, checksums verified, nothing unpickled.

NumPy's own reader allocates what an array's header claims before it looks for the data.
"""

import dataclasses
import io
import math
import os
from pathlib import Path

import numpy as np

from vlseg import file_formats
from vlseg.errors import CheckpointError
from vlseg.torch_files.tensors import Entry, read_head, zip_records

_LONGEST_HEADER = 1 << 16


@dataclasses.dataclass(frozen=True)
class NpzTensor:
    """One array of a file, still in it: its record, where its values start there, and whether Fortran laid them out."""

    shape: tuple[int, ...]
    dtype: np.dtype
    record: Entry
    start: int
    fortran: bool

    def read(self) -> np.ndarray:
        """Its values.

        Raises:
            CheckpointError: the file changed, is damaged or cannot be read.
        """
        values = self.record.read(self.start, self.record.size - self.start).view(self.dtype)
        return values.reshape(self.shape, order="F" if self.fortran else "C")


def open_npz(path: str | os.PathLike[str]) -> dict[str, NpzTensor]:
    """The arrays of a file by name; none is read yet.

    Raises:
        CheckpointError: it is missing, no such file, damaged, or holds arrays of Python objects.
    """
    if not os.path.lexists(path):
        raise CheckpointError(f"{os.fspath(path)} is missing")
    name = str(Path(path))
    try:
        head = read_head(name, 512)
        if not head.startswith(b"PK"):
            found = file_formats.format_of(head)
            raise CheckpointError(f"is no archive of arrays{f'; it is {found}' if found else ''}")
        return {entry.name.removesuffix(".npy"): _tensor(entry) for entry in zip_records(name)}
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be read: {str(error).removeprefix(name).lstrip(': ')}") from error


def _tensor(entry: Entry) -> NpzTensor:
    stream = io.BytesIO(entry.read(0, min(entry.size, _LONGEST_HEADER)).tobytes())
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    # Headers are Python's words, which fail in many ways.
    except Exception as error:
        raise CheckpointError(f"its {entry.name} is no array: {error}") from error
    if dtype.hasobject or dtype.itemsize == 0 or not all(type(length) is int and length >= 0 for length in shape):
        raise CheckpointError(f"its {entry.name} is an array of {dtype} and shape {shape}, which no weights are")
    if math.prod(shape) * dtype.itemsize != entry.size - stream.tell():
        raise CheckpointError(f"its {entry.name} has another size than its shape {shape} says")
    return NpzTensor(shape, dtype, entry, stream.tell(), fortran)
