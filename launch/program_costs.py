"""What one chip does in a compiled program, read off XLA's text.

XLA's own cost analysis counts the body of a loop once; models here are loops over layers, and losses over rows. This
counts every instruction as often as the loops around it run.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launch.hlo import (
    CALLED,
    CALLS,
    ON_CHIP,
    Instruction,
    Program,
    array_bytes,
    dimensions,
    operand_shapes,
    parse,
    result_shape,
    trips,
    uses,
    with_fused,
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

ALLOCATION = 'custom_call_target="AllocateBuffer"'
"""Mark of a call that only finds room for what others will write."""

_BRANCHES = re.compile(r"branch_computations=\{[^}]*\}|true_computation=\S+ false_computation=\S+")


@dataclass(frozen=True)
class Collective:
    """A kind of exchange. bytes: that one chip has of the result, over the program. times: how often it happens.

    group: chips that exchange.
    """

    kind: str
    group: int
    times: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a chip sends, or receives, with the usual ring algorithms."""
        share = (self.group - 1) / self.group
        factors: dict[str, float] = {"collective-permute": 1, "collective-broadcast": 1}
        factors |= {"all-reduce": 2 * share, "reduce-scatter": self.group * share}
        return self.bytes * factors.get(self.kind, share)


@dataclass
class Costs:
    """Of one chip and one call. flops: of matrix products and convolutions. bytes: to and from the chip's memory."""

    flops: float = 0.0
    bytes: float = 0.0
    collectives: list[Collective] = field(default_factory=list)


def costs(text: str, chips: int) -> Costs:
    """The costs of a compiled program.

    Args:
        text: `compiled.as_text()`. chips: that it runs on.
    """
    program, entry = parse(text)
    total, started = Costs(), _started(program)
    exchanges: dict[tuple[str, int], list[int]] = {}
    for computation, times in _executed(program, entry, 1):
        instructions = program[computation]
        total.flops += times * _flops(program, computation)
        total.bytes += times * sum(_moved(program, instruction, instructions) for instruction in instructions.values())
        for kind, group, size in _exchanges(program, computation, started, chips):
            entry_of = exchanges.setdefault((kind, group), [0, 0])
            entry_of[0] += times
            entry_of[1] += times * size
    total.collectives = [Collective(*key, *value) for key, value in sorted(exchanges.items())]
    return total


def _executed(program: Program, computation: str, times: int) -> Iterator[tuple[str, int]]:
    """Computations that run, and how often; those of fusions count with the instruction that calls them."""
    yield computation, times
    for instruction in program[computation].values():
        if instruction.operation == "while":
            called = dict(re.findall(r"(condition|body)=%([\w.\-]+)", instruction.rest))
            yield from _executed(program, called["body"], times * trips(program, instruction, called["condition"]))
        elif instruction.operation == "conditional":
            yield from _executed(program, _dearest_branch(program, instruction), times)
        elif instruction.operation in CALLS:
            for name in CALLED.findall(instruction.rest):
                yield from _executed(program, name, times)


def _dearest_branch(program: Program, conditional: Instruction) -> str:
    """The branch with the most FLOPs, of several the first: which one runs is known only when the program does."""
    branches = _BRANCHES.search(conditional.rest)
    assert branches is not None, conditional
    return max(
        re.findall(r"%([\w.\-]+)", branches[0]),
        key=lambda branch: sum(times * _flops(program, name) for name, times in _executed(program, branch, 1)),
    )


def _flops(program: Program, computation: str) -> float:
    """Of one run of a computation, without those that it calls."""
    return sum(
        _product_flops(instruction, operand_shapes(instruction, program[name]))
        for name in with_fused(program, computation)
        for instruction in program[name].values()
    )


def _product_flops(instruction: Instruction, operands: list[str]) -> float:
    """Two for each multiplication with something that is not padding."""
    if instruction.operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        sizes = dimensions(operands[0])
        depth = math.prod(sizes[int(axis)] for axis in contracted[1].split(",")) if contracted and contracted[1] else 1
        return 2.0 * math.prod(dimensions(instruction.shape)) * depth
    if instruction.operation == "convolution":
        return _convolution_flops(instruction, operands)
    return 0.0


