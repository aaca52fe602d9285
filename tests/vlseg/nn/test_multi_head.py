"""Attention by the kernel, run by XLA, and by XLA's products of blocks: the same values and gradients."""

import dataclasses
import logging
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import positions
from ifseg_jax.config import OFAConfig
from ifseg_jax.transformer import CellPattern, CrossPattern, EncoderPattern, WordPattern
from lseg_jax.encoders.transformer import SelfPattern
from vlseg.errors import ConfigError
from vlseg.nn import multi_head
from vlseg.nn.multi_head import kernels, multi_head_attention

CONFIG = OFAConfig(width=128, ffn_width=128, heads=2, query_blocks=3)
FULL = dataclasses.replace(CONFIG, full_context_alignment=True)
BATCH, WORDS = 2, 21
GRIDS = [
    pytest.param(8, 8, None, id="square"),
    pytest.param(5, 9, None, id="wide"),
    pytest.param(12, 7, [[12, 7], [9, 5]], id="padded"),
    pytest.param(32, 32, None, id="trained", marks=pytest.mark.slow),
    pytest.param(32, 32, [[32, 32], [20, 31]], id="trained and padded", marks=pytest.mark.slow),
]


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float32)


def both(pattern, queries, keys, tables=(), axes=None, mask=None, groups=1, heads=2):
    """Values and gradients without the kernel and with it."""
    width = heads * 64
    shapes = [(BATCH, queries), (BATCH, keys), (BATCH, keys), (groups, queries), (groups, keys), (BATCH, queries)]
    query, key, value, rows, columns, gradient = (drawn(*shape, width, seed=i) for i, shape in enumerate(shapes))
    arguments = query * 0.1, key, value, (rows * 0.1, columns), tables

    def run(query, key, value, pair, tables):
        options = {"positions": pair, "tables": tables, "fixed": axes, "key_mask": mask}
        return multi_head_attention(pattern, heads, query, key, value, **options)

    def found(mode):
        def with_gradients(*arguments):
            output, pull = jax.vjp(run, *arguments)
            return output, pull(gradient)

        with kernels(mode):
            return jax.jit(with_gradients)(*arguments)

    return found("none"), found("interpret")


def assert_same(results):
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()) + 1e-6)


@pytest.mark.parametrize(("rows", "columns", "sizes"), GRIDS)
@pytest.mark.parametrize("kind", ["encoder", "decoder", "full context", "cross"])
def test_on_grids(kind, rows, columns, sizes):
    grid = positions.Grid(rows, columns, None if sizes is None else jnp.asarray(sizes))
    axes, valid = positions.relative_axes(grid, 32), grid.valid()
    extra = WORDS if kind == "encoder" else 1
    length = grid.cells + extra
    mask = None if valid is None else jnp.concatenate([valid, jnp.ones((BATCH, extra), bool)], axis=1)
    if kind == "cross":
        results = both(CrossPattern(length, 30, 4), length, 30)
    elif kind == "encoder":
        tables, groups = (drawn(511, 2), drawn(83 * 83 + 3, 2)), 1 if sizes is None else BATCH
        results = both(EncoderPattern(CONFIG, length), length, length, tables, axes, mask, groups)
    else:
        pattern = CellPattern(FULL if kind == "full context" else CONFIG)
        results = both(pattern, length, length, (drawn(63 * 63 + 3, 2),), axes, mask)
    assert_same(results)


@pytest.mark.parametrize("pattern", [WordPattern(CONFIG, 17), SelfPattern(17, 2), SelfPattern(17, 2, causal=True)])
def test_among_words(pattern):
    tables = (drawn(511, 2),) if isinstance(pattern, WordPattern) else ()
    assert_same(both(pattern, 17, 17, tables, mask=jnp.arange(17) < jnp.asarray([[17], [9]])))


class Kernels:
    """Counts calls of kernels."""

    def __init__(self, monkeypatch):
        self.calls = 0
        forward = multi_head.fused_attention.forward

        def counted(*arguments, **options):
            self.calls += 1
            return forward(*arguments, **options)

        monkeypatch.setattr(multi_head.fused_attention, "forward", counted)


@pytest.mark.parametrize(
    ("heads", "width", "memory", "reason"),
    [
        (2, 96, None, "heads of 48 channels; it takes those of 64"),
        (3, 192, None, "3 heads over 1 devices; it takes pairs of heads"),
        (2, 128, 10_000, "17 queries and 17 keys, for which the core's memory is too small"),
        (2, 128, None, None),
    ],
)
def test_what_the_kernel_does_not_take_goes_the_other_way_and_is_said_once(
    heads, width, memory, reason, monkeypatch, caplog
):
    multi_head._report.cache_clear()
    found = Kernels(monkeypatch)
    if memory:
        monkeypatch.setattr(multi_head, "CORE_MEMORY", memory)
    x = drawn(BATCH, 17, width)
    with kernels("interpret"), caplog.at_level(logging.INFO, "vlseg.nn.multi_head"):
        for _ in range(2):
            output = multi_head_attention(SelfPattern(17, heads), heads, x, x, x)
    assert output.shape == x.shape and bool(found.calls) == (reason is None)
    expected = [] if reason is None else [f"attention without its kernel, which does not take {reason}"]
    assert caplog.messages == expected


