"""A batch in parts has the loss and gradient of the whole, for both models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax.settings import Adaptation
from lseg_jax.settings import Training
from vlseg.errors import ConfigError
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training.optimizers import value_and_gradient


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("mean", ["pixels", "images"])
def test_parts_sum_to_the_whole(parts, mean):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)
    cells = jnp.asarray(rng.standard_normal((6, 2, 2, 4)), jnp.float32)
    # Examples differ in how many pixels count.
    targets = jnp.asarray(np.where(rng.random((6, 8, 8)) < np.linspace(0, 1, 6)[:, None, None], rng.integers(0, 5), -1))
    pixels = counted_pixels(targets, 5)

    def loss(params, seen, part, number):
        count = pixels if mean == "pixels" else 6 * counted_pixels(part[1], 5, axis=(1, 2))
        value = upsampled_cross_entropy(part[0] @ params, part[1], count=count)
        return value, seen + (number + 1) * len(part[0])

    batch, start = (cells, targets), jnp.zeros((), jnp.int32)
    whole, seen, gradient = jax.jit(lambda: value_and_gradient(loss, params, start, batch, 1))()
    assert seen == 6
    value, seen, parted = jax.jit(lambda: value_and_gradient(loss, params, start, batch, parts))()
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    np.testing.assert_allclose(parted, gradient, rtol=1e-5, atol=1e-7)
    assert seen == sum(range(1, parts + 1)) * 6 // parts

    def of_image(params, one):
        return upsampled_cross_entropy(cells[one : one + 1] @ params, targets[one : one + 1])

    def plain(params):
        if mean == "pixels":
            return upsampled_cross_entropy(cells @ params, targets)
        return sum(of_image(params, one) for one in range(6)) / 6

    expected = jax.grad(plain)(params)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [Adaptation, Training])
def test_parts_that_do_not_divide_the_batch(kind):
    with pytest.raises(ConfigError, match="accumulation_steps 3 does not divide the batch of 8"):
        kind(batch_size=8, accumulation_steps=3)
