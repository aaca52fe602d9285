"""Convolution and pooling against plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vlseg.nn.references import convolution, pool
from vlseg.nn.layers import Convolution, max_pool


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 1, (5, 4)), (3, 2, (5, 6)), (1, 2, (5, 4)), (7, 2, (9, 10))]
)
@pytest.mark.parametrize("as_patches", [False, True])
def test_convolutions(kernel, stride, size, as_patches):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, 3, 4)).astype(np.float32)
    layer = Convolution(4, kernel, stride, as_patches=as_patches)
    found = jax.jit(layer.apply)({"params": {"kernel": weight}}, x)
    np.testing.assert_allclose(found, convolution(x, weight, stride), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_pooling(size):
    x = np.random.default_rng(0).exponential(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), pool(x).astype(np.float32))
