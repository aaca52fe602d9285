"""Carrying out the instructions of a pickle, in time and memory that its length bounds whatever it says."""

import functools
import io
import pickletools
from collections.abc import Callable, Iterable
from typing import Any

from vlseg.torch_files.keys import KeyWeights, checked
from vlseg.torch_files.names import NumpyArray, NumpyDtype, Record, built_array, built_dtype, call, resolve

MAX_INSTRUCTIONS = 1 << 21
"""Of a pickle; a checkpoint of two thousand tensors and their optimizer has a tenth of a million."""

_LONGEST_NAME = 1000
_MOST_FAR = 1000
_FREE_WORK = 1 << 16
_WORK_PER_BYTE = 4

# fmt: off
_VALUES = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
)
# fmt: on
_NEW: dict[str, Callable[[], Any]] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_NEW |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
"""What instructions without an argument put on the stack."""

_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
_ABSENT = object()


class _Memo:
    """Values by the numbers that a pickle gives them: 0, 1, 2, ... as all writers have them.

    A list up to `length`, because numbers can be chosen so that finding them in a dictionary takes quadratic time.
    Larger ones, which no list should be as long as, are few or refused.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._near: list[Any] = []
        self._far: dict[int, Any] = {}

    def get(self, index: int) -> Any:
        if 0 <= index < len(self._near):
            value = self._near[index]
        else:
            value = self._far.get(index, _ABSENT)
        if value is _ABSENT:
            raise ValueError("a memo without the number that is asked for")
        return value

    def put(self, index: int | None, value: Any) -> int:
        """Without an index it is the next one; the index."""
        index = len(self._near) if index is None else index
        if 0 <= index < self._length:
            self._near.extend([_ABSENT] * (index + 1 - len(self._near)))
            self._near[index] = value
        elif len(self._far) < _MOST_FAR or index in self._far:
            self._far[index] = value
        else:
            raise ValueError("memo numbers larger than the pickle is long")
        return index


# Ours and not the C pickle with its hooks, whose memo is as long as the largest index that the file names: a caller
# could not bound its memory.
class Machine:
    """Carries out a pickle's instructions on a stack; `named` and `call` stand in for importing and calling.

    A pickle costs time and memory in proportion to its length: it has at most `MAX_INSTRUCTIONS`; what an instruction
    copies that the pickle made once (a list that a hundred calls take) is paid for out of a budget; keys of
    dictionaries and sets are checked (`keys`).

    Sources: Python's pickletools (the instructions) and pickle (what they mean).

    Attributes:
        end: where the pickle that was run ends in its data.
    """

    def __init__(self, storage: Callable[[Any], Any], named: Callable[[str, str], Any] = resolve) -> None:
        """`storage`: from a persistent identifier to what stands for it. `named`: from module and name to the same."""
        self.end = 0
        self._storage = storage
        self._named = named
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo = _Memo(0)
        self._work = 0
        self._weights = KeyWeights()

    def run(self, data: bytes, start: int = 0) -> Any:
        """What the pickle in `data` at `start` makes; errors of every kind if it is damaged."""
        self._memo = _Memo(min(len(data), MAX_INSTRUCTIONS))
        self._work = _FREE_WORK + _WORK_PER_BYTE * len(data)
        stream = io.BytesIO(data)
        stream.seek(start)
        for _ in range(MAX_INSTRUCTIONS):
            code = stream.read(1)
            if code == b".":
                self.end = stream.tell()
                return self._stack.pop()
            found = _INSTRUCTIONS.get(code)
            if found is None:
                raise ValueError(_unknown(code))
            read, step = found
            step(self, read(stream) if read else None)
        raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions, which no checkpoint needs")

    def charge(self, work: int) -> None:
        """Pays for copying so many elements; ValueError if a pickle of this length has no use for so much."""
        self._work -= work
        if self._work < 0:
            raise ValueError("instructions that copy the same values again and again")

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

    def _pass(self, _: Any) -> None:
        pass

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _drop(self, _: Any) -> None:
        self._stack.pop()

    def _drop_to_mark(self, _: Any) -> None:
        self._pop_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _value(self, argument: Any) -> None:
        self._stack.append(argument)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _short_tuple(self, count: int) -> None:
        self._stack.append(tuple(self._pop(count)))

    def _list(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def _dict(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append({})
        self._set_items(self._stack[-1], values)

    def _frozenset(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append(frozenset(checked(values)))

    def _append(self, values: list[Any]) -> None:
        match self._stack[-1]:
            case list() as target:
                target.extend(values)
            case set() as target:
                self._weights.check(target, values)
                target.update(values)
            case Record() as target:
                target.items.extend(values)
            case _:
                raise ValueError("elements added to something that is no list")

    def _set(self, values: list[Any]) -> None:
        self._set_items(self._stack[-1], values)

    def _set_items(self, target: Any, values: list[Any]) -> None:
        pairs = zip(values[::2], values[1::2], strict=True)
        match target:
            case dict():
                self._weights.check(target, values[::2])
                target.update(pairs)
            case Record():
                target.items.extend(pairs)
            case _:
                raise ValueError("entries set in something that is no dictionary")

    def _get(self, index: int) -> None:
        self._stack.append(self._memo.get(index))

    def _put(self, index: int | None) -> None:
        value = self._stack[-1]
        index = self._memo.put(index, value)
        if isinstance(value, NumpyDtype | NumpyArray):
            value.memo.append(index)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._resolved(module, name))

    def _instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._call(self._resolved(module, name), self._pop_mark())

    def _stack_global(self, _: Any) -> None:
        self._stack.append(self._resolved(*self._pop(2)))

    def _resolved(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > _LONGEST_NAME:
            raise ValueError("a class whose name is none")
        return self._named(module, name)

    def _object(self, _: Any) -> None:
        target, *arguments = self._pop_mark()
        self._call(target, arguments)

    def _reduce(self, _: Any) -> None:
        self._call(*self._pop(2))

    def _reduce_named(self, _: Any) -> None:
        self._call(*self._pop(3))

    def _call(self, target: Any, args: Any, kwargs: Any = None) -> None:
        parts: Iterable[Any] = args if isinstance(args, list | tuple) else ()
        self.charge(_size(args) + sum(map(_size, parts)))
        self._stack.append(call(target, args, kwargs))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        match self._stack[-1]:
            case Record() as target:
                target.state = state
            case NumpyDtype() as target:
                self._replace(target, built_dtype(target.code, state))
            case NumpyArray() as target:
                self.charge(sum(map(_size, state)))
                self._replace(target, built_array(state))
            case _:
                pass  # attributes of a plain object, such as the version marks of a state dict: nothing needs them

    def _replace(self, old: NumpyDtype | NumpyArray, new: Any) -> None:
        self._stack[-1] = new
        for index in old.memo:
            if self._memo.get(index) is old:
                self._memo.put(index, new)
        old.memo.clear()

    def _persistent(self, _: Any) -> None:
        self._stack.append(self._storage(self._stack.pop()))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, _SIZED) else 1


def _unknown(code: bytes) -> str:
    known = pickletools.code2op.get(code.decode("latin-1"))  # type: ignore[attr-defined]
    return f"the pickle instruction {known.name if known else code!r}" if code else "no end"


def _push_new(make: Callable[[], Any], machine: Machine, _: Any) -> None:
    machine._value(make())


def _push_tuple(count: int, machine: Machine, _: Any) -> None:
    machine._short_tuple(count)


def _steps() -> dict[str, Callable[[Machine, Any], None]]:
    """What instructions do, by their names."""
    machine = Machine
    steps: dict[str, Callable[[Machine, Any], None]] = dict.fromkeys(_VALUES, machine._value)
    steps |= {name: functools.partial(_push_new, make) for name, make in _NEW.items()}
    steps |= {f"TUPLE{count}": functools.partial(_push_tuple, count) for count in (1, 2, 3)}
    steps |= dict.fromkeys(("PROTO", "FRAME"), machine._pass)
    steps |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), machine._get)
    steps |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), machine._put)
    steps |= {"MARK": machine._mark, "POP": machine._drop, "DUP": machine._duplicate}
    steps |= {"POP_MARK": machine._drop_to_mark}
    steps |= {"TUPLE": machine._tuple, "LIST": machine._list, "DICT": machine._dict, "FROZENSET": machine._frozenset}
    steps |= {"APPEND": lambda self, _: self._append(self._pop(1))}
    steps |= dict.fromkeys(("APPENDS", "ADDITEMS"), lambda self, _: self._append(self._pop_mark()))
    steps |= {
        "SETITEM": lambda self, _: self._set(self._pop(2)),
        "SETITEMS": lambda self, _: self._set(self._pop_mark()),
    }
    steps |= {"GLOBAL": machine._global, "INST": machine._instance, "STACK_GLOBAL": machine._stack_global}
    steps |= {"OBJ": machine._object, "NEWOBJ_EX": machine._reduce_named}
    steps |= dict.fromkeys(("REDUCE", "NEWOBJ"), machine._reduce)
    return steps | {"BUILD": machine._build, "BINPERSID": machine._persistent}


_INSTRUCTIONS = {
    opcode.code.encode("latin-1"): (opcode.arg.reader if opcode.arg else None, step)
    for opcode in pickletools.opcodes
    if (step := _steps().get(opcode.name))
}
"""What reads an instruction's argument, and what it does, by its code."""
