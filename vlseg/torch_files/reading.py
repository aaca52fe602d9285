"""Objects and state dicts from archives."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from vlseg.errors import CheckpointError
from vlseg.files import PathLike
from vlseg.torch_files import legacy
from vlseg.torch_files.names import STORAGE_DTYPES, Record, Reference
from vlseg.torch_files.tensors import Entry, LazyTensor, Storage, elements, one_line, open_archive, read_head
from vlseg.torch_files.unpickling import Machine

STATE_KEYS = ("model", "state_dict", "model_state_dict", "state_dict_ema", "model_ema", "ema", "module")
"""Where training code keeps a state dict; "module" is DeepSpeed's."""

_MAX_PICKLE_BYTES = 256 << 20
_MAX_INFLATED, _MAX_INFLATION = 1 << 24, 20
"""Bytes of a pickle that may be compressed as well as it can be, and how well larger ones may be."""

_MAX_NESTED_MODULES, _LONGEST_NAME = 100, 1000
_MAX_SHARED, _FREE_BYTES = 16, 1 << 20
"""How often the tensors of a state dict may use the bytes of the file, on average, and what is allowed besides."""

_MOST_ENTRIES = 200
"""Of a file, that are looked into for other tensors than the state dict's."""

_UNINITIALIZED = "UninitializedParameter"
_NOT_DENSE = {
    "_rebuild_qtensor": ("quantised", "what its dequantize() gives"),
    "_rebuild_sparse_tensor": ("sparse", "what its to_dense() gives"),
    "_rebuild_sparse_csr_tensor": ("sparse", "what its to_dense() gives"),
    "_rebuild_nested_tensor": ("nested", "its parts"),
    "_rebuild_meta_tensor_no_storage": ("on the device meta and has no values", "the trained one"),
    "_rebuild_device_tensor_from_numpy": ("of a device such as a TPU", "what its cpu() gives"),
    "_rebuild_tensor_v2": ("conjugated or negated on reading", "what its resolve_conj().resolve_neg() gives"),
    "_rebuild_tensor_v3": ("conjugated or negated on reading", "what its resolve_conj().resolve_neg() gives"),
    _UNINITIALIZED: ("not initialised", "the trained one"),
}
"""What PyTorch makes tensors with that are no plain blocks of numbers: what these are, and what to save instead."""

_OF_PROGRAMS = "constants.pkl"
"""A record that only TorchScript programs have."""


class Weights(NamedTuple):
    """The tensors of a file by name. `beside`: its other entries with tensors, such as an optimizer's state."""

    tensors: dict[str, LazyTensor]
    beside: tuple[str, ...] = ()


def load(path: PathLike) -> Any:
    """The object in a PyTorch file; tensors and parameters come as `LazyTensor`.

    Dictionaries, lists, tuples, sets, texts, numbers and numpy arrays are what they were; a `torch.Size` is a tuple, a
    `torch.device` a text, a dtype a numpy dtype, a bare storage a `Storage`, a class a `Reference`, and objects of all
    other classes (argparse.Namespace, omegaconf, Lightning, one's own, ...) are inert `Record`s. Nothing in the file is
    imported or run.

    Raises:
      CheckpointError: no such file, not of PyTorch, truncated, damaged, or naming something that could run code; or it
        is a TorchScript program, of which only `load_state_dict` reads the tensors.
    """
    path = os.fspath(path)
    if legacy.is_legacy(read_head(path, 512)):
        return legacy.load(path)
    records = open_archive(path)
    if _OF_PROGRAMS in records:
        raise CheckpointError(
            f"{path} is a TorchScript program; save its state_dict() with torch.save and use that file"
        )
    return _unpickled(path, records)


