"""Bytes, passes and kernels of compiled programs: against XLA's own counts, and against counts made by hand."""

import json
import os
from pathlib import Path

import jax
import pytest

from launch import compile as launch_compile
from launch import hlo, program_costs, traffic
from tests.launch import programs
from tests.launch.test_compile import LIBTPU, needs_libtpu

XLA = json.loads(programs.COSTS.read_text())


def counted(name):
    return program_costs.costs(programs.recorded(name), 1)


@pytest.mark.parametrize("name", [*programs.WHOLE, *programs.PADDED, *programs.PRECISIONS, "kernel"])
def test_bytes_are_those_that_xla_counts(name):
    """XLA counts padding, too; scalars outside of the main memory, which we do not count, are in its figure only."""
    assert counted(name).bytes == pytest.approx(XLA[name]["bytes accessed"], rel=0.15 if name == "vectors" else 0.01)
    assert counted(name).transcendentals == XLA[name]["transcendentals"]


@pytest.mark.slow
@needs_libtpu
def test_recorded_programs_are_what_the_compiler_makes(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    launch_compile.find_libtpu(str(Path(LIBTPU).parent))
    effort = jax.config.jax_exec_time_optimization_effort
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        device = launch_compile.devices("v5e:2x2")[0]
        for name, small in (programs.WHOLE | programs.FEED_FORWARD).items():
            text, costs = programs.compile_for(small, device)
            ours = program_costs.costs(text, 1)
            assert ours.bytes == pytest.approx(costs["bytes accessed"], rel=0.15), name
            assert ours.bytes == counted(name).bytes, name
    finally:
        jax.config.update("jax_exec_time_optimization_effort", effort)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4 * 8 * 128),
        ("f32[9,129]{1,0:T(8,128)}", 4 * 16 * 256),
        # The minor dimension is the first named: here that of 9.
        ("f32[9,129]{0,1:T(8,128)}", 4 * 136 * 128),
        ("bf16[12,1237,32]{2,1,0:T(8,128)(2,1)}", 2 * 12 * 1240 * 128),
        # Two rows of bfloat16 share a word: a single one takes two.
        ("bf16[1,128]{1,0:T(1,128)(2,1)}", 2 * 2 * 128),
        ("bf16[3,128]{1,0:T(2,128)(2,1)}", 2 * 4 * 128),
        ("u8[1000,33]{0,1:T(8,128)(4,1)}", 40 * 1024),
        ("pred[3]{0:T(512)(128)(4,1)}", 512),
        ("f32[]{:T(128)}", 4 * 128),
        ("s32[]", 4),
        ("f32[5,7]{1,0}", 4 * 35),
        ("f32[5,7]", 4 * 35),
        # Four bits a number where the layout packs them, else a byte.
        ("s4[1000,512]{1,0:T(64,128)(8,1)E(4)}", 1024 * 512 / 2),
        ("s4[64,128]{1,0:T(8,128)}", 64 * 128),
        ("f8e4m3fn[32,128]{1,0:T(8,128)(4,1)}", 32 * 128),
        ("c64[10]{0:T(128)}", 8 * 128),
        ("bf16[<=3,128]{1,0:T(8,128)(2,1)}", 2 * 8 * 128),
        ("token[]", 0),
        ("f32[0,128]{1,0:T(8,128)}", 0),
        ("(f32[9,129]{1,0:T(8,128)}, /*index=1*/bf16[]{:T(256)})", 4 * 16 * 256 + 512),
    ],
)
def test_what_an_array_takes(shape, size):
    assert hlo.array_bytes(shape, memory=False) == hlo.array_bytes(shape, memory=True) == size


@pytest.mark.parametrize("layout", ["1,0:T(8,128)S(1)", ":S(6)", "0:T(128)S(2)"])
def test_what_is_inside_the_core_is_not_in_memory(layout):
    assert hlo.array_bytes(f"f32[8]{{{layout}}}", memory=True) == 0
    assert hlo.array_bytes("f32[8]{0:SC(0:4)}", memory=True) == 32


def test_a_type_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match="numbers of type q7"):
        hlo.array_bytes("q7[8]", memory=False)


