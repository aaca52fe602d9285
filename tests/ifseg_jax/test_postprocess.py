"""Probability averaging against a NumPy version that sorts, and label maps against upsampled probabilities."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifseg_jax import knn_average, postprocess
from vlseg.nn.resize import resize_bilinear


def oracle(probabilities, features, k, iterations):
    """One image: [N, M] and [N, C], in double precision; equal similarities go to the first cell."""
    features = features.astype(np.float64)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.where(norm > 0, norm, 1)
    neighbours = np.argsort(-(features @ features.T).round(9), axis=1, kind="stable")[:, :k]
    for _ in range(iterations):
        probabilities = np.stack([probabilities[own].mean(axis=0) for own in neighbours])
    return probabilities


@pytest.fixture(scope="module")
def arrays():
    """Probabilities [3, 20, 4] and features [3, 20, 6]."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (3, 20)).astype(np.float32)
    return probabilities, rng.standard_normal((3, 20, 6)).astype(np.float32)


@pytest.mark.parametrize(("k", "iterations"), [(3, 25), (5, 1), (1, 4), (3, 0), (100, 2)])
def test_averages(arrays, k, iterations):
    probabilities, features = arrays
    averaged = knn_average(probabilities, features, k=k, iterations=iterations)
    assert averaged.shape == probabilities.shape and averaged.dtype == jnp.float32
    expected = [oracle(p, f, k, iterations) for p, f in zip(probabilities, features, strict=True)]
    np.testing.assert_allclose(averaged, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(averaged.sum(axis=-1), 1, rtol=0, atol=1e-5)


def test_defaults_are_those_of_the_paper(arrays):
    np.testing.assert_array_equal(knn_average(*arrays), knn_average(*arrays, k=3, iterations=25))
    assert np.abs(knn_average(*arrays) - knn_average(*arrays, iterations=24)).max() > 0


def test_more_neighbours_than_cells_is_the_mean(arrays):
    probabilities, features = arrays
    averaged = knn_average(probabilities, features, k=21, iterations=1)
    expected = np.broadcast_to(probabilities.mean(axis=1, keepdims=True), probabilities.shape)
    np.testing.assert_allclose(averaged, expected, rtol=0, atol=1e-6)


def test_lengths_of_features_do_not_matter(arrays):
    probabilities, features = arrays
    lengths = np.random.default_rng(1).uniform(0.5, 2000, (*features.shape[:2], 1)).astype(np.float32)
    np.testing.assert_allclose(
        knn_average(probabilities, features * lengths), knn_average(probabilities, features), rtol=0, atol=1e-5
    )


def test_ties_go_to_the_first_cell():
    # Cosines of unit vectors along axes are exactly 0 or 1. Cell 5 has no feature at all: equally far from everything.
    features = np.eye(3, dtype=np.float32)[[0, 1, 0, 0, 2, 0]]
    features[5] = 0
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 6).astype(np.float32)
    averaged = knn_average(probabilities[None], features[None], k=2, iterations=1)[0]
    neighbours = [[0, 2], [1, 0], [0, 2], [0, 2], [4, 0], [0, 1]]
    np.testing.assert_allclose(averaged, probabilities[neighbours].mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [3, 9])
def test_padding_takes_no_part(arrays, k):
    probabilities, features = arrays
    mask = np.random.default_rng(2).random((3, 20)) < 0.6
    mask[1], mask[2] = False, False
    mask[2, [3, 11]] = True  # fewer cells than neighbours; in the second image none
    averaged = np.asarray(knn_average(probabilities, features, k=k, iterations=4, mask=mask))
    for p, f, valid, result in zip(probabilities, features, mask, averaged, strict=True):
        if valid.any():
            alone = knn_average(p[None, valid], f[None, valid], k=k, iterations=4)[0]
            np.testing.assert_allclose(result[valid], alone, rtol=0, atol=1e-6)
            np.testing.assert_allclose(result[valid], oracle(p[valid], f[valid], k, 4), rtol=0, atol=1e-6)
        assert (result[~valid] == 0).all()


