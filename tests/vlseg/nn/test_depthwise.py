"""Depthwise convolution against loops, against XLA's grouped convolution, and what either platform compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax

from vlseg.nn.depthwise import depthwise, same_padding

GROUPED = "feature_group_count = 6"


def by_loops(x, kernel, stride):
    """Every output on its own in double precision; TensorFlow's "SAME": what is missing in all, half of it before."""
    side = len(kernel)
    counts = [-(-length // stride) for length in x.shape[1:3]]
    befores = [
        max((count - 1) * stride + side - length, 0) // 2 for count, length in zip(counts, x.shape[1:3], strict=True)
    ]
    result = np.zeros((len(x), *counts, x.shape[-1]))
    for row, column in np.ndindex(*counts):
        for i, j in np.ndindex(side, side):
            y, z = row * stride + i - befores[0], column * stride + j - befores[1]
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                result[:, row, column] += x[:, y, z].astype(float) * kernel[i, j].astype(float)
    return result


def grouped(x, kernel, stride):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel[:, :, None], (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


def drawn(shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@functools.partial(jax.jit, static_argnames="stride")
def both(x, kernel, cotangent, stride):
    """Output and gradients of ours and of XLA's."""
    found = []
    for function in (depthwise, grouped):
        output, pullback = jax.vjp(lambda x, kernel, function=function: function(x, kernel, stride), x, kernel)
        found.append((output, *pullback(cotangent.astype(x.dtype))))
    return found


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_is_a_sum_over_windows_with_its_gradients(height, width, side, stride):
    x, kernel = drawn((2, height, width, 3)), drawn((side, side, 3), seed=1)
    expected = by_loops(np.asarray(x), np.asarray(kernel), stride)
    own, convolved = both(x, kernel, drawn(expected.shape, seed=2), stride)
    np.testing.assert_allclose(own[0], expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(own, convolved, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "side", "stride"), [((7, 10), 3, 2), ((6, 7), 5, 1)])
def test_half_precision_stays_and_is_near(size, side, stride):
    half = [drawn((1, *size, 4)).astype(jnp.bfloat16), drawn((side, side, 4), seed=1).astype(jnp.bfloat16)]
    cotangent = drawn([1, *(-(-length // stride) for length in size), 4], jnp.bfloat16, seed=2)
    found, _ = both(*half, cotangent, stride)
    _, expected = both(*(array.astype(jnp.float32) for array in half), cotangent, stride)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        # Sums of up to 25 terms, each rounded to 8 bits.
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.1, atol=0.15)


@given(st.integers(1, 99), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_padding_makes_room_for_the_windows(length, side, stride):
    before, after = same_padding(length, side, stride)
    assert (length + before + after - side) // stride + 1 == -(-length // stride)
    assert 0 <= after - before <= 1
    assert [(before, after)] == lax.padtype_to_pads((length,), (side,), (stride,), "SAME")


@pytest.mark.parametrize("stride", [1, 2])
def test_cpus_sum_and_accelerators_convolve(stride):
    def taken(x, kernel):
        output, pullback = jax.vjp(lambda x, kernel: depthwise(x, kernel, stride), x, kernel)
        return output, pullback(jnp.ones_like(output))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 6), (3, 3, 6))]

    def lowered(function, platform):
        return export.export(jax.jit(function), platforms=[platform])(*shapes).mlir_module()

    for platform in ("tpu", "cuda"):
        text = lowered(taken, platform)
        assert GROUPED in text and text.count("stablehlo.convolution") == 3
    assert "stablehlo.convolution" not in lowered(taken, "cpu")
