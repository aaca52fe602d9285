"""What is read off compiled programs, against programs whose costs a person can work out."""

import jax
import jax.numpy as jnp
import pytest

from launch import hlo, program_costs, traffic

LAYERS, BATCH, WIDTH = 5, 24, 64


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_products_in_a_loop_count_as_often_as_it_runs():
    def network(weights, x):
        return jax.lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)[0].sum()

    shapes = (LAYERS, WIDTH, WIDTH), (BATCH, WIDTH)
    product = 2 * BATCH * WIDTH * WIDTH
    assert program_costs.costs(compiled(network, *shapes), 1).flops == LAYERS * product
    found = program_costs.costs(compiled(jax.grad(network), *shapes), 1)
    # The gradient of the first layer's input is not needed, but a loop computes it.
    assert found.flops == 3 * LAYERS * product and found.collectives == []


def test_padding_is_no_product():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    text = compiled(convolve, (2, 8, 6, 3), (3, 3, 3, 4))
    # Along an axis of n places, 3 n - 2 of the pairs of place and kernel are inside.
    assert program_costs.costs(text, 1).flops == 2 * 2 * 3 * 4 * (3 * 8 - 2) * (3 * 6 - 2)


PROGRAM = """HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused (p0: bf16[8,16], p1: bf16[16,32], p2: bf16[10,8,32], p3: s32[]) -> bf16[10,8,32] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  %convolution.1 = bf16[8,32]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
  %bitcast.1 = bf16[1,8,32]{2,1,0} bitcast(%convolution.1)
  %p2 = bf16[10,8,32]{2,1,0} parameter(2)
  %p3 = s32[] parameter(3)
  %zero = s32[] constant(0)
  ROOT %update = bf16[10,8,32]{2,1,0} dynamic-update-slice(%p2, %bitcast.1, %p3, %zero, %zero)
}

%body (t: (s32[], bf16[8,16], bf16[16,32], bf16[10,8,32])) -> (s32[], bf16[8,16], bf16[16,32], bf16[10,8,32]) {
  %t = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, /*index=3*/bf16[10,8,32]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=1
  %w = bf16[16,32]{1,0} get-tuple-element(%t), index=2
  %all = bf16[10,8,32]{2,1,0} get-tuple-element(%t), index=3
  %made = bf16[10,8,32]{2,1,0} fusion(%x, %w, %all, %i), kind=kOutput, calls=%fused
  %ar = f32[7,16]{1,0} all-reduce(%x), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%sum
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  %k = s32[] add(%one, %j)
  ROOT %next = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, bf16[10,8,32]{2,1,0}) tuple(%k, %x, %w, %made)
}

%less (t: (s32[], bf16[8,16], bf16[16,32], bf16[10,8,32])) -> pred[] {
  %t.1 = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, bf16[10,8,32]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %bound = s32[]{:T(128)} constant(19)
  ROOT %l = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (p: f32[4,4]) -> f32[8,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %start = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, bf16[10,8,32]{2,1,0}) custom-call()
  %loop = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, bf16[10,8,32]{2,1,0}) while(%start), condition=%less, body=%body
  %gs = (f32[4,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), replica_groups=[4,2]<=[8], dimensions={0}
  ROOT %gd = f32[8,4]{1,0} all-gather-done(%gs)
}
"""


def test_a_program_of_several_chips():
    """The compiler has put two rounds of its loop into one: the counter grows by 2, and is below 19 ten times."""
    found = program_costs.costs(PROGRAM, 8)
    assert found.flops == 10 * 2 * 8 * 16 * 32
    gather, reduce = found.collectives
    assert (gather.kind, gather.group, gather.times, gather.bytes) == ("all-gather", 2, 1, 8 * 4 * 4)
    assert (reduce.kind, reduce.group, reduce.times, reduce.bytes) == ("all-reduce", 4, 10, 10 * 7 * 16 * 4)
    assert gather.sent == 64 and reduce.sent == reduce.bytes * 2 * 3 / 4