def test_whatever_stands_in_padding(arrays):
    probabilities, features = (array.copy() for array in arrays)
    mask = np.arange(20) < np.array([[20], [13], [2]])
    expected = knn_average(probabilities, features, mask=mask)
    probabilities[~mask], features[~mask] = 7.0, 1e6
    np.testing.assert_array_equal(knn_average(probabilities, features, mask=mask), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_products_of_zeros_and_ones_average_as_gathers_do(k, iterations, seed):
    rng = np.random.default_rng(seed)
    # Few different similarities, so that there are ties, and padding.
    similarity = rng.choice(np.float32([-0.5, 0.25, 0.75, 1.0]), (2, 9, 9))
    similarity[:, :, rng.random(9) < 0.3] = postprocess.MASKED_SIMILARITY
    probabilities = rng.dirichlet(np.ones(5), (2, 9)).astype(np.float32) * 10.0 ** rng.integers(-6, 1, (2, 9, 1))
    probabilities = probabilities.astype(np.float32)
    k = min(k, 9)
    expected = postprocess.average_by_gathers(k, iterations, probabilities, similarity)
    found = postprocess.average_by_products(k, iterations, probabilities, similarity)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_neither_sort_nor_gather(arrays, platform):
    mask = np.ones((3, 20), bool)
    slow = re.compile(r"chlo\.top_k|stablehlo\.(?:sort|dynamic_gather|gather)|call @\S*top_k")

    def found(platform):
        return slow.findall(jax.export.export(knn_average, platforms=[platform])(*arrays, mask=mask).mlir_module())

    assert not found(platform)
    assert {"stablehlo.sort", "stablehlo.gather"} <= set(found("cpu"))


def test_padding_that_is_not_a_number_takes_no_part(arrays):
    probabilities, features = (array.copy() for array in arrays)
    mask = np.arange(20) < np.array([[20], [13], [2]])
    expected = knn_average(probabilities, features, mask=mask)
    probabilities[~mask] = np.nan
    np.testing.assert_array_equal(knn_average(probabilities, features, mask=mask), expected)


@pytest.mark.parametrize("row_block", [16, 7, 500])
def test_label_maps(row_block):
    rng = np.random.default_rng(0)
    cells, sizes = np.array([[5, 6], [2, 3], [4, 1], [1, 6]]), np.array([[50, 61], [33, 20], [7, 61], [50, 2]])
    probabilities = rng.random((4, 5, 6, 3)).astype(np.float32)
    found = postprocess.best_categories(probabilities, cells, sizes, 1, 50, 61, row_block=row_block)
    maps, highest = (np.asarray(array)[..., 0] for array in found)
    assert maps.shape == (4, 50, 61) and maps.dtype == np.int32
    for row, ((h, w), (height, width)) in enumerate(zip(cells.tolist(), sizes.tolist(), strict=True)):
        pixels = np.asarray(resize_bilinear(jnp.asarray(probabilities[row : row + 1, :h, :w]), height, width)[0])
        chosen = np.take_along_axis(pixels, maps[row, :height, :width, None], axis=-1)[..., 0]
        np.testing.assert_allclose(chosen, pixels.max(axis=-1), rtol=0, atol=1e-6)
        np.testing.assert_allclose(highest[row, :height, :width], chosen, rtol=0, atol=1e-6)


def test_label_maps_without_padding():
    probabilities = np.random.default_rng(0).random((2, 5, 6, 3)).astype(np.float32)
    sizes = np.array([[20, 20], [20, 20]])
    whole = np.full((2, 2), [5, 6])
    expected = postprocess.best_categories(probabilities, whole, sizes, 2, 20, 20)
    found = postprocess.best_categories(probabilities, None, sizes, 2, 20, 20)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(("cells", "size"), [((5, 6), (50, 61)), ((20, 7), (40, 300)), ((2, 3), (150, 131))])
def test_tiles_are_as_the_whole(cells, size):
    values = np.random.default_rng(0).random((1, *cells, 5)).astype(np.float32)
    scores = postprocess.ImageScores(postprocess.GridScores(values, [cells], [size]), 0)
    whole = np.asarray(resize_bilinear(jnp.asarray(values), *size)[0])
    np.testing.assert_allclose(scores.probabilities(), whole, rtol=0, atol=1e-5)
    labels, highest = scores.top(2)
    assert labels.dtype == np.int32 and labels.shape == (*size, 2)
    np.testing.assert_allclose(highest, -np.sort(-whole)[..., :2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(whole, labels, axis=-1), highest, rtol=0, atol=1e-5)
    among = np.array([1, 2, 4])
    best, share = scores.most_probable(among)
    allowed = whole[..., among]
    np.testing.assert_allclose(share, allowed.max(axis=-1) / allowed.sum(axis=-1), rtol=1e-4)
    chosen = np.take_along_axis(whole, best[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, allowed.max(axis=-1), rtol=0, atol=1e-5)


def test_what_is_not_a_number_is_no_label():
    values = np.full((1, 2, 2, 3), 0.3, np.float32)
    values[0, 0, 0] = np.nan  # all of a token's, as a softmax makes them
    scores = postprocess.ImageScores(postprocess.GridScores(values, [(2, 2)], [(8, 8)]), 0)
    assert scores.label_map()[0, 0] == -1 and scores.top(2)[0][0, 0].tolist() == [-1, -1]


@pytest.mark.parametrize("categories", [1, 3, 6])
def test_categories_compared_a_few_at_a_time_give_the_same_label(categories):
    """Of equal ones the first, and never what is not a number, whatever a turn holds."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, (4, 4, categories)).astype(np.float32)
    each = np.eye(4, dtype=np.float32)
    best, highest = postprocess.best_by_loop(jnp.asarray(tokens), each, each)
    np.testing.assert_array_equal(best[..., 0], tokens.argmax(axis=-1))
    np.testing.assert_array_equal(highest[..., 0], tokens.max(axis=-1))
    nothing, _ = postprocess.best_by_loop(jnp.full(tokens.shape, jnp.nan), each, each)
    assert (np.asarray(nothing) == postprocess.NO_LABEL).all()
