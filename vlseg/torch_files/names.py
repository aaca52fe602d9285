"""What a pickle may name: our stand-ins, and classes that become inert records."""

import dataclasses
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from vlseg.errors import CheckpointError
from vlseg.torch_files.keys import checked, checked_items
from vlseg.torch_files.tensors import DTYPE_ALIASES, DTYPES, STORAGES, Storage, elements, tensor_view


@dataclasses.dataclass(frozen=True)
class Reference:
    """A class or function that a pickle names, without the thing itself. `make` is our stand-in for calling it; without
    one, the call gives a `Record`.
    """

    name: str
    make: Callable[..., Any] | None = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(eq=False, slots=True)
class Record:
    """What a pickle says about an object whose class is not ours to run: the name, and what it was to be filled with.

    Attributes:
      name: the class or function, "module.name".
      args, kwargs: what it was to be called with.
      state: what was to be its `__dict__` (or the argument of its `__setstate__`); None if nothing was.
      items: elements appended or added, and (key, value) pairs set.
    """

    # The rest is not in its repr: parts that are shared again and again would make that exponentially long.
    name: str
    args: tuple[Any, ...] = dataclasses.field(default=(), repr=False)
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    state: Any = dataclasses.field(default=None, repr=False)
    items: list[Any] = dataclasses.field(default_factory=list, repr=False)


@dataclasses.dataclass(eq=False)
class NumpyDtype:
    """A numpy type whose byte order is still to come; replaced by the type itself when it does.

    memo: numbers of the pickle's memo under which it may be.
    """

    code: str
    memo: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class NumpyArray:
    """An array whose content is still to come; replaced by the array itself when it does. `memo` as in `NumpyDtype`."""

    memo: list[int] = dataclasses.field(default_factory=list)


def built_dtype(code: str, state: Any) -> Any:
    """The numpy type of a code with the byte order of a pickled state."""
    if not re.fullmatch(r"[biufcSU]\d{0,6}", code):
        return Record("numpy.dtype", (code,), state=state)
    return np.dtype(code).newbyteorder(">" if state[1] == ">" else "<")


def built_array(state: Any) -> Any:
    """The numpy array of a pickled state."""
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
    return flat.reshape(elements(shape), order="F" if order == "F" else "C").copy()


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    # rest: requires_grad, backward_hooks, metadata. The metadata marks lazy conjugation and negation.
    if len(rest) > 2 and rest[2]:
        return Record("torch._utils._rebuild_tensor_v2", (storage, offset, shape, stride, *rest))
    if not isinstance(storage, Storage):
        raise ValueError("a tensor on a storage of an unknown type")
    return tensor_view(storage, storage.dtype, offset, shape, stride)


def _make_typed_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    # rest: requires_grad, backward_hooks, dtype, metadata. Newer element types have no storage class: the storage
    # counts bytes, and the tensor says what they are.
    if not isinstance(storage, Storage):
        raise ValueError("a tensor on a storage of an unknown type")
    if not isinstance(rest[2], np.dtype) or any(rest[3:]):
        return Record("torch._utils._rebuild_tensor_v3", (storage, offset, shape, stride, *rest))
    return tensor_view(storage, rest[2], offset, shape, stride)


def _make_encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("bytes in an unknown encoding")
    return str.encode(text, encoding)


def _make_device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise ValueError("a device that is none")
    return kind if index is None else f"{kind}:{index}"


def _make_slice(*bounds: Any) -> slice:
    # Python's slices may hold anything, and the interpreter crashes on freeing deeply nested ones.
    if not all(isinstance(bound, int | None) for bound in bounds):
        raise ValueError("a slice whose bounds are no numbers")
    return slice(*bounds)


def _make_partial(function: Any = None, *args: Any) -> Record:
    if not isinstance(function, Reference | Record):
        _refuse("functools.partial")
    return Record("functools.partial", (function, *args))


def _make_item(container: Any, key: Any) -> Record:
    # What typing.Optional[int] is pickled as.
    if not isinstance(container, Reference) or not container.name.startswith("typing."):
        _refuse("operator.getitem")
    return Record("operator.getitem", (container, key))


def _scalar(kind: Callable[..., Any], what: str = "number") -> Callable[..., Any]:
    def make(*values: Any) -> Any:
        if not all(isinstance(value, int | float | str) for value in values):
            raise ValueError(f"a {what} made from something that is no {what}")
        return kind(*values)

    return make


def _make_bytes(*args: Any) -> bytes:
    # bytes(n) would be n zeros, as many as the file likes.
    if not args:
        return b""
    if isinstance(args[0], str):
        return _make_encoded(*args)
    return bytes(memoryview(args[0]))