def fused(*computations, operands, result, root="outer"):
    """A program of one fusion of some operands, `outer` inside of which are the given lines, and other computations."""
    parts = []
    for name, lines in computations:
        parts += [f"%{name} () -> f32[] {{", *(f"  {line}" for line in lines), "}", ""]
    parameters = [f"  %x{number} = {shape} parameter({number})" for number, shape in enumerate(operands)]
    called = ", ".join(f"%x{number}" for number in range(len(operands)))
    parts += ["ENTRY %main () -> f32[] {", *parameters, f"  ROOT %all = {result} fusion({called}), calls=%{root}", "}"]
    return program_costs.costs("\n".join(parts) + "\n", 1).bytes


STACK, LAYER, INDEX = "f32[12,64,128]{2,1,0:T(8,128)}", "f32[1,64,128]{2,1,0:T(8,128)}", "s32[]{:T(128)S(6)}"
ONE = 4 * 64 * 128
"""Bytes of a layer."""

SLICE = ("inner", [
    f"%p = {STACK} parameter(0)",
    "%i = s32[] parameter(1)",
    f"ROOT %s = {LAYER} dynamic-slice(%p, %i), dynamic_slice_sizes={{1,64,128}}",
])  # fmt: skip


def test_a_slice_two_fusions_down_is_what_is_read():
    middle = ("middle", [
        f"%m = {STACK} parameter(0)",
        "%j = s32[] parameter(1)",
        f"ROOT %f = {LAYER} fusion(%m, %j), kind=kLoop, calls=%inner",
    ])  # fmt: skip
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        "%k = s32[] parameter(1)",
        f"%g = {LAYER} fusion(%a, %k), kind=kLoop, calls=%middle",
        f"ROOT %t = {LAYER} tanh(%g)",
    ])  # fmt: skip
    assert fused(SLICE, middle, outer, operands=[STACK, INDEX], result=LAYER) == 2 * ONE


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (f"%v = {STACK} bitcast(%a)", STACK),
        ("%v = bf16[12,64,128]{2,1,0:T(8,128)(2,1)} convert(%a)", "bf16"),
        (f"%v = {STACK} fusion(%a), kind=kLoop, calls=%same", STACK),
    ],
)
def test_slices_of_other_forms_of_an_operand_count_in_its_own_bytes(line, other):
    same = ("same", [f"%b = {STACK} parameter(0)", f"ROOT %c = {STACK} bitcast(%b)"])
    part = LAYER if other == STACK else "bf16[1,64,128]{2,1,0:T(8,128)(2,1)}"
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        "%i = s32[] parameter(1)",
        line,
        f"%s = {part} dynamic-slice(%v, %i), dynamic_slice_sizes={{1,64,128}}",
        f"%s2 = {part} dynamic-slice(%v, %i), dynamic_slice_sizes={{1,64,128}}",
        f"%d = {part} add(%s, %s2)",
        f"ROOT %r = {LAYER} convert(%d)",
    ])  # fmt: skip
    assert fused(same, outer, operands=[STACK, INDEX], result=LAYER) == 2 * ONE + ONE


def test_slices_of_an_element_of_a_tuple():
    both = ("both", [
        f"%b = {STACK} parameter(0)",
        f"%c = {STACK} parameter(1)",
        f"ROOT %d = ({STACK}, {STACK}) tuple(%c, %b)",
    ])  # fmt: skip
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        f"%e = {STACK} parameter(1)",
        f"%v = ({STACK}, {STACK}) fusion(%a, %e), kind=kLoop, calls=%both",
        f"%first = {STACK} get-tuple-element(%v), index=0",
        f"%second = {STACK} get-tuple-element(%v), index=1",
        f"%part = {LAYER} slice(%second), slice={{[0:1], [0:64], [0:128]}}",
        "%sum = f32[64,128]{1,0:T(8,128)} reduce(%first), dimensions={0}",
        f"ROOT %r = {LAYER} add(%part, %sum)",
    ])  # fmt: skip
    # Of the first operand, which is the second element, a layer is read; of the other one all.
    assert fused(both, outer, operands=[STACK, STACK], result=LAYER) == ONE + 12 * ONE + ONE