@pytest.mark.parametrize(("generation", "capacity", "expected"), [(4, 16, None), (5, 128, 48), (5, 32, 24)])
def test_the_core_decides_how_much_memory_there_is(generation, capacity, expected, monkeypatch, caplog):
    multi_head._report.cache_clear()
    chip = types.SimpleNamespace(generation=generation, vmem_capacity_bytes=capacity * 2**20)
    monkeypatch.setattr(multi_head.pltpu, "get_tpu_info", lambda: chip)
    assert multi_head._memory() is None  # on this machine
    monkeypatch.setattr(multi_head.sharding, "platform", lambda: "tpu")
    with caplog.at_level(logging.INFO, "vlseg.nn.multi_head"):
        assert multi_head._memory() == (None if expected is None else expected * 2**20)
    assert ("TPUs before v5" in caplog.text) == (expected is None)


def test_the_environment_chooses_where_nothing_else_does(monkeypatch):
    found, x = Kernels(monkeypatch), drawn(BATCH, 17, 128)
    monkeypatch.setenv("VLSEG_KERNELS", "interpret")
    with kernels("none"):
        multi_head_attention(SelfPattern(17, 2), 2, x, x, x)
    assert not found.calls
    multi_head_attention(SelfPattern(17, 2), 2, x, x, x)
    assert found.calls == 1
    monkeypatch.setenv("VLSEG_KERNELS", "fast")
    with pytest.raises(ConfigError, match="VLSEG_KERNELS=fast: there are auto, none, interpret"):
        multi_head_attention(SelfPattern(17, 2), 2, x, x, x)


def test_gradients_take_the_way_of_the_values(monkeypatch):
    """Where the kernel has room for values alone, and where it is switched off in between."""
    x, pattern = drawn(BATCH, 40, 128), SelfPattern(40, 2)

    def run(x):
        return multi_head_attention(pattern, 2, x, x, x)

    expected = jax.vjp(run, x)[1](x)
    with kernels("interpret"):
        pull = jax.vjp(run, x)[1]
    np.testing.assert_allclose(pull(x), expected, rtol=1e-4, atol=1e-4)
    fits, asked = multi_head.fused_attention.fits, []

    def for_values(*arguments, backward, **options):
        asked.append(backward)
        return fits(*arguments, backward=backward, **options) and not backward

    monkeypatch.setattr(multi_head.fused_attention, "fits", for_values)
    found = Kernels(monkeypatch)
    with kernels("interpret"):
        run(x)
        assert found.calls == 1 and asked == [False]
        np.testing.assert_allclose(jax.vjp(run, x)[1](x), expected, rtol=1e-4, atol=1e-4)
    assert found.calls == 1 and asked == [False, False, True]


def test_one_mask_for_all_images_and_a_single_query(monkeypatch):
    """A single query does not compile for a TPU, though XLA would run it."""
    kernel = Kernels(monkeypatch)
    x, mask = drawn(BATCH, 17, 128), jnp.arange(17)[None] < 9
    for query in (x, x[:, :1]):

        def run(query=query):
            return multi_head_attention(CrossPattern(query.shape[1], 17, 1), 2, query, x, x, key_mask=mask)

        with kernels("interpret"):
            found = run()
        np.testing.assert_allclose(found, run(), rtol=1e-5, atol=1e-5)
        assert kernel.calls == 1


def test_causal_attention_of_many_heads_one_after_another(monkeypatch):
    x = drawn(BATCH, 17, 128)
    expected = multi_head_attention(SelfPattern(17, 2, causal=True), 2, x, x, x)
    monkeypatch.setattr(multi_head.attention, "CACHED_SCORES", 0)
    found = multi_head_attention(SelfPattern(17, 2, causal=True), 2, x, x, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_traced_for_tpus_a_program_still_runs_on_a_cpu(monkeypatch):
    x = drawn(BATCH, 17, 128)
    chip = types.SimpleNamespace(generation=5, vmem_capacity_bytes=2**27)
    monkeypatch.setattr(multi_head.sharding, "platform", lambda: "tpu")
    monkeypatch.setattr(multi_head.pltpu, "get_tpu_info", lambda: chip)

    def total(x):
        return multi_head_attention(SelfPattern(17, 2), 2, x, x, x).sum()

    chosen = jax.jit(jax.grad(total))
    assert "tpu_custom_call" not in chosen.trace(x).lower().as_text()
    found = chosen(x)
    with kernels("none"):
        np.testing.assert_allclose(found, jax.grad(total)(x), rtol=1e-5, atol=1e-5)


def test_programs_for_other_platforms_hold_no_kernel():
    x = drawn(BATCH, 17, 128)

    def run(x):
        return multi_head_attention(SelfPattern(17, 2), 2, x, x, x)

    for platform in ("cpu", "cuda", "tpu"):
        assert "tpu_custom_call" not in jax.jit(run).trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_batches_of_any_size_are_one_program_also_where_there_are_kernels():
    (batch,) = jax.export.symbolic_shape("b")
    x = drawn(BATCH, 17, 128)

    def run(x):
        with kernels("interpret"):
            return multi_head_attention(SelfPattern(17, 2), 2, x, x, x)

    program = jax.export.export(jax.jit(run))(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype))
    np.testing.assert_allclose(program.call(x), run(x), rtol=1e-5, atol=1e-5)
