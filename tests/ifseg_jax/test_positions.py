"""Positions against the official definitions, written out cell by cell in NumPy."""

import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifseg_jax.positions import (
    Grid,
    image_position_embeddings,
    offsets_table,
    relative_axes,
    relative_bias,
    resized_square,
    token_bias,
    token_buckets,
)

BUCKET, TRAINED, HEADS, WIDTH = 6, 4, 2, 3


def resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of [h, w, ...] with half-pixel centres, one target cell at a time."""

    def neighbours(index: int, source: int, target: int) -> tuple[int, int, float]:
        centre = min(max((index + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        low = math.floor(centre)
        return low, min(low + 1, source - 1), centre - low

    result = np.empty((height, width, *values.shape[2:]))
    for row in range(height):
        top, bottom, y = neighbours(row, values.shape[0], height)
        for column in range(width):
            left, right, x = neighbours(column, values.shape[1], width)
            upper = (1 - x) * values[top, left] + x * values[top, right]
            lower = (1 - x) * values[bottom, left] + x * values[bottom, right]
            result[row, column] = (1 - y) * upper + y * lower
    return result


def dense_bias(table: np.ndarray, bucket: int, trained: int) -> np.ndarray:
    """The 2-D bias [g, g, g, g, H] on the trained grid: one table row per pair (query row, column, key row, column)."""
    bias = np.empty((trained,) * 4 + table.shape[1:])
    for q, c, k, d in np.ndindex(bias.shape[:4]):
        bias[q, c, k, d] = table[(q - k + bucket - 1) * (2 * bucket - 1) + (c - d + bucket - 1)]
    return bias


def resized_bias(table: np.ndarray, bucket: int, trained: int, height: int, width: int) -> np.ndarray:
    """That bias resized along keys, then along queries: [H, N, N]."""
    bias = dense_bias(table, bucket, trained)
    by_key = np.stack([[resize(bias[q, c], height, width) for c in range(trained)] for q in range(trained)])
    by_query = resize(by_key, height, width)
    cells = height * width
    return by_query.reshape(cells, cells, -1).transpose(2, 0, 1)


def bias_of(table: np.ndarray, grid: Grid, *rows: slice) -> np.ndarray:
    """The bias of ours: [b, H, queries, keys]."""

    @jax.jit
    def bias(table: jax.Array, size: jax.Array | None) -> jax.Array:
        axes = relative_axes(grid._replace(size=size), TRAINED)
        return relative_bias(offsets_table(table, BUCKET, TRAINED), axes, *rows)

    values = np.asarray(bias(table, grid.size))
    batch, heads, query_rows, columns, key_rows, _ = values.shape
    return values.reshape(batch, heads, query_rows * columns, key_rows * columns)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal(((2 * BUCKET - 1) ** 2 + 3, HEADS)).astype(np.float32)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (6, 2), (1, 1)])
def test_relative_bias_between_cells(table, size):
    expected = resized_bias(table, BUCKET, TRAINED, *size)
    np.testing.assert_allclose(bias_of(table, Grid(*size))[0], expected, rtol=0, atol=1e-5)


def test_relative_bias_in_blocks_of_rows(table):
    grid = Grid(5, 3)
    whole = bias_of(table, grid)
    part = bias_of(table, grid, slice(2, 4), slice(0, 4))
    np.testing.assert_allclose(part, whole[:, :, 6:12, :12], rtol=0, atol=1e-6)


def test_relative_bias_of_padded_grids(table):
    sizes = np.array([[5, 6], [3, 5], [4, 4], [1, 2]])
    grid = Grid(5, 6, jnp.asarray(sizes))
    bias, valid = bias_of(table, grid), np.asarray(grid.valid())
    for row, size in enumerate(sizes):
        inner = bias[row][:, valid[row]][:, :, valid[row]]
        np.testing.assert_allclose(inner, resized_bias(table, BUCKET, TRAINED, *size), rtol=0, atol=1e-5)


def test_official_token_buckets():
    # Checksums of the buffers that the official code computes with PyTorch, offsets from -(P - 1) to P - 1.
    for bucket, length, checksum in ((256, 1024, 111998298), (16, 64, 3568574802), (32, 64, 947481158)):
        assert zlib.crc32(token_buckets(bucket, length).astype("<i4").tobytes()) == checksum


@pytest.mark.parametrize(("bucket", "length"), [(2, 1), (2, 9), (3, 2), (8, 5), (8, 2)])
def test_the_smallest_token_tables(bucket, length):
    with np.errstate(all="raise"):
        buckets = token_buckets(bucket, length)
    assert len(buckets) == 2 * length - 1 and buckets.min() >= 0 and buckets.max() <= 2 * (bucket - 1)


@given(st.integers(2, 64).map(lambda half: 2 * half), st.integers(1, 400))
def test_token_buckets_follow_the_rule(bucket, extra):
    length = bucket // 2 + 1 + extra
    buckets = token_buckets(bucket, length)
    middle = bucket // 2
    for offset, found in zip(range(-(length - 1), length), buckets, strict=True):
        if abs(offset) <= middle:
            allowed = {offset}
        else:
            fraction = math.log(abs(offset) / middle) / math.log((length - 1) / middle) * (middle - 1)
            # Single precision may fall on the other side of a whole number.
            distances = {math.ceil(fraction - 1e-4), math.ceil(fraction + 1e-4)}
            allowed = {(middle + distance) * (1 if offset > 0 else -1) for distance in distances}
        assert found - (bucket - 1) in allowed
    assert (np.diff(buckets) >= 0).all() and buckets.min() >= 0 and buckets.max() <= 2 * bucket - 2


@pytest.mark.parametrize("length", [1, 2, 9, 40])
def test_relative_bias_between_words(length):
    bucket, longest = 16, 40
    table = np.random.default_rng(0).standard_normal((2 * bucket - 1, HEADS)).astype(np.float32)
    buckets = token_buckets(bucket, longest)
    bias = np.asarray(jax.jit(lambda table: token_bias(table, buckets, length))(table))
    assert bias.shape == (1, HEADS, length, length)
    for query, key in np.ndindex(length, length):
        np.testing.assert_array_equal(bias[0, :, query, key], table[buckets[query - key + longest - 1]])


@pytest.fixture(scope="module")
def embeddings():
    return np.random.default_rng(1).standard_normal((BUCKET**2 + 1, WIDTH)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def image_positions(embeddings: jax.Array, size: jax.Array | None, rows: int, columns: int) -> jax.Array:
    return image_position_embeddings(embeddings, Grid(rows, columns, size), TRAINED, BUCKET)


@functools.partial(jax.jit, static_argnums=(2, 3))
def square_positions(square: jax.Array, size: jax.Array | None, rows: int, columns: int) -> jax.Array:
    return resized_square(square, Grid(rows, columns, size))


def position_oracle(embeddings: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Direct lookup up to the trained number of cells, else the trained square resized: [N, D]."""

    def row_of(row: int, column: int) -> int:
        return row * BUCKET + column + 1

    if rows * columns <= TRAINED**2:
        return np.stack([embeddings[row_of(row, column)] for row in range(rows) for column in range(columns)])
    square = np.stack([[embeddings[row_of(row, column)] for column in range(TRAINED)] for row in range(TRAINED)])
    return resize(square, rows, columns).reshape(rows * columns, -1)