def test_what_moves_most_comes_first_and_by_its_place_in_the_model():
    named = PROGRAM.replace(
        "kind=kOutput, calls=%fused",
        'kind=kOutput, calls=%fused, metadata={op_name="jit(step)/while/body/transpose(jvp(encoder))/encoder/fc1/dot"}',
    )
    found = program_costs.costs(named, 8)
    first = found.movers[0]
    assert (first.name, first.times, first.bytes) == ("encoder/fc1/dot", 10, 10 * (2 * 16 * 32 + 2 * 8 * 32 + 4))
    assert first.shape.startswith("bf16[10,8,32]")
    sizes = [mover.bytes for mover in found.movers]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == found.bytes
    assert "made" in [mover.name for mover in program_costs.costs(PROGRAM, 8).movers]


def test_traffic_counts_slices_and_leaves_out_what_stays_on_the_chip():
    program, _ = hlo.parse(PROGRAM)
    moved = traffic.moved(program, program["body"]["made"], program["body"])
    # The kernel is read, a slice of the large array written; the image is on the chip, the counter four bytes.
    assert moved == 2 * 16 * 32 + 2 * 8 * 32 + 4


def test_finding_room_moves_nothing():
    text = """HloModule jit_step

ENTRY %main () -> f32[64,64] {
  ROOT %room = f32[64,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
}
"""
    assert program_costs.costs(text, 1).bytes == 0


@pytest.mark.parametrize(
    ("window", "pairs"),
    [
        ({"size": "3", "pad": "1_1"}, 3 * 8 - 2),
        ({"size": "3"}, 3 * 6),
        ({"size": "3", "stride": "2", "pad": "1_1"}, 3 * 4 - 1),
        ({"size": "8", "stride": "7", "lhs_dilate": "8"}, 8),
    ],
)
def test_places_where_image_and_kernel_meet(window, pairs):
    size, kernel = 8, int(window["size"])
    stride, spread = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    before, after = map(int, window.get("pad", "0_0").split("_"))
    output = ((size - 1) * spread + 1 + before + after - kernel) // stride + 1
    assert program_costs._meetings(size, kernel, output, window) == pairs


def entry(*lines):
    """A computation that is the entry, or a part of a text of several."""
    return "\n".join(["ENTRY %main () -> f32[] {", *(f"  {line}" for line in lines), "}", ""])


SCATTERED = """%scatter (input: f32[8,16]) -> f32[2,16] {
  %input = f32[8,16]{1,0} parameter(0)
  %ar = f32[8,16]{1,0} all-reduce(%input), channel_id=6, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  %here = u32[] partition-id()
  ROOT %part = f32[2,16]{1,0} dynamic-slice(%ar, %here), dynamic_slice_sizes={2,16}
}

%scatter_two (a: f32[8,16], b: f32[4,8]) -> (f32[2,16], f32[1,8]) {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  %ar.1 = (f32[8,16]{1,0}, f32[4,8]{1,0}) all-reduce(%a, %b), channel_id=7, replica_groups=[2,4]<=[8], to_apply=%sum
  %here.1 = u32[] partition-id()
  %ar.a = f32[8,16]{1,0} get-tuple-element(%ar.1), index=0
  %ar.b = f32[4,8]{1,0} get-tuple-element(%ar.1), index=1
  %part.a = f32[2,16]{1,0} dynamic-slice(%ar.a, %here.1), dynamic_slice_sizes={2,16}
  %part.b = f32[1,8]{1,0} dynamic-slice(%ar.b, %here.1), dynamic_slice_sizes={1,8}
  ROOT %parts = (f32[2,16]{1,0}, f32[1,8]{1,0}) tuple(%part.a, %part.b)
}

%keep (input.2: f32[8,16]) -> (f32[8,16], f32[2,16]) {
  %input.2 = f32[8,16]{1,0} parameter(0)
  %ar.2 = f32[8,16]{1,0} all-reduce(%input.2), channel_id=8, replica_groups=[2,4]<=[8], to_apply=%sum
  %here.2 = u32[] partition-id()
  %part.2 = f32[2,16]{1,0} dynamic-slice(%ar.2, %here.2), dynamic_slice_sizes={2,16}
  ROOT %both = (f32[8,16]{1,0}, f32[2,16]{1,0}) tuple(%ar.2, %part.2)
}

"""


