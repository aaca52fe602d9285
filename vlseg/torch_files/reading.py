"""Objects and state dicts from archives."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vlseg.errors import CheckpointError
from vlseg.files import PathLike
from vlseg.torch_files.names import STORAGE_DTYPES, Record, Reference
from vlseg.torch_files.tensors import Entry, LazyTensor, Storage, one_line, open_archive
from vlseg.torch_files.unpickling import Machine

_MAX_PICKLE_BYTES = 1 << 30
_MAX_NESTED_MODULES = 100
_OF_PROGRAMS = "constants.pkl"
"""A record that only TorchScript programs have."""


def load(path: PathLike) -> Any:
    """The object in a PyTorch archive; tensors and parameters come as `LazyTensor`.

    Dictionaries, lists, tuples, sets, texts, numbers and numpy arrays are what they were; a `torch.Size` is a tuple, a
    `torch.device` a text, a dtype a numpy dtype, a bare storage a `Storage`, a class a `Reference`, and objects of
    classes that checkpoints are known to contain (argparse.Namespace, omegaconf, fairseq, Lightning, ...) are inert
    `Record`s. Nothing in the file is imported or run.

    Raises:
      CheckpointError: no such file, not an archive of PyTorch >= 1.6, truncated, damaged, or naming something that
        could run code; or it is a TorchScript program, of which only `load_state_dict` reads the tensors.
    """
    path = os.fspath(path)
    records = open_archive(path)
    if _OF_PROGRAMS in records:
        raise CheckpointError(
            f"{path} is a TorchScript program; save its state_dict() with torch.save and use that file"
        )
    return _unpickled(path, records)


def _unpickled(path: str, records: Mapping[str, Entry]) -> Any:
    byteorder = _byteorder(path, records)
    pickled = records["data.pkl"]
    if pickled.size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: its data.pkl claims {pickled.size} bytes, which no checkpoint needs")
    data = pickled.read(0, pickled.size).tobytes()
    try:
        return Machine(lambda identifier: _storage(identifier, records, byteorder)).run(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {one_line(error)}") from None
    # A damaged pickle can fail at any instruction and with any error.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: its pickle holds {one_line(error)}") from error


def load_state_dict(path: PathLike, keys: Sequence[str] = ("model", "state_dict")) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by name.

    Args:
      path: a PyTorch archive.
      keys: where the state dict may be: under the first of these that the top-level dictionary has; else the top-level
        dictionary itself, if it holds tensors. Its entries that are not tensors are left out. Of a TorchScript
        program it is the tensors of its modules, by the same names as in the state dict that it was made of.

    Raises:
      CheckpointError: as in `load`, or there is no state dict.
    """
    path = os.fspath(path)
    records = open_archive(path)
    top = _unpickled(path, records)
    if _OF_PROGRAMS in records and isinstance(top, Record):
        top = _module_tensors(path, top)
    if not isinstance(top, Mapping):
        raise CheckpointError(
            f"{path} holds a {_type_name(top)}, not a dictionary of tensors; torch.save a state_dict()"
        )
    found = next((top[key] for key in keys if key in top), top)
    items = found.items() if isinstance(found, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, LazyTensor)}
    if not tensors:
        names = ", ".join(repr(key) if isinstance(key, str) else _type_name(key) for key in list(top)[:20]) or "nothing"
        raise CheckpointError(
            f"{path} has no state dict of tensors under {' or '.join(keys)}; its top-level keys: {names}"
        )
    return tensors


def _module_tensors(path: str, program: Record) -> dict[str, LazyTensor]:
    """The tensors of nested modules by their names joined with dots; a module in several places has one of its names.

    Source: PyTorch, torch/csrc/jit/serialization/pickler.cpp (a module is an object whose state is its attributes).
    """
    tensors: dict[str, LazyTensor] = {}
    modules, seen = [("", program)], {id(program)}  # as a shared or circular one must not be entered again
    while modules:
        prefix, module = modules.pop()
        if prefix.count(".") > _MAX_NESTED_MODULES:
            raise CheckpointError(f"{path} is damaged: its modules are nested too deeply")
        for name, value in module.state.items() if isinstance(module.state, Mapping) else ():
            if isinstance(value, LazyTensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, Record) and id(value) not in seen:
                seen.add(id(value))
                modules.append((f"{prefix}{name}.", value))
    return tensors


def _type_name(value: Any) -> str:
    return value.name if isinstance(value, Record | Reference) else type(value).__name__


def _byteorder(path: str, records: Mapping[str, Entry]) -> str:
    if "byteorder" not in records:
        return "little"  # archives from before the record existed
    order = records["byteorder"].read(0, min(records["byteorder"].size, 16)).tobytes()
    if order not in (b"little", b"big"):
        raise CheckpointError(f"{path} is damaged: its byte order is neither little nor big; get the file again")
    return order.decode()


def _storage(identifier: Any, records: Mapping[str, Entry], byteorder: str) -> Any:
    kind, reference, key, _, count = identifier
    if kind != "storage" or not isinstance(reference, Reference) or type(count) is not int or count < 0:
        raise ValueError("a storage that is not described as PyTorch does")
    if reference.name not in STORAGE_DTYPES:
        return Record(reference.name, tuple(identifier[2:]))
    entry = records.get(f"data/{key}")
    if entry is None:
        raise CheckpointError(f"is incomplete: it has no record data/{key}; get the file again")
    dtype = STORAGE_DTYPES[reference.name]
    if count * dtype.itemsize > entry.size:
        raise CheckpointError(f"is damaged: its record data/{key} is too short; get the file again")
    return Storage(entry, dtype, count, byteorder)
