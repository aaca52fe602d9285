"""Archives from objects."""

import math
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from vlseg.errors import CheckpointError
from vlseg.files import PathLike, atomic_file
from vlseg.torch_files.tensors import STORAGES, LazyTensor, torch_dtype_name

_ALIGNMENT = 64
_ZIP64_FROM = 1 << 30
_ROOT = "archive"


def save(path: PathLike, obj: Any) -> None:
    """Writes `obj` as an archive that `torch.load(path, weights_only=True)` reads.

    Args:
      path: the file, written beside and renamed when it is complete.
      obj: nested dict, OrderedDict, list and tuple of str, int, float, bool, None, numpy scalars (which become
        Python's), numpy arrays and `LazyTensor`s. The same array object, or equal lazy tensors, in two places share one
        storage. Tensors go to the file one after the other.

    Raises:
      CheckpointError: `obj` holds something else, or a lazy tensor's file cannot be read.
      StorageError: the place is full, read-only or absent; nothing is left behind.
    """
    writer = _PickleWriter()
    try:
        writer.add(obj)
    except RecursionError:
        reason = "the object is nested too deeply or contains itself"
        raise CheckpointError(f"cannot save {os.fspath(path)}: {reason}") from None
    except CheckpointError as error:
        raise CheckpointError(f"cannot save {os.fspath(path)}: {error}") from None
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, file, "data.pkl", writer.finish())
        _write_record(archive, file, "byteorder", sys.byteorder.encode())
        for key, tensor in enumerate(writer.tensors):
            _write_record(archive, file, f"data/{key}", _raw(tensor))
        _write_record(archive, file, "version", b"3\n")


def _raw(tensor: np.ndarray | LazyTensor) -> memoryview:
    array = tensor.read() if isinstance(tensor, LazyTensor) else tensor
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return native.reshape(-1).view(np.uint8).data


def _write_record(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")
    zip64 = len(data) >= _ZIP64_FROM
    # An extra field fills the header up, so that memory-mapped tensors are aligned.
    header = 30 + len(info.filename) + (20 if zip64 else 0) + 4
    padding = -(file.tell() + header) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=zip64) as record:
        record.write(data)


class _PickleWriter:
    """Builds a pickle of protocol 2, instruction by instruction, and collects the tensors it names."""

    def __init__(self) -> None:
        self.tensors: list[np.ndarray | LazyTensor] = []
        self._keys: dict[Any, int] = {}
        self._parts: list[bytes] = [pickle.PROTO + b"\x02"]

    def finish(self) -> bytes:
        return b"".join([*self._parts, pickle.STOP])

    def add(self, *objects: Any) -> None:
        for obj in objects:
            self._add_one(obj)

    def _add_one(self, obj: Any) -> None:
        match obj:
            case None:
                self._emit(pickle.NONE)
            case bool():
                self._emit(pickle.NEWTRUE if obj else pickle.NEWFALSE)
            case int():
                self._add_integer(obj)
            case float():
                self._emit(pickle.BINFLOAT, struct.pack(">d", obj))
            case str():
                text = obj.encode("utf-8", "surrogatepass")
                self._emit(pickle.BINUNICODE, struct.pack("<I", len(text)), text)
            case OrderedDict():
                self._add_global("collections", "OrderedDict")
                self._emit(pickle.EMPTY_TUPLE, pickle.REDUCE)
                self._add_items(obj)
            case dict():
                self._emit(pickle.EMPTY_DICT)
                self._add_items(obj)
            case list():
                self._emit(pickle.EMPTY_LIST, pickle.MARK)
                self.add(*obj)
                self._emit(pickle.APPENDS)
            case tuple():
                self._emit(pickle.MARK)
                self.add(*obj)
                self._emit(pickle.TUPLE)
            case np.ndarray() | LazyTensor():
                self._add_tensor(obj)
            case np.generic() if isinstance(obj.item(), bool | int | float):
                self.add(obj.item())
            case _:
                raise CheckpointError(f"a {type(obj).__name__} is no array, text, number, list, tuple or dictionary")

    def _emit(self, *parts: bytes) -> None:
        self._parts.extend(parts)

    def _add_items(self, mapping: Mapping[Any, Any]) -> None:
        self._emit(pickle.MARK)
        for pair in mapping.items():
            self.add(*pair)
        self._emit(pickle.SETITEMS)

    def _add_integer(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._emit(pickle.BININT, struct.pack("<i", value))
            return
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) > 255:
            raise CheckpointError("an integer of more than 255 bytes")
        self._emit(pickle.LONG1, bytes([len(data)]), data)

    def _add_global(self, module: str, name: str) -> None:
        self._emit(pickle.GLOBAL, f"{module}\n{name}\n".encode())

    def _add_tensor(self, tensor: np.ndarray | LazyTensor) -> None:
        dtype_name = torch_dtype_name(tensor.dtype)
        storage = next((storage for storage, name in STORAGES.items() if name == dtype_name), None)
        self._add_global("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
        self._emit(pickle.MARK)
        self._add_storage(tensor, storage)
        stride = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        self.add(0, tensor.shape, stride, False, OrderedDict())
        if not storage:
            self._add_global("torch", dtype_name)
        self._emit(pickle.TUPLE, pickle.REDUCE)

    def _add_storage(self, tensor: np.ndarray | LazyTensor, storage: str | None) -> None:
        identity = tensor if isinstance(tensor, LazyTensor) else id(tensor)
        if identity not in self._keys:
            self._keys[identity] = len(self.tensors)
            self.tensors.append(tensor)
        count = math.prod(tensor.shape)
        self._emit(pickle.MARK)
        self.add("storage")
        if storage:
            self._add_global("torch", storage)
        else:
            self._add_global("torch.storage", "UntypedStorage")
            count *= tensor.dtype.itemsize
        self.add(str(self._keys[identity]), "cpu", count)
        self._emit(pickle.TUPLE, pickle.BINPERSID)