@pytest.mark.parametrize("whole", ["%w = f32[64,128]{1,0:T(8,128)} reduce(%a), dimensions={0}", "ROOT %w = X copy(%a)"])
def test_an_operand_of_which_something_needs_all_is_read_once(whole):
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        "%i = s32[] parameter(1)",
        f"%s = {LAYER} fusion(%a, %i), kind=kLoop, calls=%inner",
        whole.replace("X", STACK),
        *([] if whole.startswith("ROOT") else [f"ROOT %t = {LAYER} add(%s, %w)"]),
    ])  # fmt: skip
    result = STACK if whole.startswith("ROOT") else LAYER
    written = 12 * ONE if whole.startswith("ROOT") else ONE
    assert fused(SLICE, outer, operands=[STACK, INDEX], result=result) == 12 * ONE + written


PUT = ("put", [
    f"%p = {STACK} parameter(0)",
    f"%u = {LAYER} parameter(1)",
    "%i = s32[] parameter(2)",
    f"%b = {STACK} bitcast(%p)",
    f"ROOT %d = {STACK} dynamic-update-slice(%b, %u, %i)",
])  # fmt: skip


def test_an_update_in_place_inside_a_nested_fusion_is_what_is_written():
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        f"%n = {LAYER} parameter(1)",
        "%k = s32[] parameter(2)",
        f"%f = {STACK} fusion(%a, %n, %k), kind=kLoop, calls=%put",
        f"%o = {LAYER} tanh(%n)",
        f"ROOT %t = ({STACK}, {LAYER}) tuple(%f, %o)",
    ])  # fmt: skip
    result = f"({STACK}, {LAYER})"
    # The layer is read once, put into the stack, and another one written.
    assert fused(PUT, outer, operands=[STACK, LAYER, INDEX], result=result) == 3 * ONE


@pytest.mark.parametrize("before", [True, False])
def test_an_update_of_an_array_of_another_type_writes_it_all(before):
    half = STACK.replace("f32", "bf16").replace("T(8,128)", "T(8,128)(2,1)")
    outer = ("outer", [
        f"%a = {half if before else STACK} parameter(0)",
        f"%n = {LAYER} parameter(1)",
        "%k = s32[] parameter(2)",
        f"%w = {STACK} {'convert' if before else 'bitcast'}(%a)",
        f"{'ROOT ' if before else ''}%f = {STACK} fusion(%w, %n, %k), kind=kLoop, calls=%put",
        *([] if before else [f"ROOT %h = {half} convert(%f)"]),
    ])  # fmt: skip
    operands = [half if before else STACK, LAYER, INDEX]
    moved = fused(PUT, outer, operands=operands, result=STACK if before else half)
    assert moved == 12 * ONE / 2 + 12 * ONE + ONE


def test_what_is_updated_and_then_used_is_read():
    outer = ("outer", [
        f"%a = {STACK} parameter(0)",
        f"%n = {LAYER} parameter(1)",
        "%k = s32[] parameter(2)",
        f"%f = {STACK} fusion(%a, %n, %k), kind=kLoop, calls=%put",
        "ROOT %r = f32[64,128]{1,0:T(8,128)} reduce(%f), dimensions={0}",
    ])  # fmt: skip
    moved = fused(PUT, outer, operands=[STACK, LAYER, INDEX], result="f32[64,128]{1,0:T(8,128)}")
    assert moved == 12 * ONE + ONE + ONE


def alone(line, *operands):
    lines = [f"  %x{i} = {shape} parameter({i})" for i, shape in enumerate(operands)]
    text = "\n".join(["ENTRY %main () -> f32[] {", *lines, f"  ROOT %r = {line}", "}", ""])
    return program_costs.costs(text, 1)


IN_CORE = LAYER.replace(")}", ")S(1)}")


