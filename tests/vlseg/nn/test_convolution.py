"""Convolution and pooling against plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vlseg.nn.references import convolution, pool
from vlseg.nn.layers import Convolution, max_pool
from vlseg.nn.layers import convolution as convolution_of


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


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (1, 1)])
@pytest.mark.parametrize("size", [(19, 4), (8, 3), (1, 1), (2, 17)])
def test_gradients_are_those_of_the_convolution_that_xla_differentiates(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, 3, 4)).astype(np.float32)

    def plain(x, weight):
        pads = [(kernel // 2, kernel // 2)] * 2
        return jax.lax.conv_general_dilated(
            x, weight, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def gradients(function):
        return jax.jit(jax.grad(lambda x, weight: jnp.sum(jnp.sin(function(x, weight))), (0, 1)))(x, weight)

    for found, expected in zip(gradients(lambda *a: convolution_of(*a, stride)), gradients(plain), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_pooling(size):
    x = np.random.default_rng(0).exponential(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), pool(x).astype(np.float32))
