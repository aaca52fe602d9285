"""Files that torch.save wrote before PyTorch 1.6, and does still with `_use_new_zipfile_serialization=False`.

One pickle comes after the other: a number that marks the format, its version, what the machine was, the object, and the
keys of its storages. Then each storage, in the order of the keys: its number of elements, int64, and its bytes. There
are no checksums.

Source of the format: PyTorch, torch/serialization.py.
"""

import os
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from vlseg.errors import CheckpointError
from vlseg.torch_files.names import STORAGE_DTYPES, Reference
from vlseg.torch_files.tensors import Entry, Storage, one_line
from vlseg.torch_files.unpickling import Machine

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How the first pickle ends."""

_VERSION = 1001
_MAX_PICKLED_BYTES = 64 << 20


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts so has this format."""
    return head.startswith(b"\x80") and MAGIC in head[:32]


def load(path: str) -> Any:
    """The object in the file, see `vlseg.torch_files.load`.

    Raises:
      CheckpointError: it is truncated or damaged, or names something that could run code.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            stream = _Pickles(file.read(_MAX_PICKLED_BYTES))
            if (stream.next(), stream.next()) != (int.from_bytes(MAGIC[2:-1], "little"), _VERSION):
                raise ValueError("a version of its format that no PyTorch writes")
            stream.next()  # what the machine was; whatever it was, PyTorch wrote the bytes of a little-endian one
            start, described = stream.position, _Described()
            stream.next(described.storage)
            placed = described.placed(path, file, size, stream.next(), stream)
            stream.position = start
            return stream.next(lambda identifier: _view(described.storage(identifier), identifier, placed))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    # A damaged pickle can fail at any instruction and with any error.
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged: its pickle holds {one_line(error)}") from error


class _Pickles:
    """The pickles at the beginning of a file; `position` is where the next one starts."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def next(self, storage: Callable[[Any], Any] | None = None) -> Any:
        """What the next one makes; only the object names storages."""
        machine = Machine(storage or _no_storage)
        value = machine.run(self._data, self.position)
        self.position = machine.end
        return value


def _no_storage(_: Any) -> Any:
    raise ValueError("a storage where none can be")


class _Described:
    """The storages that the object names, whose places in the file are known only after it."""

    def __init__(self) -> None:
        self._known: dict[str, Storage] = {}

    def storage(self, identifier: Any) -> Any:
        """What stands for a persistent identifier: a storage of that size somewhere, or the class of a module."""
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]  # and its source code
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise ValueError("a storage that is not described as PyTorch does")
        reference, key, count = identifier[1], identifier[2], identifier[4]
        if isinstance(reference, Reference) and re.fullmatch(r"torch\.(cuda\.)?Q\w{1,9}Storage", reference.name):
            raise CheckpointError("has quantised tensors, which are not read: save what their dequantize() gives")
        if not isinstance(reference, Reference) or reference.name not in STORAGE_DTYPES:
            raise ValueError("a storage of an unknown type")
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 60:
            raise ValueError("a storage that is not described as PyTorch does")
        dtype = STORAGE_DTYPES[reference.name]
        entry = Entry("", key, 0, count * dtype.itemsize, count * dtype.itemsize)
        found = self._known.setdefault(key, Storage(entry, dtype, count, "little"))
        if (found.dtype, found.count) != (dtype, count):
            raise ValueError("a storage that is described in two ways")
        return found

    def placed(self, path: str, file: Any, size: int, keys: Any, stream: _Pickles) -> Mapping[str, Storage]:
        """The same storages where they are, by key, from the list of keys that comes before them."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("keys of storages that are no texts")
        if len(set(keys)) < len(keys) or set(keys) != self._known.keys():
            raise ValueError("storages that nothing names, or names of storages that are not there")
        placed, position = {}, stream.position
        for key in keys:
            file.seek(position)
            (count,) = struct.unpack("<q", file.read(8))
            found = self._known[key]
            if count != found.count:
                raise ValueError("a storage of another size than the object says")
            entry = Entry(path, f"storage {key}", position + 8, found.entry.size, found.entry.size)
            position = entry.start + entry.size
            if position > size:
                raise CheckpointError(f"is truncated in its {entry.name}; get the file again")
            placed[key] = Storage(entry, found.dtype, count, "little")
        return placed


def _view(described: Any, identifier: Any, placed: Mapping[str, Storage]) -> Any:
    """A storage where it is, or the part of it that the identifier names, as PyTorch's first versions did."""
    if not isinstance(described, Storage):
        return described
    storage = placed[described.entry.name]
    view = identifier[5] if len(identifier) == 6 else None
    if view is None:
        return storage
    _, offset, count = view
    if not all(type(number) is int and 0 <= number <= storage.count for number in (offset, count)):
        raise ValueError("a part of a storage that reaches beyond it")
    if offset + count > storage.count:
        raise ValueError("a part of a storage that reaches beyond it")
    unit, entry = storage.dtype.itemsize, storage.entry
    part = Entry(entry.path, entry.name, entry.start + offset * unit, count * unit, count * unit)
    return Storage(part, storage.dtype, count, storage.byteorder)
