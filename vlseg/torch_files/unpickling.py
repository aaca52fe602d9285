"""Carrying out the instructions of a pickle."""

import pickletools
from collections.abc import Callable
from typing import Any

from vlseg.torch_files.names import (
    NumpyArray,
    NumpyDtype,
    Record,
    built_array,
    built_dtype,
    call,
    checked_key,
    resolve,
)

# fmt: off
_VALUE_OPCODES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})
# fmt: on
_NEW: dict[str, Callable[[], Any]] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_NEW |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
"""What instructions without an argument put on the stack."""


# Ours and not the C pickle with its hooks, whose memo is as long as the largest index that the file names: a caller
# could not bound its memory.
class Machine:
    """Carries out a pickle's instructions on a stack; `resolve` and `call` stand in for importing and calling.

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
            case _ if name in _VALUE_OPCODES:
                stack.append(argument)
            case _ if name in _NEW:
                stack.append(_NEW[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._pop_mark()))
            case "LIST":
                stack.append(self._pop_mark())
            case "DICT":
                values = self._pop_mark()
                stack.append({})
                self._set_items(stack[-1], values)
            case "FROZENSET":
                stack.append(frozenset(checked_key(value) for value in self._pop_mark()))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = self._pop(1) if name == "APPEND" else self._pop_mark()
                self._append(stack[-1], values)
            case "SETITEM" | "SETITEMS":
                values = self._pop(2) if name == "SETITEM" else self._pop_mark()
                self._set_items(stack[-1], values)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GLOBAL" | "INST":
                module, _, attribute = argument.partition(" ")
                named = resolve(module, attribute)
                stack.append(named if name == "GLOBAL" else call(named, self._pop_mark()))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                stack.append(resolve(str(module), str(attribute)))
            case "OBJ":
                target, *arguments = self._pop_mark()
                stack.append(call(target, arguments))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                stack.append(call(*self._pop(3 if name == "NEWOBJ_EX" else 2)))
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
                target.update(checked_key(value) for value in values)
            case Record():
                target.items.extend(values)
            case _:
                raise ValueError("elements added to something that is no list")

    def _set_items(self, target: Any, values: list[Any]) -> None:
        pairs = zip(values[::2], values[1::2], strict=True)
        match target:
            case dict():
                target.update((checked_key(key), value) for key, value in pairs)
            case Record():
                target.items.extend(pairs)
            case _:
                raise ValueError("entries set in something that is no dictionary")

    def _build(self, target: Any, state: Any) -> None:
        match target:
            case Record():
                target.state = state
            case NumpyDtype():
                self._replace(target, built_dtype(target.code, state))
            case NumpyArray():
                self._replace(target, built_array(state))
            case _:
                pass  # attributes of a plain object, such as the version marks of a state dict: nothing needs them

    def _replace(self, old: Any, new: Any) -> None:
        self._stack[-1] = new
        for key, value in self._memo.items():
            if value is old:
                self._memo[key] = new
