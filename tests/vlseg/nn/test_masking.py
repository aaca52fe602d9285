"""Sizes of padded images, and the zeros beyond them."""

import jax.numpy as jnp
import numpy as np

from vlseg.nn.layers import halve, zero_outside


def test_sizes_after_a_layer_of_stride_2():
    assert halve(None) is None
    np.testing.assert_array_equal(halve(jnp.asarray([[1, 2], [7, 8]])), [[1, 1], [4, 4]])


def test_zeroes_beyond_an_images_size():
    x = jnp.ones((2, 2, 3, 1))
    np.testing.assert_array_equal(zero_outside(x, None), x)
    masked = zero_outside(x, jnp.asarray([[1, 2], [2, 0]]))[..., 0]
    np.testing.assert_array_equal(masked, [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