@pytest.mark.parametrize(
    ("called", "kind", "size"),
    [("scatter", "reduce-scatter", 4 * 2 * 16), ("scatter_two", "reduce-scatter", 4 * 40), ("keep", "all-reduce", 512)],
)
def test_a_fused_sum_of_which_only_slices_are_used_scatters(called, kind, size):
    text = SCATTERED + entry(
        "%x = f32[8,16]{1,0} custom-call()",
        "%y = f32[4,8]{1,0} custom-call()",
        f"ROOT %fusion = f32[2,16]{{1,0}} fusion(%x, %y), kind=kCustom, calls=%{called}",
    )
    (found,) = program_costs.costs(text, 8).collectives
    assert (found.kind, found.group, found.times, found.bytes) == (kind, 4, 1, size)
    # What a chip keeps of the sum is a part of four; it sends the three others.
    assert found.sent == (3 * size if kind == "reduce-scatter" else 2 * size * 3 / 4)


def test_a_sum_that_is_not_fused_with_its_slice_is_whole():
    text = entry(
        "%x = f32[8,16]{1,0} custom-call()",
        "%here = u32[] partition-id()",
        "%ar = f32[8,16]{1,0} all-reduce(%x), channel_id=6, replica_groups=[2,4]<=[8], to_apply=%sum",
        "ROOT %part = f32[2,16]{1,0} dynamic-slice(%ar, %here), dynamic_slice_sizes={2,16}",
    )
    assert [found.kind for found in program_costs.costs(text, 8).collectives] == ["all-reduce"]


ALONGSIDE = """%begin (p: bf16[4,8]) -> (bf16[4,8], bf16[16,8], u32[]) {
  %p = bf16[4,8]{1,0} parameter(0)
  %gather = bf16[16,8]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %started = (bf16[4,8]{1,0}, bf16[16,8]{1,0}, u32[]{:S(2)}) custom-call(%gather), \
custom_call_target="AsyncCollectiveStart"
}

%meanwhile (x: f32[4,4], p.1: bf16[4,8], r.1: bf16[16,8]) -> (f32[4,4], bf16[4,8], bf16[16,8], bf16[16,8]) {
  %x = f32[4,4]{1,0} parameter(0)
  %p.1 = bf16[4,8]{1,0} parameter(1)
  %r.1 = bf16[16,8]{1,0} parameter(2)
  %product = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gather.1 = bf16[16,8]{1,0} all-gather(%p.1), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %out = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}, bf16[16,8]{1,0}) tuple(%product, %p.1, %r.1, %gather.1)
}

%end (p.2: bf16[4,8], r.2: bf16[16,8]) -> bf16[16,8] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  %r.2 = bf16[16,8]{1,0} parameter(1)
  %gather.2 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %ended = bf16[16,8]{1,0} custom-call(%p.2, %r.2, %gather.2), custom_call_target="AsyncCollectiveDone"
}

%body (t: (f32[4,4], bf16[4,8], bf16[16,8])) -> (f32[4,4], bf16[4,8], bf16[16,8]) {
  %t = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  %tx = f32[4,4]{1,0} get-tuple-element(%t), index=0
  %tp = bf16[4,8]{1,0} get-tuple-element(%t), index=1
  %tr = bf16[16,8]{1,0} get-tuple-element(%t), index=2
  %middle = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}, bf16[16,8]{1,0}) fusion(%tx, %tp, %tr), kind=kOutput, \
output_to_operand_aliasing={{1}: (1, {}), {2}: (2, {}), {3}: (2, {})}, calls=%meanwhile
  ROOT %next = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}) tuple(%tx, %tp, %tr)
}

%condition (t.1: (f32[4,4], bf16[4,8], bf16[16,8])) -> pred[] {
  %t.1 = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

""" + entry(
    "%p.3 = bf16[4,8]{1,0} parameter(0)",
    "%start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}, u32[]{:S(2)}) fusion(%p.3), kind=kCustom, "
    "output_to_operand_aliasing={{0}: (0, {})}, calls=%begin",
    "%r = bf16[16,8]{1,0} get-tuple-element(%start), index=1",
    "%y = f32[4,4]{1,0} parameter(1)",
    "%all = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}) tuple(%y, %p.3, %r)",
    "%loop = (f32[4,4]{1,0}, bf16[4,8]{1,0}, bf16[16,8]{1,0}) while(%all), condition=%condition, body=%body, "
    'backend_config={"known_trip_count":{"n":"5"}}',
    "ROOT %done = bf16[16,8]{1,0} fusion(%p.3, %r), kind=kCustom, output_to_operand_aliasing={{}: (1, {})}, calls=%end",
)


