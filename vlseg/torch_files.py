"""PyTorch's zip archives (`torch.save` since 1.6), read and written without PyTorch.

An archive `NAME/` holds a pickle `data.pkl`, in which a tensor names a storage, and one uncompressed record `data/KEY`
for every storage. The pickle is not given to Python's own unpickler, which would run whatever the file asks for: its
instructions are carried out here, one by one, and the only things they can name are those of two tables: `_LIVE`, with
our own stand-in for each, and `_INERT_MODULES`, whose classes become records that never do anything. Tensors stay in
the file until they are read, one at a time.

Source of the format: PyTorch, torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

import dataclasses
import io
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vlseg.errors import CheckpointError
from vlseg.files import PathLike, atomic_file

_ALIGNMENT = 64
_CHUNK = 1 << 20
_MAX_PICKLE_BYTES = 1 << 30
_MAX_EXPANDED_ELEMENTS = 1 << 28
_ZIP64_FROM = 1 << 30
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ROOT = "archive"

_DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "int32": np.dtype(np.int32),
    "uint32": np.dtype(np.uint32),
    "int64": np.dtype(np.int64),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_DTYPE_ALIASES = {
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "cfloat": "complex64",
    "cdouble": "complex128",
}
_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


# ---------------------------------------------------------------------------------------------------------------------
# Records of the zip archive


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of an archive: where its bytes are in the file. `crc32` is 0 if the writer did not compute it."""

    path: str
    name: str
    start: int
    stored_bytes: int
    size: int
    deflated: bool
    crc32: int

    def read(self, start: int, length: int) -> np.ndarray:
        """Bytes [start, start + length) of the uncompressed record, as uint8 [length].

        Raises:
          CheckpointError: the file changed, is truncated, damaged or cannot be read.
        """
        if start + length > self.size:
            raise CheckpointError(f"{self.path} is damaged: its record {self.name!r} is too short; get the file again")
        try:
            data = np.empty(length, np.uint8)
            with open(self.path, "rb") as file:
                complete = self._inflate(file, start, data) if self.deflated else self._copy(file, start, data)
        except (OSError, zlib.error, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read its record {self.name!r}: {_one_line(error)}") from error
        if not complete:
            raise CheckpointError(f"{self.path} is truncated in its record {self.name!r}; get the file again")
        if length == self.size and self.crc32 and zlib.crc32(data.data) != self.crc32:
            raise CheckpointError(f"{self.path} is damaged: checksum of its record {self.name!r}; get the file again")
        return data

    def _copy(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start + start)
        return file.readinto(data.data) == len(data)

    def _inflate(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        remaining, position, end = self.stored_bytes, 0, start + len(data)
        pending = b""
        while position < end:
            if not pending and remaining:
                pending = file.read(min(_CHUNK, remaining))
                remaining -= len(pending)
            plain = decoder.decompress(pending, _CHUNK)
            pending = decoder.unconsumed_tail
            if not plain and not pending and (decoder.eof or not remaining):
                return False
            low, high = max(position, start), min(position + len(plain), end)
            if low < high:
                data[low - start : high - start] = np.frombuffer(plain, np.uint8)[low - position : high - position]
            position += len(plain)
        return True


def _open_archive(path: str) -> dict[str, Entry]:
    """The records of the archive by their names within it ("data.pkl", "data/0", ...)."""
    try:
        if os.path.isdir(path):
            raise CheckpointError(f"{path} is a directory; name the checkpoint file in it")
        with open(path, "rb") as file:
            _check_kind(path, file.read(len(_LEGACY_MAGIC)))
            with zipfile.ZipFile(file) as archive:
                entries = [_entry(path, file, info) for info in archive.infolist() if not info.is_dir()]
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {_one_line(error)}") from error
    # zipfile answers a damaged directory with errors of many classes.
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged ({_one_line(error)}); get the file again") from error
    roots = [entry.name.removesuffix("data.pkl") for entry in entries if entry.name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise CheckpointError(f"{path} is not a PyTorch zip archive: it has no record data.pkl")
    records = {entry.name.removeprefix(roots[0]): entry for entry in entries if entry.name.startswith(roots[0])}
    if "constants.pkl" in records:
        raise CheckpointError(
            f"{path} is a TorchScript program; save its state_dict() with torch.save and use that file"
        )
    return records


def _check_kind(path: str, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty; get the file again")
    if head.startswith(_LEGACY_MAGIC):
        raise CheckpointError(
            f"{path} has PyTorch's old format from before 1.6; load it in any PyTorch >= 1.6 and torch.save it again"
        )
    if not head.startswith(b"PK"):
        raise CheckpointError(f"{path} is not a PyTorch zip archive")


def _entry(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{path}: its record {info.filename!r} is encrypted or compressed in an unknown way")
    file.seek(info.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    start = info.header_offset + 30 + name_length + extra_length
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    end = start + info.compress_size
    if signature != b"PK\x03\x04" or end > os.fstat(file.fileno()).st_size:
        raise CheckpointError(f"{path} is truncated or damaged at its record {info.filename!r}; get the file again")
    if not deflated and info.compress_size != info.file_size:
        raise CheckpointError(f"{path} is damaged at its record {info.filename!r}; get the file again")
    return Entry(path, info.filename, start, info.compress_size, info.file_size, deflated, info.CRC)


# ---------------------------------------------------------------------------------------------------------------------
# Storages and tensors


@dataclasses.dataclass(frozen=True)
class Storage:
    """`count` elements of type `dtype` in a record, of the given byte order ("little" or "big")."""

    entry: Entry
    dtype: np.dtype
    count: int
    byteorder: str


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in its file: `shape`, `dtype` (bfloat16 and float8 are those of ml_dtypes) and `read()`.

    `offset` and `stride` count elements of `dtype` in the storage. Two tensors are equal if they are the same view of
    the same storage.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    storage: Storage
    offset: int
    stride: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The values, a new array [*shape] in C order and native byte order. Reads only this tensor's part of the file.

        Raises:
          CheckpointError: the file changed, is truncated, damaged or cannot be read.
        """
        size = self.dtype.itemsize
        data = self.storage.entry.read(self.offset * size, _extent(self.shape, self.stride) * size)
        if self.storage.byteorder != sys.byteorder:
            unit = size // 2 if self.dtype.kind == "c" else size
            data.view(np.dtype(f"u{unit}")).byteswap(inplace=True)
        strides = [size * step for step in self.stride]
        try:
            return np.asarray(np.ndarray(self.shape, self.dtype, data.data, strides=strides), order="C")
        except MemoryError as error:
            raise CheckpointError(f"{self.storage.entry.path}: {_one_line(error)}") from error


def _extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many elements lie between the first and the last of a view, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))


def _tensor(storage: Any, dtype: np.dtype, offset: Any, shape: Any, stride: Any) -> LazyTensor:
    shape, stride = tuple(_elements(shape)), tuple(_elements(stride))
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a negative or fractional size, stride or offset")
    if len(shape) != len(stride) or len(shape) > 32:
        raise ValueError(f"a tensor of {len(shape)} dimensions with {len(stride)} strides")
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    if offset + _extent(shape, stride) > available:
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {available} elements")
    # Views may repeat elements (stride 0), so a few bytes in the file can claim any amount of memory.
    if math.prod(max(length, 1) for length in shape) > max(available, _MAX_EXPANDED_ELEMENTS):
        raise ValueError(f"a tensor of shape {shape} on a storage of only {available} elements")
    return LazyTensor(shape, dtype, storage, offset, stride)


# ---------------------------------------------------------------------------------------------------------------------
# What a pickle may name


@dataclasses.dataclass(frozen=True)
class Reference:
    """A class or function that a pickle names, without the thing itself. `make` is our stand-in for calling it; without
    one, the call gives a `Record`.
    """

    name: str
    make: Callable[..., Any] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(eq=False)
class Record:
    """What a pickle says about an object whose class is not ours to run: the name, and what it was to be filled with.

    Attributes:
      name: the class or function, "module.name".
      args, kwargs: what it was to be called with.
      state: what was to be its `__dict__` (or the argument of its `__setstate__`); None if nothing was.
      items: elements appended or added, and (key, value) pairs set.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: Any = None
    items: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class _NumpyDtype:
    """A numpy type whose byte order is still to come; replaced by the type itself when it does."""

    code: str


@dataclasses.dataclass(eq=False)
class _NumpyArray:
    """An array whose content is still to come; replaced by the array itself when it does."""


def _built_dtype(code: str, state: Any) -> Any:
    if not re.fullmatch(r"[biufcSU]\d{0,6}", code):
        return Record("numpy.dtype", (code,), state=state)
    return np.dtype(code).newbyteorder(">" if state[1] == ">" else "<")


def _built_array(state: Any) -> Any:
    _, shape, dtype, fortran, content = state
    return _make_numpy_buffer(content, dtype, shape, "F" if fortran else "C")


def _make_numpy_scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype):
        return Record("numpy.scalar", (dtype, data))
    return np.frombuffer(data, dtype, count=1)[0]


def _make_numpy_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, np.dtype):
        return Record("numpy.ndarray", (data, dtype, shape))  # objects, or fields
    flat = np.frombuffer(data, dtype)
    return flat.reshape(_elements(shape), order="F" if order == "F" else "C").copy()


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    # rest: requires_grad, backward_hooks, metadata. The metadata marks lazy conjugation and negation.
    if len(rest) > 2 and rest[2]:
        return Record("torch._utils._rebuild_tensor_v2", (storage, offset, shape, stride, *rest))
    if not isinstance(storage, Storage):
        raise ValueError("a tensor on a storage of an unknown type")
    return _tensor(storage, storage.dtype, offset, shape, stride)


def _make_typed_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    # rest: requires_grad, backward_hooks, dtype, metadata. Newer element types have no storage class: the storage
    # counts bytes, and the tensor says what they are.
    if not isinstance(storage, Storage):
        raise ValueError("a tensor on a storage of an unknown type")
    if not isinstance(rest[2], np.dtype) or any(rest[3:]):
        return Record("torch._utils._rebuild_tensor_v3", (storage, offset, shape, stride, *rest))
    return _tensor(storage, rest[2], offset, shape, stride)


def _make_parameter(data: Any, *_: Any) -> Any:
    return data


def _make_from_type(rebuild: Any, _type: Any, args: Any, *_: Any) -> Any:
    return _call(rebuild, args)


def _make_device(kind: Any, index: Any = None) -> str:
    return str(kind) if index is None else f"{kind}:{index}"


def _make_encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("bytes in an unknown encoding")
    return str.encode(text, encoding)


def _make_reconstructed(kind: Any, _base: Any, state: Any = None) -> Any:
    return _call(kind, () if state is None else (state,))


def _make_ordered_dict(*args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(_checked_items(*args))


def _checked_items(pairs: Any = ()) -> Iterable[tuple[Any, Any]]:
    for key, value in pairs.items() if isinstance(pairs, dict) else _elements(pairs):
        yield _checked_key(key), value


def _elements(values: Any) -> Any:
    # Python would take a range as well, which can ask for any amount of memory.
    if not isinstance(values, list | tuple | set | frozenset | dict):
        raise ValueError("a collection made from something that is no collection")
    return values


def _checked_key(key: Any, depth: int = 2) -> Any:
    # Hashing nested tuples is recursive and repeats shared parts, so deep ones could crash or stall Python.
    if isinstance(key, tuple | frozenset):
        if depth == 0:
            raise ValueError("a dictionary key that is nested too deeply")
        for part in key:
            _checked_key(part, depth - 1)
    return key


def _number(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(*values: Any) -> Any:
        if not all(isinstance(value, int | float | str) for value in values):
            raise ValueError("a number made from something that is no number")
        return kind(*values)

    return make


def _make_bytes(*args: Any) -> bytes:
    # bytes(n) would be n zeros, as many as the file likes.
    if not args:
        return b""
    if isinstance(args[0], str):
        return _make_encoded(*args)
    return bytes(memoryview(args[0]))


def _make_text(value: Any = "") -> str:
    if not isinstance(value, str | int | float):
        raise ValueError("a text made from something that is no text")
    return str(value)


def _live_table() -> dict[str, Any]:
    table: dict[str, Any] = {f"torch.{name}": dtype for name, dtype in _DTYPES.items()}
    table |= {f"torch.{alias}": _DTYPES[name] for alias, name in _DTYPE_ALIASES.items()}
    makers: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _make_ordered_dict,
        "torch._utils._rebuild_tensor": _make_tensor,
        "torch._utils._rebuild_tensor_v2": _make_tensor,
        "torch._utils._rebuild_tensor_v3": _make_typed_tensor,
        "torch._utils._rebuild_parameter": _make_parameter,
        "torch._utils._rebuild_parameter_with_state": _make_parameter,
        "torch._tensor._rebuild_from_type_v2": _make_from_type,
        "torch.Size": lambda values=(): tuple(_elements(values)),
        "torch.device": _make_device,
        "numpy.dtype": lambda code, *_: _NumpyDtype(code),
        "_codecs.encode": _make_encoded,
        "copyreg._reconstructor": _make_reconstructed,
        "builtins.set": lambda values=(): {_checked_key(value) for value in _elements(values)},
        "builtins.frozenset": lambda values=(): frozenset(_checked_key(value) for value in _elements(values)),
        "builtins.slice": slice,
        "builtins.range": _number(range),
        "builtins.complex": _number(complex),
        "builtins.bytes": _make_bytes,
        "builtins.bytearray": lambda *args: bytearray(_make_bytes(*args)),
        "builtins.int": _number(int),
        "builtins.float": _number(float),
        "builtins.bool": _number(bool),
        "builtins.str": _make_text,
        "builtins.list": lambda values=(): list(_elements(values)),
        "builtins.tuple": lambda values=(): tuple(_elements(values)),
        "builtins.dict": lambda *args: dict(_checked_items(*args)),
    }
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray.scalar"] = _make_numpy_scalar
        makers[f"{core}.multiarray._reconstruct"] = lambda *_: _NumpyArray()
        makers[f"{core}.numeric._frombuffer"] = _make_numpy_buffer
    table |= {name: Reference(name, make) for name, make in makers.items()}
    table["numpy.ndarray"] = Reference("numpy.ndarray")
    return table


_LIVE = _live_table()
_STORAGE_DTYPES = {
    f"{module}.{storage}": _DTYPES[name]
    for module in ("torch", "torch.cuda", "torch.storage")
    for storage, name in (*_STORAGES.items(), ("UntypedStorage", "uint8"))
}
# Python 3 writes these under their Python 2 names in the pickles of protocol 2 that torch.save makes.
_RENAMED = {
    "builtins.unicode": "builtins.str",
    "builtins.long": "builtins.int",
    "builtins.xrange": "builtins.range",
}
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
# Where the classes come from that training frameworks leave in checkpoints: settings, callbacks, schedules, meters.
# fmt: off
_INERT_MODULES = frozenset({
    "argparse", "criterions", "data", "datetime", "enum", "fairseq", "lightning", "lightning_fabric",
    "lightning_utilities", "ml_collections", "mmcv", "mmengine", "mmseg", "models", "modules", "numpy",
    "omegaconf", "pathlib", "pytorch_lightning", "tasks", "torch", "torchmetrics", "torchvision", "typing",
    "utils", "uuid",
})
# fmt: on
_INERT_NAMES = frozenset({"collections.defaultdict", "collections.Counter", "collections.deque"})


def _resolve(module: str, name: str) -> Any:
    module = _RENAMED_MODULES.get(module, module)
    full = f"{module}.{name}"
    full = _RENAMED.get(full, full)
    if full in _LIVE:
        return _LIVE[full]
    if full in _INERT_NAMES or module.split(".")[0] in _INERT_MODULES:
        return Reference(full)
    raise CheckpointError(f"refuses to load: its pickle calls {full}, which could run code")


def _call(target: Any, args: Any, kwargs: Any = None) -> Any:
    if not isinstance(target, Reference):
        raise ValueError("a call of something that is not a class")
    if target.make is None:
        return Record(target.name, tuple(_elements(args)), kwargs or {})
    if kwargs:
        raise ValueError(f"a call of {target.name} with named arguments")
    return target.make(*_elements(args))


# ---------------------------------------------------------------------------------------------------------------------
# The pickle

# fmt: off
_VALUE_OPCODES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})
# fmt: on


class _Machine:
    """Carries out a pickle's instructions on a stack; `_resolve` and `_call` stand in for importing and calling.

    Sources: Python's pickletools (the instructions) and pickle (what they mean).
    """

    def __init__(self, storage: Callable[[Any], Any]) -> None:
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("a pickle without an end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case _ if name in _VALUE_OPCODES:
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._pop_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._pop_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                values = self._pop_mark()
                stack.append({})
                self._set_items(stack[-1], values)
            case "EMPTY_SET":
                stack.append(set())
            case "FROZENSET":
                stack.append(frozenset(_checked_key(value) for value in self._pop_mark()))
            case "APPEND":
                values = self._pop(1)
                self._append(stack[-1], values)
            case "APPENDS" | "ADDITEMS":
                values = self._pop_mark()
                self._append(stack[-1], values)
            case "SETITEM":
                values = self._pop(2)
                self._set_items(stack[-1], values)
            case "SETITEMS":
                values = self._pop_mark()
                self._set_items(stack[-1], values)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                stack.append(_resolve(module, attribute))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                stack.append(_resolve(str(module), str(attribute)))
            case "INST":
                module, _, attribute = argument.partition(" ")
                stack.append(_call(_resolve(module, attribute), self._pop_mark()))
            case "OBJ":
                target, *arguments = self._pop_mark()
                stack.append(_call(target, arguments))
            case "REDUCE" | "NEWOBJ":
                target, arguments = self._pop(2)
                stack.append(_call(target, arguments))
            case "NEWOBJ_EX":
                target, arguments, named = self._pop(3)
                stack.append(_call(target, arguments, named))
            case "BUILD":
                (state,) = self._pop(1)
                self._build(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise ValueError(f"the pickle instruction {name}")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("a pickle whose stack is empty")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _pop_mark(self) -> list[Any]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _append(self, target: Any, values: list[Any]) -> None:
        match target:
            case list():
                target.extend(values)
            case set():
                target.update(_checked_key(value) for value in values)
            case Record():
                target.items.extend(values)
            case _:
                raise ValueError("elements added to something that is no list")

    def _set_items(self, target: Any, values: list[Any]) -> None:
        pairs = zip(values[::2], values[1::2], strict=True)
        match target:
            case dict():
                target.update((_checked_key(key), value) for key, value in pairs)
            case Record():
                target.items.extend(pairs)
            case _:
                raise ValueError("entries set in something that is no dictionary")

    def _build(self, target: Any, state: Any) -> None:
        match target:
            case Record():
                target.state = state
            case _NumpyDtype():
                self._replace(target, _built_dtype(target.code, state))
            case _NumpyArray():
                self._replace(target, _built_array(state))
            case _:
                pass  # attributes of a plain object, such as the version marks of a state dict: nothing needs them

    def _replace(self, old: Any, new: Any) -> None:
        self._stack[-1] = new
        for key, value in self._memo.items():
            if value is old:
                self._memo[key] = new


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def load(path: PathLike) -> Any:
    """The object in a PyTorch archive; tensors and parameters come as `LazyTensor`.

    Dictionaries, lists, tuples, sets, texts, numbers and numpy arrays are what they were; a `torch.Size` is a tuple, a
    `torch.device` a text, a dtype a numpy dtype, a bare storage a `Storage`, a class a `Reference`, and objects of
    classes that checkpoints are known to contain (argparse.Namespace, omegaconf, fairseq, Lightning, ...) are inert
    `Record`s. Nothing in the file is imported or run.

    Raises:
      CheckpointError: no such file, not an archive of PyTorch >= 1.6, truncated, damaged, or naming something that
        could run code.
    """
    path = os.fspath(path)
    records = _open_archive(path)
    byteorder = _byteorder(path, records)
    pickled = records["data.pkl"]
    if pickled.size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: its data.pkl claims {pickled.size} bytes, which no checkpoint needs")
    data = pickled.read(0, pickled.size).tobytes()
    try:
        return _Machine(lambda identifier: _storage(identifier, records, byteorder)).run(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {_one_line(error)}") from None
    # A damaged pickle can fail at any instruction and with any error.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: its pickle holds {_one_line(error)}") from error


def load_state_dict(path: PathLike, keys: Sequence[str] = ("model", "state_dict")) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by name.

    Args:
      path: a PyTorch archive.
      keys: where the state dict may be: under the first of these that the top-level dictionary has; else the top-level
        dictionary itself, if it holds tensors. Its entries that are not tensors are left out.

    Raises:
      CheckpointError: as in `load`, or there is no state dict.
    """
    top = load(path)
    if not isinstance(top, Mapping):
        raise CheckpointError(
            f"{os.fspath(path)} holds a {_type_name(top)}, not a dictionary of tensors; torch.save a state_dict()"
        )
    found = next((top[key] for key in keys if key in top), top)
    tensors = _named_tensors(found) if isinstance(found, Mapping) else {}
    if not tensors:
        names = ", ".join(repr(key) if isinstance(key, str) else _type_name(key) for key in list(top)[:20]) or "nothing"
        raise CheckpointError(
            f"{os.fspath(path)} has no state dict of tensors under {' or '.join(keys)}; its top-level keys: {names}"
        )
    return tensors


def _named_tensors(mapping: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    return {name: value for name, value in mapping.items() if isinstance(name, str) and isinstance(value, LazyTensor)}


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
    if reference.name not in _STORAGE_DTYPES:
        return Record(reference.name, tuple(identifier[2:]))
    entry = records.get(f"data/{key}")
    if entry is None:
        raise CheckpointError(f"is incomplete: it has no record data/{key}; get the file again")
    dtype = _STORAGE_DTYPES[reference.name]
    if count * dtype.itemsize > entry.size:
        raise CheckpointError(f"is damaged: its record data/{key} is too short; get the file again")
    return Storage(entry, dtype, count, byteorder)


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


# ---------------------------------------------------------------------------------------------------------------------
# Writing


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
        raise CheckpointError(
            f"cannot save {os.fspath(path)}: the object is nested too deeply or contains itself"
        ) from None
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

    def add(self, obj: Any) -> None:
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
                self._add_all(obj)
                self._emit(pickle.APPENDS)
            case tuple():
                self._emit(pickle.MARK)
                self._add_all(obj)
                self._emit(pickle.TUPLE)
            case np.ndarray() | LazyTensor():
                self._add_tensor(obj)
            case np.generic() if isinstance(obj.item(), bool | int | float):
                self.add(obj.item())
            case _:
                raise CheckpointError(f"a {type(obj).__name__} is no array, text, number, list, tuple or dictionary")

    def _emit(self, *parts: bytes) -> None:
        self._parts.extend(parts)

    def _add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)

    def _add_items(self, mapping: Mapping[Any, Any]) -> None:
        self._emit(pickle.MARK)
        for key, value in mapping.items():
            self.add(key)
            self.add(value)
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
        dtype_name = _torch_dtype_name(tensor.dtype)
        storage = next((storage for storage, name in _STORAGES.items() if name == dtype_name), None)
        self._add_global("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
        self._emit(pickle.MARK)
        self._add_storage(tensor, storage)
        self.add(0)
        self.add(tensor.shape)
        self.add(tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))))
        self.add(False)
        self.add(OrderedDict())
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
        self.add(str(self._keys[identity]))
        self.add("cpu")
        self.add(count)
        self._emit(pickle.TUPLE, pickle.BINPERSID)


def _torch_dtype_name(dtype: np.dtype) -> str:
    native = dtype.newbyteorder("=")
    for name, known in _DTYPES.items():
        if known == native:
            return name
    raise CheckpointError(f"an array of type {dtype}, which PyTorch does not have")