@pytest.mark.parametrize("size", [(4, 4), (2, 6), (5, 3), (5, 4), (17, 1)])
def test_image_positions(embeddings, size):
    found = image_positions(embeddings, None, *size)
    assert found.shape == (1, size[0] * size[1], WIDTH)
    np.testing.assert_allclose(found[0], position_oracle(embeddings, *size), rtol=0, atol=1e-5)


def test_image_positions_of_padded_grids(embeddings):
    sizes = np.array([[6, 5], [3, 5], [4, 4], [4, 5], [1, 1]])  # on both sides of the trained number of cells
    grid = Grid(6, 5, jnp.asarray(sizes))
    found = np.asarray(image_positions(embeddings, grid.size, grid.rows, grid.columns))
    valid = np.asarray(grid.valid())
    for row, size in enumerate(sizes):
        np.testing.assert_allclose(found[row][valid[row]], position_oracle(embeddings, *size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 2), (5, 6)])
def test_segmentation_positions_are_always_resized(size):
    square = np.random.default_rng(2).standard_normal((TRAINED, TRAINED, WIDTH)).astype(np.float32)
    expected = resize(square, *size).reshape(-1, WIDTH)
    np.testing.assert_allclose(square_positions(square, None, *size)[0], expected, rtol=0, atol=1e-5)
    padded = np.asarray(square_positions(square, jnp.asarray([size]), 7, 6)).reshape(7, 6, WIDTH)
    np.testing.assert_allclose(padded[: size[0], : size[1]].reshape(-1, WIDTH), expected, rtol=0, atol=1e-5)


def test_preceding_cells():
    rows, columns = 4, 5
    sizes = [(height, width) for height in range(1, rows + 1) for width in range(1, columns + 1)]
    grid = Grid(rows, columns, jnp.asarray(sizes))
    preceding, valid = np.asarray(grid.preceding()), np.asarray(grid.valid())
    for row, (height, width) in enumerate(sizes):
        cells = [y * columns + x for y in range(height) for x in range(width)]
        assert np.flatnonzero(valid[row]).tolist() == cells
        # Decoder element c is cell c, the last is <s>.
        assert preceding[row, cells].tolist() == [grid.cells, *cells[:-1]]


def test_preceding_cells_without_padding():
    np.testing.assert_array_equal(Grid(3, 4).preceding(), [[12, *range(11)]])
    assert Grid(3, 4).valid() is None
