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
    Instruction,
    Program,
    arrays,
    dimensions,
    operand_shapes,
    parse,
    result_shape,
    trips,
    uses,
    with_fused,
)
from launch.traffic import COLLECTIVES, estimate, moved, unknown_kernel

PARTS = {"default": 1, "high": 2, "highest": 3}
"""Into how many bfloat16 parts a float32 operand of a product is split, by its precision."""

TRANSCENDENTAL = (
    *("atan2", "cbrt", "cosine", "erf", "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic"),
    *("power", "rsqrt", "sine", "sqrt", "tan", "tanh"),
)
"""Instructions that compute a transcendental function of every element."""

_BRANCHES = re.compile(r"branch_computations=\{[^}]*\}|true_computation=\S+ false_computation=\S+")


@dataclass(frozen=True)
class Collective:
    """A kind of exchange. bytes: of numbers that one chip has of the result, over the program. times: of them.

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


@dataclass(frozen=True)
class Mover:
    """What moves much between memory and core. name: where it is in the model. times: of such instructions.

    bytes: of all of them together. shape: of the result of that which moves most.
    """

    name: str
    times: int
    bytes: float
    shape: str


@dataclass
class Costs:
    """Of one chip and one call.

    flops: of matrix products and convolutions, each as often as the matrix unit, which multiplies bfloat16, must run
        for its precision; and those that kernels declare.
    bytes: to and from the chip's memory; those of a kernel are the ones that it declares.
    transcendentals: exponentials and the like, with those that kernels declare.
    unknown: calls of kernels that declare nothing, by name, and how often each happens: of these the operands and
        results are counted, and nothing that happens inside.
    movers: all that moves something, the largest first; instructions of one place in the model are one.
    """

    flops: float = 0.0
    bytes: float = 0.0
    transcendentals: float = 0.0
    collectives: list[Collective] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    movers: list[Mover] = field(default_factory=list)


def costs(text: str, chips: int) -> Costs:
    """The costs of a compiled program.

    Args:
        text: `compiled.as_text()`. chips: that it runs on.
    """
    program, entry = parse(text)
    total, started = Costs(), _started(program)
    exchanges: dict[tuple[str, int], list[int]] = {}
    movers: dict[str, list[tuple[float, int, str]]] = {}
    for computation, times in _executed(program, entry, 1):
        instructions = program[computation]
        total.flops += times * _flops(program, computation)
        for instruction in instructions.values():
            if size := times * moved(program, instruction, instructions):
                total.bytes += size
                place = movers.setdefault(_place(instruction), [])
                place.append((size, times, instruction.shape))
        total.transcendentals += times * _transcendentals(program, computation)
        for name in _unknown(program, computation):
            total.unknown[name] = total.unknown.get(name, 0) + times
        for kind, group, size in _exchanges(program, computation, started, chips):
            entry_of = exchanges.setdefault((kind, group), [0, 0])
            entry_of[0] += times
            entry_of[1] += times * size
    for name, found in movers.items():
        sizes, runs, _ = zip(*found, strict=True)
        total.movers.append(Mover(name, sum(runs), sum(sizes), max(found)[2]))
    total.movers.sort(key=lambda mover: -mover.bytes)
    total.collectives = [Collective(*key, *value) for key, value in sorted(exchanges.items())]
    return total


def _place(instruction: Instruction) -> str:
    """Where in the model an instruction comes from, without the names of transformations; or its own name."""
    found = re.search(r'op_name="([^"]*)"', instruction.rest)
    own = re.sub(r"[.\d]+$", "", instruction.name)
    if found is None:
        return own
    wrapper = re.compile(r"^((jit|jvp|transpose|vmap)\(|(closed_call|checkpoint|rematted_computation|while|body)$)")
    return "/".join(part for part in found[1].split("/") if not wrapper.match(part)) or own


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
    """Two for each multiplication with something that is not padding, in each pass; or what a kernel declares."""
    if instruction.operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        sizes = dimensions(operands[0])
        depth = math.prod(sizes[int(axis)] for axis in contracted[1].split(",")) if contracted and contracted[1] else 1
        return _passes(instruction, operands) * 2.0 * math.prod(dimensions(instruction.shape)) * depth
    if instruction.operation == "convolution":
        return _passes(instruction, operands) * _convolution_flops(instruction, operands)
    declared = estimate(instruction)
    return declared.flops if declared else 0.0


def _passes(instruction: Instruction, operands: list[str]) -> int:
    """How often a matrix unit for bfloat16 runs for a product.

    It multiplies parts of the operands, the larger ones with all, the smaller ones only where the result would show it:
    six pairs at "highest", three at "high" or where one operand is bfloat16 anyway. Those are the matrix instructions
    that the compiler makes for v5e. The program's text has the product still as one.
    """
    found = re.search(r"operand_precision=\{(\w+),(\w+)\}", instruction.rest)
    if found is None:
        return 1
    wide = [arrays(shape)[0].kind == "f32" for shape in operands[:2]]
    left, right = (PARTS[name] if is_wide else 1 for name, is_wide in zip(found.groups(), wide, strict=True))
    return sum(i + j < max(left, right) for i in range(left) for j in range(right))


def _transcendentals(program: Program, computation: str) -> float:
    """Of one run of a computation, without those that it calls."""
    total = 0.0
    for name in with_fused(program, computation):
        for instruction in program[name].values():
            if instruction.operation in TRANSCENDENTAL:
                total += math.prod(dimensions(instruction.shape))
            elif declared := estimate(instruction):
                total += declared.transcendentals
    return total


def _unknown(program: Program, computation: str) -> Iterator[str]:
    """Kernels without a cost estimate in one run of a computation."""
    for name in with_fused(program, computation):
        yield from filter(None, map(unknown_kernel, program[name].values()))


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
                size = int(sum(array.data_bytes for shape in shapes for array in arrays(shape)))
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
