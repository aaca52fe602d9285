"""Bytes that an instruction of a compiled program reads from the chip's main memory and writes to it.

An array takes what its tiles take (`launch.hlo.Array`). Of an array of which only slices are used, those are read, and
of one that is updated in place, the update is written: in instructions, in fusions, and in the fusions inside those,
through whatever only gives an array another form. A kernel moves what its cost estimate says.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from launch.hlo import (
    CALLS,
    Instruction,
    Program,
    array_bytes,
    elements,
    operand_shapes,
    result_shape,
)

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
    *("while", "conditional", *CALLS, "partition-id", "replica-id"),
)
"""Instructions that move nothing themselves; what a loop moves is counted inside of it."""

WAITS = ("-update", "-done")
"""Ends of the names of instructions that wait for what another has started, which counts in full where it starts."""

ALLOCATION = "AllocateBuffer"
"""Target of a call that only finds room for what others will write."""

MARKS = (
    *("AsyncCollectiveStart", "AsyncCollectiveDone"),
    *("AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"),
)
"""Targets of calls that only tell the compiler something: where a collective begins and ends, what indices hold."""

SLICES = ("slice", "dynamic-slice", "gather")
"""Instructions that read of their first operand only what they return."""

UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Instructions that change a part of their first operand, and which operand is put there."""

FORMS = ("convert", "copy", "reshape", "transpose")
"""Instructions that give an array another form, of which a fusion computes only what is used."""


class Estimate(NamedTuple):
    """What a kernel says of one call of it: `pl.CostEstimate`."""

    flops: float
    bytes: float
    transcendentals: float


def estimate(instruction: Instruction) -> Estimate | None:
    """The cost estimate of a call of a kernel; None if it has none, or the instruction is something else."""
    found = re.search(r'"cost_estimate":(\{[^}]*\})', instruction.rest)
    if instruction.operation != "custom-call" or found is None:
        return None
    costs = {name: float(value) for name, value in json.loads(found[1]).items()}
    names = ("flops", "bytes_accessed", "transcendentals")
    return Estimate(*(costs.get(name, 0.0) for name in names))


def unknown_kernel(instruction: Instruction) -> str | None:
    """The name of a call of something outside of XLA that does not say what it costs."""
    if instruction.operation != "custom-call" or estimate(instruction):
        return None
    target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    if target is None or target[1] in (ALLOCATION, *MARKS):
        return None
    kernel = re.search(r'op_name="([^"]*)"', instruction.rest)
    return f"{target[1]} ({kernel[1]})" if kernel else target[1]


def moved(program: Program, instruction: Instruction, others: Mapping[str, Instruction]) -> float:
    """Bytes of one run of an instruction; `others` are those of its computation."""
    operation = instruction.operation
    if not operation or operation in FREE or operation.endswith(WAITS) or f'"{ALLOCATION}"' in instruction.rest:
        return 0.0
    if declared := estimate(instruction):
        return declared.bytes
    shapes = operand_shapes(instruction, others)
    if operation == "fusion":
        return _moved_by_fusion(program, instruction, shapes)
    if operation in UPDATES:
        part = array_bytes(shapes[UPDATES[operation]], memory=False)
        # A scatter combines what is there with what comes.
        touched = part * (2 if operation == "scatter" else 1) * (array_bytes(shapes[0], memory=True) > 0)
        return touched + sum(array_bytes(shape, memory=True) for shape in shapes[1:])
    result = result_shape(instruction)
    read = [array_bytes(shape, memory=True) for shape in shapes]
    if operation in (*SLICES, "slice-start", "dynamic-slice-start"):
        read[0] = min(read[0], array_bytes(result, memory=False))
    return array_bytes(result, memory=True) + sum(read)


def _moved_by_fusion(program: Program, fusion: Instruction, shapes: list[str]) -> float:
    inside = program[_called(fusion)]
    # What a fusion that runs beside a collective only hands on: its memory is both an operand's and the result's.
    collective = any(i.operation in COLLECTIVES for i in inside.values())
    passed = [int(number) for number in re.findall(r"\}: \((\d+), \{", fusion.rest)] if collective else []
    view = _Fusion(program, fusion)
    total = view.written() - sum(array_bytes(shapes[number], memory=True) for number in passed)
    for number, shape in enumerate(shapes):
        if number not in passed and (whole := array_bytes(shape, memory=True)):
            total += whole * view.share_read(number)
    return total


def _called(fusion: Instruction) -> str:
    return re.findall(r"calls=%([\w.\-]+)", fusion.rest)[0]


def _index(taken: Instruction) -> int:
    return int(re.findall(r"index=(\d+)", taken.rest)[0])


class _Value(NamedTuple):
    """What an instruction makes. fusions: the outermost first, of which each is inside the one before it."""

    fusions: tuple[Instruction, ...]
    name: str