def test_a_collective_that_fusions_run_alongside_counts_where_it_starts():
    found = program_costs.costs(ALONGSIDE, 8)
    (gather,) = found.collectives
    assert (gather.kind, gather.group, gather.times, gather.bytes) == ("all-gather", 4, 1, 2 * 16 * 8)
    assert found.flops == 5 * 2 * 4 * 4 * 4
    # The operand is read and the result written once; the loop reads and writes 64 bytes.
    assert found.bytes == 2 * 4 * 8 + 2 * 16 * 8 + 5 * 2 * 64


BRANCHES = "".join(
    f"%{name} (x: f32[{size},{size}]) -> f32[] {{\n  %x = f32[{size},{size}]{{1,0}} parameter(0)\n"
    f"  ROOT %y = f32[{size},{size}]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}\n}}\n\n"
    for name, size in (("small", 4), ("large", 8))
) + (
    "%many (x: f32[4,4]) -> f32[] {\n  %x = f32[4,4]{1,0} parameter(0)\n  ROOT %loop = f32[4,4]{1,0} while(%x), "
    'condition=%less, body=%small, backend_config={"known_trip_count":{"n":"10"}}\n}\n\n'
    "%less (x: f32[4,4]) -> pred[] {\n  %x = f32[4,4]{1,0} parameter(0)\n  ROOT %l = pred[] constant(true)\n}\n\n"
)


@pytest.mark.parametrize(
    ("called", "flops", "moved"),
    [
        ("branch_computations={%small, %large}", 2 * 8**3, 3 * 4 * 64),
        ("branch_computations={%large, %many, %small}", 10 * 2 * 4**3, 10 * 3 * 4 * 16),
        ("true_computation=%small, false_computation=%large", 2 * 8**3, 3 * 4 * 64),
        ("true_computation=%large, false_computation=%small", 2 * 8**3, 3 * 4 * 64),
    ],
)
def test_of_branches_the_dearest_counts(called, flops, moved):
    text = BRANCHES + entry(
        "%p = s32[] parameter(0)",
        "%x.1 = f32[4,4]{1,0} parameter(1)",
        f"ROOT %c = f32[4,4]{{1,0}} conditional(%p, %x.1, %x.1), {called}, metadata={{}}",
    )
    found = program_costs.costs(text, 1)
    assert (found.flops, found.bytes) == (flops, moved)


def test_of_branches_that_compute_as_much_the_first_counts():
    copies = "".join(
        f"%{name} (x: f32[{size}]) -> f32[{size}] {{\n  %x = f32[{size}]{{0}} parameter(0)\n"
        f"  ROOT %y = f32[{size}]{{0}} copy(%x)\n}}\n\n"
        for name, size in (("first", 4), ("second", 8))
    )
    text = copies + entry("ROOT %c = f32[] conditional(), branch_computations={%first, %second}")
    assert program_costs.costs(text, 1).bytes == 2 * 4 * 4