def _live_table() -> dict[str, Any]:
    table: dict[str, Any] = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
    table |= {f"torch.{alias}": DTYPES[name] for alias, name in DTYPE_ALIASES.items()}
    makers: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": lambda pairs=(): OrderedDict(checked_items(elements(pairs))),
        "torch._utils._rebuild_tensor": _make_tensor,
        "torch._utils._rebuild_tensor_v2": _make_tensor,
        "torch._utils._rebuild_tensor_v3": _make_typed_tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._tensor._rebuild_from_type_v2": lambda rebuild, _type, args, *_: call(rebuild, args),
        "torch.Size": lambda values=(): tuple(elements(values)),
        "torch.device": _make_device,
        "numpy.dtype": lambda code, *_: NumpyDtype(code),
        "_codecs.encode": _make_encoded,
        "copyreg._reconstructor": lambda kind, _base, state=None: call(kind, () if state is None else (state,)),
        "builtins.set": lambda values=(): set(checked(elements(values))),
        "builtins.frozenset": lambda values=(): frozenset(checked(elements(values))),
        "builtins.slice": _make_slice,
        "builtins.range": _scalar(range),
        "builtins.complex": _scalar(complex),
        "builtins.bytes": _make_bytes,
        "builtins.bytearray": lambda *args: bytearray(_make_bytes(*args)),
        "builtins.int": _scalar(int),
        "builtins.float": _scalar(float),
        "builtins.bool": _scalar(bool),
        "builtins.str": _scalar(str, "text"),
        "builtins.list": lambda values=(): list(elements(values)),
        "builtins.tuple": lambda values=(): tuple(elements(values)),
        "builtins.dict": lambda pairs=(): dict(checked_items(elements(pairs))),
        "functools.partial": _make_partial,
        "operator.getitem": _make_item,
    }
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray.scalar"] = _make_numpy_scalar
        makers[f"{core}.multiarray._reconstruct"] = lambda *_: NumpyArray()
        makers[f"{core}.numeric._frombuffer"] = _make_numpy_buffer
    table |= {name: Reference(name, make) for name, make in makers.items()}
    table["numpy.ndarray"] = Reference("numpy.ndarray")
    return table


_LIVE = _live_table()
STORAGE_DTYPES = {
    f"{module}.{storage}": DTYPES[name]
    for module in ("torch", "torch.cuda", "torch.storage")
    for storage, name in (*STORAGES.items(), ("UntypedStorage", "uint8"))
}
# Python 3 writes these under their Python 2 names in the pickles of protocol 2 that torch.save makes.
_RENAMED = {"builtins.unicode": "builtins.str", "builtins.long": "builtins.int", "builtins.xrange": "builtins.range"}
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
# Modules of training frameworks and libraries whose functions, too, checkpoints call: settings, callbacks, schedules,
# meters. The classes of a TorchScript program are in __torch__.
# fmt: off
_INERT_MODULES = frozenset({
    "__torch__", "argparse", "criterions", "data", "datetime", "enum", "fairseq", "lightning", "lightning_fabric",
    "lightning_utilities", "ml_collections", "mmcv", "mmengine", "mmseg", "models", "modules", "numpy",
    "omegaconf", "pathlib", "pytorch_lightning", "tasks", "torch", "torchmetrics", "torchvision", "typing",
    "utils", "uuid",
})
_INERT_NAMES = frozenset({
    "builtins.object", "collections.defaultdict", "collections.Counter", "collections.deque", "decimal.Decimal",
    "fractions.Fraction", "logging.Logger", "logging.getLogger", "random.Random", "re._compile",
    "types.SimpleNamespace",
})
# fmt: on


def _refuse(name: str) -> NoReturn:
    raise CheckpointError(f"refuses to load: its pickle calls {name}, which could run code")


def resolve(module: str, name: str) -> Any:
    """What stands for `module.name`; CheckpointError for anything that could run code.

    That is what Python's own modules hold, the harmless names above excepted. Of other modules nothing is ever
    imported: their classes, by their capital letters, are inert, and their functions as long as nothing calls them.
    """
    module = _RENAMED_MODULES.get(module, module)
    full = f"{module}.{name}"
    full = _RENAMED.get(full, full)
    if full in _LIVE:
        return _LIVE[full]
    if not all(part.isidentifier() for part in full.split(".")):
        raise ValueError("a class whose name is none")
    package = module.split(".")[0]
    if full in _INERT_NAMES or package in _INERT_MODULES:
        return Reference(full)
    if package in sys.stdlib_module_names:
        _refuse(full)
    is_class = name.split(".")[-1].lstrip("_")[:1].isupper()
    return Reference(full, None if is_class else lambda *_: _refuse(full))


def call(target: Any, args: Any, kwargs: Any = None) -> Any:
    """What a call gives: our stand-in's result, or a `Record`."""
    if not isinstance(target, Reference):
        raise ValueError("a call of something that is not a class")
    if not isinstance(kwargs, dict | None):
        raise ValueError("named arguments that are no dictionary")
    if target.make is None:
        return Record(target.name, tuple(elements(args)), kwargs or {})
    if kwargs:
        raise ValueError(f"a call of {target.name} with named arguments")
    return target.make(*elements(args))
