"""The text of a compiled program: its computations and their instructions, and what can be read off each.

`launch.program_costs` counts what they cost.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

WITHOUT_DATA = ("token", "opaque")
"""Types of values that hold no numbers."""

CALLS = ("call", "call-start", "async-start")
"""Instructions that run another computation once."""

CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)")
"""Matches the name of a computation that an instruction calls."""

_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_LAYOUT = re.compile(r"\{([\d,]*)(?::(?:T((?:\([^)]*\))+))?.*)?\}")
_BITS = re.compile(r"(?:bf|[sufc])(\d+)")


@dataclass(frozen=True)
class Array:
    """An array of a shape. kind: type of its numbers. layout: what stands in braces behind its sizes, or nothing."""

    kind: str
    sizes: tuple[int, ...]
    layout: str

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the chip's main memory; those of other memories, all inside the core, are marked S(n)."""
        return not re.search(r"S\(\d+\)", self.layout)

    @property
    def bits(self) -> int:
        """Of a number. Those of less than a byte take a whole one unless the layout says that they are packed: E(4)."""
        packed = re.search(r"E\((\d+)\)", self.layout)
        found = _BITS.match(self.kind)
        if packed or self.kind in WITHOUT_DATA:
            return int(packed[1]) if packed else 0
        if not found and self.kind != "pred":
            raise ValueError(f"launch/hlo.py does not know how large numbers of type {self.kind} are")
        return max(int(found[1]), 8) if found else 8

    @property
    def bytes(self) -> float:
        """What it takes, with the padding of its tiles: T(8,128)(2,1) are tiles of 8 x 128, divided into 2 x 1.

        Tiles fill the minor dimensions, of which an array without as many has ones: a scalar in T(128) takes 128.
        (XLA's documentation, "Tiled layout".)
        """
        found = _LAYOUT.fullmatch(self.layout)
        sizes = [self.sizes[int(axis)] for axis in reversed(found[1].split(","))] if found and found[1] else self.sizes
        for tile in re.findall(r"\(([^)]*)\)", found[2] or "") if found else ():
            steps = [int(size) for size in tile.split(",")]
            sizes = [*[1] * (len(steps) - len(sizes)), *sizes]
            minor = sizes[len(sizes) - len(steps) :]
            tiles = [-(-size // step) for size, step in zip(minor, steps, strict=True)]
            sizes = [*sizes[: len(sizes) - len(steps)], *tiles, *steps]
        return math.prod(sizes) * self.bits / 8

    @property
    def data_bytes(self) -> float:
        """What its numbers take, without padding."""
        return math.prod(self.sizes) * self.bits / 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation. shape: its text. operands: names. rest: attributes."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    root: bool


Program = Mapping[str, Mapping[str, Instruction]]


def parse(text: str) -> tuple[Program, str]:
    """Computations by name, each instructions by name, and the name of the entry."""
    program: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = program.setdefault(start[1], {})
            entry = start[1] if line.startswith("ENTRY") else entry
        elif current is not None:
            found = _INSTRUCTION.match(line)
            if found:
                current[found[1]] = _instruction(found[1], found[2], line.lstrip().startswith("ROOT"))
    return program, entry


def _instruction(name: str, definition: str, root: bool) -> Instruction:
    # A shape may be a tuple with parentheses and layouts with blanks; the operation is the first word before "(".
    depth, end = 0, 0
    while end < len(definition) and (depth or definition[end] != " "):
        depth += (definition[end] in "([{") - (definition[end] in ")]}")
        end += 1
    shape, rest = definition[:end], definition[end:]
    operation = _OPERATION.search(rest)
    if operation is None:
        return Instruction(name, shape, "", (), rest, root)
    depth, close = 1, operation.end()
    while depth and close < len(rest):
        depth += (rest[close] == "(") - (rest[close] == ")")
        close += 1
    inside = rest[operation.end() : close - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) if "%" in inside else (inside,)
    return Instruction(name, shape, operation[1], operands, rest[close:], root)


def trips(program: Program, loop: Instruction, condition: str) -> int:
    """How often a loop runs: from XLA's note, or its counter, which starts at 0, the limit, and its growth."""
    known = re.search(r'known_trip_count[^}]*?"?n"?:"?(\d+)', loop.rest)
    if known:
        return int(known[1])
    bounds = [
        int(instruction.operands[0])
        for name in (condition, *CALLED.findall(" ".join(i.rest for i in program[condition].values())))
        for instruction in program[name].values()
        if instruction.operation == "constant" and instruction.operands[0].isdecimal()
    ]
    body = re.search(r"body=%([\w.\-]+)", loop.rest)
    assert body is not None, loop
    return math.ceil(max(bounds, default=1) / _growth(program[condition], program[body[1]]))


def _growth(condition: Mapping[str, Instruction], body: Mapping[str, Instruction]) -> int:
    """By how much a loop's counter grows: more than 1 where the compiler has put several rounds into one."""
    counter = next((i for i in condition.values() if i.operation == "get-tuple-element"), None)
    place = re.search(r"index=(\d+)", counter.rest) if counter else None
    result = next((i for i in body.values() if i.root and i.operation == "tuple"), None)
    if place is None or result is None:
        return 1
    total, name = 0, result.operands[int(place[1])]
    while body[name].operation == "add":
        name, added = body[name].operands
        if body[added].operation != "constant":
            name, added = added, name
        if body[added].operation != "constant":
            return 1
        total += int(body[added].operands[0])
    return total or 1


def with_fused(program: Program, computation: str) -> Iterator[str]:
    """A computation, the ones inside its fusions, and inside those."""
    yield computation
    for instruction in program[computation].values():
        if instruction.operation == "fusion":
            for name in re.findall(r"calls=%([\w.\-]+)", instruction.rest):
                yield from with_fused(program, name)


def operand_shapes(instruction: Instruction, others: Mapping[str, Instruction]) -> list[str]:
    """The shapes of an instruction's operands; `others` are the instructions of its computation."""
    return [others[name].shape for name in instruction.operands if name in others]


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape, which may be a tuple; of one whose size changes, the largest."""
    return [
        Array(kind, tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size), layout)
        for kind, sizes, layout in _ARRAY.findall(shape)
    ]


def dimensions(shape: str) -> list[int]:
    """The sizes of the first array of a shape."""
    return list(next(iter(arrays(shape))).sizes) if arrays(shape) else []


def array_bytes(shape: str, *, memory: bool) -> float:
    """Bytes of all arrays of a shape; with `memory` of those that are not kept inside the core."""
    return sum(array.bytes for array in arrays(shape) if array.in_memory or not memory)


def result_shape(instruction: Instruction) -> str:
    """The shape of what an instruction makes; one that starts something also returns its operands, and marks."""
    if not instruction.operation.endswith("-start") or instruction.operation == "all-reduce-start":
        return instruction.shape
    return elements(instruction.shape)[0 if instruction.operation == "copy-start" else 1]


def elements(shape: str) -> list[str]:
    """The shapes in a tuple, which may be tuples; a shape that is none is its only one."""
    if not shape.startswith("("):
        return [shape]
    found, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return found


def uses(others: Mapping[str, Instruction], instruction: Instruction) -> list[Instruction]:
    """The instructions that use what one makes or, if that is a tuple, its elements."""
    found = [i for i in others.values() if instruction.name in i.operands]
    elements = [use for i in found if i.operation == "get-tuple-element" for use in uses(others, i)]
    return elements + [i for i in found if i.operation != "get-tuple-element"]