@pytest.mark.parametrize(
    ("line", "operands", "moved"),
    [
        (f"{LAYER} dynamic-slice(%x0, %x1)", (STACK, INDEX), 2 * ONE),
        # A slice that is brought into the core is read.
        (f"{IN_CORE} dynamic-slice(%x0, %x1)", (STACK, INDEX), ONE),
        (f"{LAYER} slice(%x0), slice={{[0:1]}}", (STACK,), 2 * ONE),
        (f"{LAYER} gather(%x0, %x1), offset_dims={{0,1}}", (STACK, "s32[4]{0:T(128)}"), 2 * ONE + 512),
        (f"{STACK} dynamic-update-slice(%x0, %x1, %x2)", (STACK, LAYER, INDEX), 2 * ONE),
        (f"{STACK} dynamic-update-slice(%x0, %x1, %x2)", (STACK, IN_CORE, INDEX), ONE),
        (f"{STACK} scatter(%x0, %x1, %x2)", (STACK, "s32[4]{0:T(128)}", LAYER), 3 * ONE + 512),
    ],
)
def test_instructions_that_touch_a_part_of_an_array(line, operands, moved):
    assert alone(line, *operands).bytes == moved


def test_a_kernel_moves_and_computes_what_it_declares():
    with_it, without = counted("kernel"), counted("kernel_without_estimate")
    array = 4 * 1024 * 1024
    # Before the kernel an array is doubled, and after it one added.
    assert with_it.bytes == 4 * array + programs.DECLARED.bytes_accessed
    assert with_it.flops == programs.DECLARED.flops
    assert with_it.transcendentals == programs.DECLARED.transcendentals
    assert with_it.unknown == {}
    assert without.bytes == 4 * array + 2 * array + array / 4 and without.flops == without.transcendentals == 0
    assert list(without.unknown.values()) == [1] and "tpu_custom_call" in next(iter(without.unknown))


def test_unknown_kernels_count_as_often_as_they_run():
    call = 'f32[8,128]{1,0:T(8,128)} custom-call(%a), custom_call_target="tpu_custom_call"'
    text = f"""%body (a: f32[8,128]) -> f32[8,128] {{
  %a = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %k = {call}, metadata={{op_name="attention"}}
}}

%more (b: f32[8,128]) -> pred[] {{
  %b = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %true = pred[] constant(true)
}}

ENTRY %main () -> f32[] {{
  %x = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %room = f32[8,128] custom-call(), custom_call_target="AllocateBuffer"
  ROOT %w = f32[8,128]{{1,0:T(8,128)}} while(%x), condition=%more, body=%body, \
backend_config={{"known_trip_count":{{"n":"7"}}}}
}}
"""
    assert program_costs.costs(text, 1).unknown == {"tpu_custom_call (attention)": 7}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("product_default", 1),
        ("product_high", 3),
        ("product_highest", 6),
        ("product_highest_half", 1),
        ("product_highest_mixed", 3),
    ],
)
def test_products_count_as_often_as_the_matrix_unit_runs(name, passes):
    """In libtpu's code for v5e a product of 256 x 256 has 64 matrix instructions of bfloat16, or 128 of float32 a pass.

    It had 384 at "high", 768 at "highest", 384 at "highest" with one operand of bfloat16.
    """
    assert counted(name).flops == passes * 2 * 256**3 == passes * XLA[name]["flops"]


@pytest.mark.parametrize(
    ("precision", "left", "right", "passes"),
    [("high,high", "bf16", "f32", 2), ("highest,default", "f32", "f32", 3), ("highest,high", "f32", "f32", 5)],
)
def test_rarer_precisions(precision, left, right, passes):
    """In libtpu's code, as above: 256, 384 and 640 instructions."""
    line = "f32[8,16] dot(%x0, %x1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={X}"
    found = alone(line.replace("X", precision), f"{left}[8,32]", f"{right}[32,16]")
    assert found.flops == passes * 2 * 8 * 32 * 16


def test_normalization_for_accelerators_moves_less_in_a_feed_forward_part():
    """That for CPUs writes float32 arrays as wide as the inner layer; the other one reads bfloat16 ones once more."""
    ours, theirs = counted("feed_forward"), counted("feed_forward_by_products")
    assert ours.bytes < 0.8 * theirs.bytes
    assert ours.flops == theirs.flops


def test_only_the_call_of_the_kernel_has_an_estimate():
    program, _ = hlo.parse(programs.recorded("kernel"))
    found = [traffic.estimate(i) for inside in program.values() for i in inside.values()]
    assert [estimate for estimate in found if estimate] == [
        (programs.DECLARED.flops, programs.DECLARED.bytes_accessed, programs.DECLARED.transcendentals)
    ]
