import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.nn.attention import broadcast_batch


def test_repeats_along_the_batch():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_array_equal(broadcast_batch(x, 4), np.tile(x, (4, 1, 1)))


def test_leaves_a_whole_batch_alone():
    x = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(broadcast_batch(x, 3), x)
    gradient = jax.grad(lambda x: jnp.sum(broadcast_batch(x, 3) * jnp.arange(6.0).reshape(3, 2)))(x)
    np.testing.assert_array_equal(gradient, np.arange(6.0).reshape(3, 2))


def test_groups_of_a_batch():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(broadcast_batch(x, 6), np.repeat(x, 3, axis=0))
    weight = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(broadcast_batch(x, 6) * weight))(x)
    np.testing.assert_allclose(gradient, weight.reshape(2, 3, 3).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 5])
def test_gradient_sums_over_the_batch(batch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 3, 4)), jnp.float32)
    weight = rng.standard_normal((batch, 3, 4)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(broadcast_batch(x, batch) * weight)))(x)
    np.testing.assert_allclose(gradient, weight.sum(axis=0, keepdims=True), rtol=1e-6, atol=1e-6)


def test_gradient_keeps_the_type():
    gradient = jax.grad(lambda x: jnp.sum(broadcast_batch(x, 3).astype(jnp.float32)))(jnp.ones((1, 2), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), [[3.0, 3.0]])
