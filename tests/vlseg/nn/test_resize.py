import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlseg.nn.resize import _products, interpolation_matrix, resize_bilinear, resize_nearest_indices

SIDES = st.integers(1, 40)


def weights(source: int, target: int) -> np.ndarray:
    """The definition with exact fractions: linear interpolation at (i + 1/2) * source / target - 1/2, clamped."""
    matrix = np.zeros((target, source))
    for index in range(target):
        centre = (index + Fraction(1, 2)) * Fraction(source, target) - Fraction(1, 2)
        centre = min(max(centre, Fraction(0)), Fraction(source - 1))
        low = math.floor(centre)
        matrix[index, low] += float(1 - (centre - low))
        if centre > low:
            matrix[index, low + 1] += float(centre - low)
    return matrix


@functools.partial(jax.jit, static_argnums=(2, 3))
def padded_matrix(source, target, max_in, max_out):
    return interpolation_matrix(source, target, max_in, max_out)


@given(SIDES, SIDES)
def test_weights(source, target):
    matrix = np.asarray(padded_matrix(source, target, 40, 40))
    np.testing.assert_allclose(matrix[:target, :source], weights(source, target), rtol=0, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-5)
    assert (matrix[:, source:] == 0).all()
    np.testing.assert_allclose(matrix[target:, source - 1], 1.0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(3, 8), (8, 3), (1, 5), (5, 1)])
def test_static_sizes_need_no_maximum(source, target):
    matrix = interpolation_matrix(source, target)
    assert matrix.shape == (target, source) and matrix.dtype == jnp.float32
    np.testing.assert_allclose(matrix, weights(source, target), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(1, 5), (5, 1), (3, 8), (8, 3), (30, 60)])
def test_aligned_corners(source, target):
    matrix = np.asarray(interpolation_matrix(source, target, align_corners=True))
    places = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    expected = [np.interp(places, np.arange(source), row) for row in np.eye(source)]
    np.testing.assert_allclose(matrix, np.transpose(expected), rtol=0, atol=1e-5)


def test_the_same_size_is_the_identity():
    for size in (1, 7, 32):
        np.testing.assert_array_equal(interpolation_matrix(size, size), np.eye(size))


def test_a_batch_of_sizes():
    sources, targets = np.array([12, 5, 1, 9]), np.array([20, 7, 3, 2])
    matrices = padded_matrix(sources, targets, 12, 20)
    assert matrices.shape == (4, 20, 12)
    for matrix, source, target in zip(matrices, sources, targets, strict=True):
        np.testing.assert_allclose(matrix[:target, :source], weights(source, target), rtol=0, atol=1e-5)


def test_a_size_from_an_array_needs_its_maximum():
    with pytest.raises(TypeError, match="maximum"):
        interpolation_matrix(jnp.asarray([3]), 4)
    with pytest.raises(TypeError, match="maximum"):
        interpolation_matrix(3, jnp.asarray([4]), 3)


@pytest.mark.parametrize("size", [(6, 10), (3, 2), (1, 9)])
def test_bilinear(size):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)
    rows, columns = weights(3, size[0]), weights(5, size[1])
    expected = np.einsum("yh,xw,bhwc->byxc", rows, columns, x)
    found = jax.jit(resize_bilinear, static_argnums=(1, 2))(x, *size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 10), (3, 2), (1, 9)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_both_ways_of_bilinear_and_their_gradients(size, align_corners):
    rng = np.random.default_rng(0)
    x, slope = (rng.standard_normal((2, *sides, 4)).astype(np.float32) for sides in ((3, 5), size))
    rows, columns = (
        np.asarray(interpolation_matrix(*sides, align_corners=align_corners))
        for sides in zip((3, 5), size, strict=True)
    )
    for resize in (
        functools.partial(resize_bilinear, height=size[0], width=size[1], align_corners=align_corners),
        functools.partial(_products, (3, 5), size, align_corners),
    ):
        found, pull_back = jax.vjp(jax.jit(resize), x)
        np.testing.assert_allclose(found, np.einsum("yh,xw,bhwc->byxc", rows, columns, x), rtol=0, atol=1e-5)
        expected = np.einsum("yh,xw,byxc->bhwc", rows, columns, slope)
        np.testing.assert_allclose(jax.jit(pull_back)(slope)[0], expected, rtol=0, atol=1e-5)


def test_bilinear_keeps_the_type():
    assert resize_bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), 5, 5).dtype == jnp.bfloat16


@pytest.mark.parametrize("target", [1, 7, 60])
def test_nearest(target):
    sources = np.arange(1, 3000, 7)
    indices = resize_nearest_indices(jnp.asarray(sources), target)
    assert indices.dtype == jnp.int32
    expected = [[index * int(source) // target for index in range(target)] for source in sources]
    np.testing.assert_array_equal(indices, expected)
    assert resize_nearest_indices(5, target).tolist() == [index * 5 // target for index in range(target)]