@pytest.mark.parametrize(
    ("operand", "started", "moved"),
    [
        ("f32[8,4]{1,0}", "(f32[8,4]{1,0:S(1)}, f32[8,4]{1,0}, u32[]{:S(2)}) copy-start(%x)", 128),
        ("f32[8,4]{1,0:S(1)}", "(f32[8,4]{1,0}, f32[8,4]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%x)", 128),
        ("f32[8,4]{1,0}", "(f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]{:S(2)}) copy-start(%x)", 256),
        ("f32[8,4]{1,0}", "((f32[8,4]{1,0}), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2]}", 32),
        ("f32[8,4]{1,0}", "((f32[8,4]{1,0}), f32[2,4]{1,0}, s32[]{:S(2)}) slice-start(%x), slice={[0:2]}", 64),
        ("f32[8,4]{1,0:S(1)}", "((f32[8,4]{1,0:S(1)}), f32[2,4]{1,0}, s32[]{:S(2)}) slice-start(%x)", 32),
        ("f32[8,4]{1,0}", "(f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), dimensions={0}", 128 + 512),
    ],
)
def test_what_is_started_moves_its_operands_and_its_results_once(operand, started, moved):
    done = started.split(") ")[-1].split("-start")[0] + "-done"
    text = entry(f"%x = {operand} parameter(0)", f"%s = {started}", f"ROOT %d = f32[8,4]{{1,0}} {done}(%s)")
    assert program_costs.costs(text, 4).bytes == moved


def test_a_computation_that_is_started_counts_once():
    text = """%inside (a: f32[4,8]) -> f32[4,4] {
  %a = f32[4,8]{1,0} parameter(0)
  ROOT %product = f32[4,4]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

""" + entry(
        "%x = f32[4,8]{1,0} parameter(0)",
        "%s = ((f32[4,8]{1,0}), f32[4,4]{1,0}, u32[]) async-start(%x), calls=%inside",
        "%u = ((f32[4,8]{1,0}), f32[4,4]{1,0}, u32[]) async-update(%s), calls=%inside",
        "ROOT %d = f32[4,4]{1,0} async-done(%u), calls=%inside",
    )
    found = program_costs.costs(text, 1)
    assert (found.flops, found.bytes) == (2 * 4 * 4 * 8, 4 * (2 * 32 + 16))


@pytest.mark.parametrize(
    ("started", "size"),
    [
        ("(f32[4,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x)", 128),
        ("((f32[4,4]{1,0}, f32[2]{0}), (f32[8,4]{1,0}, f32[4]{0})) all-gather-start(%x, %y)", 128 + 16),
        ("((f32[8,4]{1,0}), f32[4,4]{1,0:T(8,128)}, u32[]{:S(2)}) reduce-scatter-start(%x)", 64),
        ("(f32[4,4]{1,0}, /*index=1*/f32[2]{0}) all-reduce-start(%x, %y)", 64 + 8),
        ("f32[4,4]{1,0} all-reduce-start(%x)", 64),
        ("(f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)", 16),
    ],
)
def test_results_of_a_collective_that_is_started(started, size):
    text = entry(f"ROOT %s = {started}, channel_id=1, replica_groups={{{{0,1}}}}")
    assert [found.bytes for found in program_costs.costs(text, 2).collectives] == [size]


@pytest.mark.parametrize(("kind", "sent"), [("ragged-all-to-all", 64 * 3 / 4), ("collective-broadcast", 64)])
def test_rarer_collectives(kind, sent):
    text = entry("%x = f32[16]{0} parameter(0)", f"ROOT %e = f32[16]{{0}} {kind}(%x), replica_groups={{{{0,1,2,3}}}}")
    assert [(found.kind, found.sent) for found in program_costs.costs(text, 4).collectives] == [(kind, sent)]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", 4),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}", 2),
        ("[2,4]<=[8]", 4),
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{}", 8),
    ],
)
def test_chips_of_a_group_in_each_way_of_writing_groups(groups, size):
    text = entry(f"ROOT %s = f32[4]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%sum")
    assert [found.group for found in program_costs.costs(text, 8).collectives] == [size]