def load_plain(data: bytes) -> Any:
    """What a pickle of texts, numbers and collections of these makes, without a file of PyTorch around it.

    Raises:
      CheckpointError: it is damaged, or names a class or function; the message goes on after "it".
    """

    def refuse(module: str, name: str) -> None:
        raise CheckpointError(f"asks for {module}.{name}")

    def no_storage(_: Any) -> None:
        raise ValueError("a tensor")

    try:
        return Machine(no_storage, refuse).run(data)
    except CheckpointError:
        raise
    # A damaged pickle can fail at any instruction and with any error.
    except Exception as error:
        raise CheckpointError(f"is damaged or no pickle: it holds {one_line(error)}") from error


def _unpickled(path: str, records: Mapping[str, Entry]) -> Any:
    byteorder = _byteorder(path, records)
    pickled = records["data.pkl"]
    if pickled.size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: its data.pkl claims {pickled.size} bytes, which no checkpoint needs")
    if pickled.size > _MAX_INFLATED + _MAX_INFLATION * pickled.stored_bytes:
        raise CheckpointError(
            f"{path}: its data.pkl would grow from {pickled.stored_bytes} to {pickled.size} bytes, which no checkpoint "
            "needs"
        )
    data = pickled.read(0, pickled.size).tobytes()
    try:
        return Machine(lambda identifier: _storage(identifier, records, byteorder)).run(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {one_line(error)}") from None
    # A damaged pickle can fail at any instruction and with any error.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: its pickle holds {one_line(error)}") from error


def load_state_dict(path: PathLike, keys: Sequence[str] = STATE_KEYS) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by name, see `load_weights`."""
    return load_weights(path, keys).tensors


def load_weights(path: PathLike, keys: Sequence[str] = STATE_KEYS) -> Weights:
    """The tensors of a checkpoint, and what it holds besides.

    Args:
      path: a PyTorch file.
      keys: where the state dict may be: under the first of these, and then of `STATE_KEYS`, that the top-level
        dictionary has and that holds tensors, there or again under one of them; else the top-level dictionary itself,
        if it holds tensors. Its entries that are not tensors are left out. Of a TorchScript program, and of a module
        that was saved whole, it is the tensors of the modules, by the same names as in their state dict.

    Raises:
      CheckpointError: as in `load`, or there is no state dict.
    """
    path = os.fspath(path)
    if legacy.is_legacy(read_head(path, 512)):
        top = legacy.load(path)
    else:
        records = open_archive(path)
        top = _unpickled(path, records)
        if _OF_PROGRAMS in records and isinstance(top, Record):
            top = _module_tensors(path, top)
    if isinstance(top, Record) and _is_module(top):
        top = _module_tensors(path, top)
    if not isinstance(top, Mapping):
        raise CheckpointError(
            f"{path} holds a {_type_name(top)}, not a dictionary of tensors; torch.save a state_dict()"
        )
    keys = tuple(dict.fromkeys((*keys, *STATE_KEYS)))
    found, within = _state_dict(path, top, keys)
    if not found:
        names = ", ".join(repr(key) if isinstance(key, str) else _type_name(key) for key in list(top)[:20]) or "nothing"
        raise CheckpointError(
            f"{path} has no state dict of tensors under {' or '.join(keys)}; its top-level keys: {names}"
        )
    _check_size(path, found)
    others = (item for item in islice(top.items(), _MOST_ENTRIES) if within and item[0] != within)
    return Weights(found, tuple(key for key, value in others if isinstance(key, str) and _holds_tensors(value)))


def _state_dict(
    path: str, top: Mapping[Any, Any], keys: Sequence[str], again: bool = True
) -> tuple[dict[str, LazyTensor], str]:
    """The first state dict, and the key that it is under, "" if that is none."""
    for key in keys:
        value = top.get(key)
        if isinstance(value, Record) and _is_module(value):
            value = _module_tensors(path, value)
        if not isinstance(value, Mapping):
            continue
        found = _tensors_of(path, value)
        if not found and again:
            found, _ = _state_dict(path, value, keys, again=False)
        if found:
            return found, key
    return (_tensors_of(path, top), "") if again else ({}, "")


def _tensors_of(path: str, items: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    for name, value in items.items():
        _check_dense(path, name, value)
    return {name: value for name, value in items.items() if isinstance(name, str) and isinstance(value, LazyTensor)}


def _check_dense(path: str, name: Any, value: Any) -> None:
    """Raises CheckpointError for a tensor that is no plain block of numbers, so that none is left out unnoticed."""
    kind = value.name.rpartition(".")[2] if isinstance(value, Record) else ""
    if kind == _UNINITIALIZED or kind.startswith("_rebuild_"):
        what, instead = _NOT_DENSE.get(kind, ("of an unknown kind", "a plain tensor"))
        raise CheckpointError(f"{path}: its tensor {name!r} is {what}, which is not read: save {instead} in its place")


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    """Whether tensors are among the first things in a value, or in those of these: an optimizer has its four deep."""
    if isinstance(value, Mapping | list | tuple) and depth:
        inner = value.values() if isinstance(value, Mapping) else value
        return any(isinstance(item, LazyTensor) or _holds_tensors(item, depth - 1) for item in islice(inner, 5))
    return isinstance(value, Record) and _is_module(value)


def _check_size(path: str, tensors: Mapping[str, LazyTensor]) -> None:
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > _FREE_BYTES + _MAX_SHARED * sum(
        {tensor.storage.entry: tensor.storage.entry.size for tensor in tensors.values()}.values()
    ):
        raise CheckpointError(f"{path} is no checkpoint: its tensors would grow to {total} bytes")


def _is_module(record: Record) -> bool:
    """Whether it is a torch.nn.Module that was saved whole."""
    return isinstance(record.state, Mapping) and {"_parameters", "_modules"} <= record.state.keys()


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
        for name, value in _attributes(module):
            if isinstance(value, LazyTensor):
                tensors[f"{prefix}{name}"] = value
                continue
            _check_dense(path, f"{prefix}{name}", value)
            if isinstance(value, Record) and id(value) not in seen:
                seen.add(id(value))
                modules.append((f"{prefix}{name}.", value))
    return tensors


def _attributes(module: Record) -> Iterator[tuple[str, Any]]:
    """What a module of either kind consists of: parameters, buffers and modules by their names."""
    state = module.state if isinstance(module.state, Mapping) else {}
    parts = [state.get(part) for part in ("_parameters", "_buffers", "_modules")] if _is_module(module) else [state]
    for part in parts:
        for name, value in part.items() if isinstance(part, Mapping) else ():
            if isinstance(name, str):
                yield name[:_LONGEST_NAME], value


def _type_name(value: Any) -> str:
    if isinstance(value, LazyTensor):
        return "single tensor"
    return value.name if isinstance(value, Record | Reference) else type(value).__name__


def _byteorder(path: str, records: Mapping[str, Entry]) -> str:
    if "byteorder" not in records:
        return "little"  # archives from before the record existed
    order = records["byteorder"].read(0, min(records["byteorder"].size, 16)).tobytes()
    if order not in (b"little", b"big"):
        raise CheckpointError(f"{path} is damaged: its byte order is neither little nor big; get the file again")
    return order.decode()


def _storage(identifier: Any, records: Mapping[str, Entry], byteorder: str) -> Any:
    kind, reference, key, _, count = elements(identifier)
    named = isinstance(kind, str) and kind == "storage" and isinstance(reference, Reference)
    if not named or not isinstance(key, str | int) or type(count) is not int or not 0 <= count < 1 << 60:
        raise ValueError("a storage that is not described as PyTorch does")
    if reference.name not in STORAGE_DTYPES:
        return Record(reference.name, (key, _, count))
    entry = records.get(f"data/{key}"[:_LONGEST_NAME])
    if entry is None:
        raise CheckpointError(f"is incomplete: it has no record data/{key}; get the file again")
    dtype = STORAGE_DTYPES[reference.name]
    if count * dtype.itemsize > entry.size:
        raise CheckpointError(f"is damaged: its record data/{key} is too short; get the file again")
    return Storage(entry, dtype, count, byteorder)