class _Fusion:
    """Which parts of its operands a fusion reads, and of its results it writes."""

    def __init__(self, program: Program, fusion: Instruction) -> None:
        self.program, self.fusion = program, fusion

    def share_read(self, number: int) -> float:
        """The share of an operand that is read, 0 to 1."""
        parameter = self._parameter((self.fusion,), number)
        return self._share(parameter, updated=False, same=True) if parameter else 1.0

    def written(self) -> float:
        """Bytes of the results in memory; of those that are updated in place, of the updates."""
        root = self._root((self.fusion,))
        made = self._instruction(root)
        values = [_Value(root.fusions, name) for name in made.operands] if made.operation == "tuple" else [root]
        shapes = elements(self.fusion.shape)
        whole = [array_bytes(shape, memory=True) for shape in shapes]
        if len(values) != len(shapes):  # something else than a tuple makes several results
            return sum(whole)
        return sum(
            min(self._updates(value, size), size) if size else 0.0 for value, size in zip(values, whole, strict=True)
        )

    def _updates(self, value: _Value, whole: float) -> float:
        """Bytes of what is put into an operand of the fusion to make a value; the whole if that is not how it is made.

        Only through what leaves the bytes where they are: an array of another type or order is a new one.
        """
        value, total = self._source(value), 0.0
        while (instruction := self._instruction(value)).operation in UPDATES:
            part = _Value(value.fusions, instruction.operands[UPDATES[instruction.operation]])
            total += array_bytes(self._instruction(part).shape, memory=False)
            value = self._source(_Value(value.fusions, instruction.operands[0]))
        return total if total and instruction.operation == "parameter" else whole

    def _source(self, value: _Value) -> _Value:
        """Where the bytes of a value come from: back through bitcasts, tuples, and the fusions inside."""
        instruction = self._instruction(value)
        if instruction.operation == "bitcast":
            return self._source(_Value(value.fusions, instruction.operands[0]))
        if instruction.operation == "fusion":
            return self._source(self._root((*value.fusions, instruction)))
        if instruction.operation == "parameter" and len(value.fusions) > 1:
            *outer, inner = value.fusions
            return self._source(_Value(tuple(outer), inner.operands[int(instruction.operands[0])]))
        if instruction.operation == "get-tuple-element":
            whole = self._source(_Value(value.fusions, instruction.operands[0]))
            made = self._instruction(whole)
            if made.operation == "tuple":
                return self._source(_Value(whole.fusions, made.operands[_index(instruction)]))
        return value

    def _share(self, value: _Value, *, updated: bool, same: bool) -> float:
        """The share of a value that is read where it is used.

        Args:
            updated: a part of it has been replaced in place, so that as a result it needs not be read.
            same: its bytes are still where the operand's are.
        """
        instruction = self._instruction(value)
        whole = array_bytes(instruction.shape, memory=False)
        total = self._share_returned(value, None, updated=updated, same=same)
        for user, number in self._users(value):
            total += self._share_used(user, number, whole, updated=updated, same=same)
        return min(total, 1.0)

    def _share_returned(self, value: _Value, number: int | None, *, updated: bool, same: bool) -> float:
        """The share that is read of what a computation returns: of a value or, with a number, of an element of it."""
        if not self._instruction(value).root:
            return 0.0
        if len(value.fusions) == 1:
            return 0.0 if updated else 1.0
        fusion = _Value(value.fusions[:-1], value.fusions[-1].name)
        if number is None:
            return self._share(fusion, updated=updated, same=same)
        return self._share_of_element(fusion, number, updated=updated, same=same)

    def _share_of_element(self, value: _Value, number: int, *, updated: bool, same: bool) -> float:
        """The share that is read of element `number` of a tuple."""
        total = self._share_returned(value, number, updated=updated, same=same)
        for user, _ in self._users(value):
            taken = self._instruction(user)
            if taken.operation == "get-tuple-element" and _index(taken) == number:
                total += self._share(user, updated=updated, same=same)
        return total

    def _share_used(self, user: _Value, number: int, whole: float, *, updated: bool, same: bool) -> float:
        """The share that is read of the operand `number`, of `whole` bytes, of an instruction."""
        instruction = self._instruction(user)
        operation = instruction.operation
        if operation in SLICES and number == 0:
            return array_bytes(instruction.shape, memory=False) / whole if whole else 0.0
        if operation in UPDATES and number == 0 and same:
            return self._share(user, updated=True, same=True)
        if operation == "bitcast":
            return self._share(user, updated=updated, same=same)
        if operation in FORMS and not updated:
            return self._share(user, updated=False, same=False)
        if operation == "fusion":
            inner = self._parameter((*user.fusions, instruction), number)
            return self._share(inner, updated=updated, same=same) if inner else 1.0
        if operation == "tuple":
            return self._share_of_element(user, number, updated=updated, same=same)
        return 1.0

    def _users(self, value: _Value) -> Iterator[tuple[_Value, int]]:
        """Instructions that have a value as an operand, and as which."""
        for instruction in self.program[_called(value.fusions[-1])].values():
            for number, name in enumerate(instruction.operands):
                if name == value.name and instruction.operation not in ("parameter", "constant"):
                    yield _Value(value.fusions, instruction.name), number

    def _instruction(self, value: _Value) -> Instruction:
        return self.program[_called(value.fusions[-1])][value.name]

    def _parameter(self, fusions: tuple[Instruction, ...], number: int) -> _Value | None:
        inside = self.program[_called(fusions[-1])].values()
        names = (i.name for i in inside if i.operation == "parameter" and i.operands == (str(number),))
        name = next(names, None)
        return _Value(fusions, name) if name else None

    def _root(self, fusions: tuple[Instruction, ...]) -> _Value:
        inside = self.program[_called(fusions[-1])].values()
        return _Value(fusions, next(i.name for i in inside if i.root))