def _convolution_flops(instruction: Instruction, operands: list[str]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert labels is not None, instruction
    image, kernel, output = (
        dict(zip(label, dimensions(shape), strict=True))
        for label, shape in zip(labels.groups(), (*operands[:2], instruction.shape), strict=True)
    )
    found = re.search(r"window=\{([^}]*)\}", instruction.rest)
    parts = dict(part.split("=") for part in found[1].split()) if found else {}
    total = 2.0 * output["b"] * output["f"] * kernel["i"]
    for place, axis in enumerate(sorted(label for label in output if label.isdigit())):
        window = {key: values.split("x")[place] for key, values in parts.items()}
        total *= _meetings(image[axis], kernel[axis], output[axis], window)
    return total


def _meetings(size: int, kernel: int, output: int, window: Mapping[str, str]) -> int:
    """Pairs of a place of the output and one of the kernel that meet on an element of the image, along one axis."""
    stride, dilation = int(window.get("stride", 1)), int(window.get("rhs_dilate", 1))
    spread, before = int(window.get("lhs_dilate", 1)), int(window.get("pad", "0_0").split("_")[0])
    if stride == dilation == spread == 1 and before == 0 and output + kernel - 1 <= size:
        return output * kernel
    positions = (index * stride + place * dilation - before for place in range(kernel) for index in range(output))
    return sum(0 <= position <= (size - 1) * spread and position % spread == 0 for position in positions)


def _moved(program: Program, instruction: Instruction, others: Mapping[str, Instruction]) -> float:
    """Bytes that an instruction reads from memory and writes to it; slices of large arrays count as slices."""
    operation = instruction.operation
    if not operation or operation in FREE or operation.endswith(WAITS) or ALLOCATION in instruction.rest:
        return 0.0
    shapes = operand_shapes(instruction, others)
    if operation == "fusion":
        return _moved_by_fusion(program, instruction, shapes)
    written = array_bytes(result_shape(instruction), memory=True)
    if operation == "dynamic-slice":
        return 2 * written
    if operation == "dynamic-update-slice":
        return 2 * array_bytes(shapes[1], memory=True)
    read = sum(array_bytes(shape, memory=True) for shape in shapes)
    if operation in ("slice-start", "dynamic-slice-start"):
        read = min(read, array_bytes(result_shape(instruction), memory=False))
    return written + read


def _moved_by_fusion(program: Program, fusion: Instruction, shapes: list[str]) -> float:
    inside = program[re.findall(r"calls=%([\w.\-]+)", fusion.rest)[0]]
    # What a fusion that runs beside a collective only hands on: its memory is both an operand's and the result's.
    collective = any(i.operation in COLLECTIVES for i in inside.values())
    passed = [int(number) for number in re.findall(r"\}: \((\d+), \{", fusion.rest)] if collective else []
    written = array_bytes(fusion.shape, memory=True)
    written -= sum(array_bytes(shapes[number], memory=True) for number in passed)
    updates = [i for i in inside.values() if i.operation == "dynamic-update-slice"]
    for update in updates if ON_CHIP not in fusion.shape else ():
        whole, part = (array_bytes(shape, memory=False) for shape in operand_shapes(update, inside)[:2])
        written -= min(whole - part, written)
    return written + sum(
        _read(inside, number, shape, updates)
        for number, shape in enumerate(shapes)
        if ON_CHIP not in shape and number not in passed
    )


def _read(inside: Mapping[str, Instruction], number: int, shape: str, updates: list[Instruction]) -> float:
    """Bytes that a fusion reads of one of its operands."""
    parameter = next(
        (i.name for i in inside.values() if i.operation == "parameter" and i.operands == (str(number),)), None
    )
    users = [i for i in inside.values() if parameter in i.operands]
    if users and all(i.operation == "dynamic-slice" and i.operands[0] == parameter for i in users):
        return sum(array_bytes(i.shape, memory=False) for i in users)
    if users and all(i in updates and i.operands[0] == parameter for i in users):
        return 0.0
    return array_bytes(shape, memory=True)


def _started(program: Program) -> set[str]:
    """Channels of the collectives that run while fusions compute: each of those fusions repeats the collective."""
    starts = [inside for inside in program.values() if _is_start(inside)]
    return {channel for inside in starts for i in inside.values() for channel in _channel(i)}


def _is_start(inside: Mapping[str, Instruction]) -> bool:
    return any('custom_call_target="AsyncCollectiveStart"' in instruction.rest for instruction in inside.values())


def _channel(instruction: Instruction) -> list[str]:
    return re.findall(r"channel_id=(\d+)", instruction.rest)


def _exchanges(program: Program, computation: str, started: set[str], chips: int) -> Iterator[tuple[str, int, int]]:
    """Kind, group, and bytes of the result of each collective that starts in one run of a computation.

    Those of the channels `started` count only in the fusions that start them.
    """
    for name in with_fused(program, computation):
        repeated = set() if _is_start(program[name]) else started
        for instruction in program[name].values():
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES and repeated.isdisjoint(_channel(instruction)):
                group = _group_size(instruction.rest, chips)
                # Fused with a sum, slices say which part of it a chip gets; outside of fusions it gets all of it first.
                users = uses(program[name], instruction) if kind == "all-reduce" and name != computation else []
                scattered = bool(users) and all(user.operation == "dynamic-slice" for user in users)
                shapes = map(result_shape, users if scattered else [instruction])
                size = int(sum(array_bytes(shape, memory=False) for shape in shapes))
                yield "reduce-scatter" if scattered else kind, group, size


def _group_size(rest: str, chips: int) -> int:
    """Chips in a group of a collective, in any of XLA's ways of writing groups."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([\w:()]+)'=(\d+)", mesh[1])}
        names = re.findall(r"'([\w:()]+)'", mesh[2])
        return math.prod(sizes.get(name, 1) for name in names)
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(listed[1].split(",")) if listed else chips
