"""Artificial word maps: what is drawn is read back from batches whose categories are all different."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import artificial
from ifseg_jax.artificial import artificial_batch, resize_map
from vlseg.errors import ConfigError

EXAMPLES, SIDE, PIXELS, GRID = 600, 5, 40, 8
TYPE = f"rand_k-1-{SIDE + 1}"
draw = jax.jit(artificial_batch, static_argnums=(1, 2, 3, 4, 5))


@functools.cache
def distinct(grid: int = GRID):
    """Maps of so many categories that all cells of a map differ."""
    batch = draw(jax.random.key(0), EXAMPLES, 10**9, grid, PIXELS, TYPE)
    return np.asarray(batch.grids), np.asarray(batch.targets)


def sides(target: np.ndarray) -> tuple[int, int]:
    """u and v of a map of distinct cells, as there are at least as many pixels."""
    return len(np.unique(target[:, 0])), len(np.unique(target[0]))


def test_shapes_and_types():
    batch = draw(jax.random.key(0), 3, 7, GRID, PIXELS, TYPE)
    assert batch.grids.shape == (3, GRID, GRID) and batch.grids.dtype == jnp.int32
    assert batch.targets.shape == (3, PIXELS, PIXELS) and batch.targets.dtype == jnp.int32


def test_sides_are_uniform():
    counts = np.zeros((SIDE + 1, SIDE + 1))
    for target in distinct()[1]:
        counts[sides(target)] += 1
    assert counts[0].sum() == counts[:, 0].sum() == 0
    expected = EXAMPLES / SIDE**2
    chi_square = ((counts[1:, 1:] - expected) ** 2 / expected).sum()
    assert chi_square < 52  # 24 degrees of freedom: less than one seed in a thousand exceeds this


@pytest.mark.parametrize("grid", [GRID, 3])
def test_one_map_at_both_resolutions(grid):
    for tokens, target in zip(*distinct(grid), strict=True):
        u, v = sides(target)
        # Pixel i shows row floor(i * u / PIXELS); the first to show row r is the ceiling of r * PIXELS / u.
        rows, columns = ([math.ceil(r * PIXELS / n) for r in range(n)] for n in (u, v))
        seed_map = target[np.ix_(rows, columns)]
        assert len(np.unique(seed_map)) == u * v

        def resized(side, seed_map=seed_map, u=u, v=v):
            return [[seed_map[i * u // side, j * v // side] for j in range(side)] for i in range(side)]

        np.testing.assert_array_equal(target, resized(PIXELS))
        np.testing.assert_array_equal(tokens, resized(grid))


def test_categories_are_uniform():
    batch = draw(jax.random.key(1), EXAMPLES, 4, GRID, PIXELS, TYPE)
    first = np.asarray(batch.grids)[:, 0, 0]
    counts = np.bincount(first, minlength=4)
    assert len(counts) == 4 and (np.abs(counts - EXAMPLES / 4) < 4 * (EXAMPLES * 3 / 16) ** 0.5).all()
    assert np.asarray(batch.targets).min() == 0 and np.asarray(batch.targets).max() == 3


def test_the_largest_side():
    batch = draw(jax.random.key(0), 20, 10**9, GRID, PIXELS, "rand_k-1-2")
    for target in np.asarray(batch.targets):
        assert sides(target) == (1, 1)


def test_keys_decide():
    one, same, other = (draw(jax.random.key(seed), 4, 9, GRID, PIXELS, TYPE) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.targets, same.targets)
    np.testing.assert_array_equal(one.grids, same.grids)
    assert (np.asarray(one.targets) != np.asarray(other.targets)).any()
    assert (np.asarray(one.targets[0]) != np.asarray(one.targets[1])).any()


def test_resizing_uses_the_leading_part_alone():
    seed_map = jnp.arange(16).reshape(4, 4)
    resized = resize_map(seed_map, (jnp.asarray(2), jnp.asarray(3)), 4, 5)
    expected = [[int(seed_map[i * 2 // 4, j * 3 // 5]) for j in range(5)] for i in range(4)]
    np.testing.assert_array_equal(resized, expected)


def test_sides_from_one_to_before_another():
    """rand_k-L-R draws from L to R - 1; both occur."""
    targets = draw(jax.random.key(0), 60, 10**9, GRID, PIXELS, "rand_k-3-5").targets
    assert {sides(target) for target in np.asarray(targets)} == {(3, 3), (3, 4), (4, 3), (4, 4)}
    assert artificial.sides("rand_k") == artificial.sides("rand_k-1-33") == (1, 33)


def test_a_category_for_each_token():
    """norand_k: every token its own, shown as one square of pixels."""
    batch = draw(jax.random.key(0), 2, 10**9, GRID, PIXELS, "norand_k")
    grids, targets = np.asarray(batch.grids), np.asarray(batch.targets)
    assert len(np.unique(grids)) == grids.size
    np.testing.assert_array_equal(targets, grids.repeat(PIXELS // GRID, axis=1).repeat(PIXELS // GRID, axis=2))


@pytest.mark.parametrize("kind", ["random", "none", "rand_k-0-3", "rand_k-3-3", "rand_k-3", "rand_k-1-2-3", "norand"])
def test_types_that_do_not_exist(kind):
    with pytest.raises(ConfigError, match=f"artificial_image_type '{kind}' is none of rand_k, norand_k"):
        artificial.sides(kind)
