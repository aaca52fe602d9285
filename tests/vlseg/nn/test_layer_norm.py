"""Oracle: flax's LayerNorm and its automatic gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.nn.layers import LayerNorm

FLAX = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)


def variables(width):
    rng = np.random.default_rng(width)
    scale, bias = rng.standard_normal((2, width)).astype(np.float32)
    return {"params": {"scale": scale, "bias": bias}}


@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 5, 16), (2, 3, 2, 4)])
def test_equals_flax(shape):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 3 + 5).astype(np.float32)
    weight = rng.standard_normal(shape).astype(np.float32)
    params = variables(shape[-1])
    np.testing.assert_allclose(LayerNorm().apply(params, x), FLAX.apply(params, x), rtol=1e-5, atol=1e-5)

    def gradients(norm):
        return jax.grad(lambda params, x: jnp.sum(norm.apply(params, x) * weight), argnums=(0, 1))(params, x)

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5),
        gradients(LayerNorm()),
        gradients(FLAX),
    )


def test_fresh_parameters_are_flax_ones():
    x = jnp.ones((2, 6))
    jax.tree.map(np.testing.assert_array_equal, LayerNorm().init(jax.random.key(0), x), FLAX.init(jax.random.key(0), x))


def test_types():
    x = jnp.linspace(-1, 1, 12, dtype=jnp.bfloat16).reshape(2, 6)
    norm, params = LayerNorm(dtype=jnp.bfloat16), variables(6)
    assert norm.apply(params, x).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: jnp.sum(norm.apply(params, x).astype(jnp.float32)))(x)
    assert gradient.dtype == jnp.bfloat16


def test_constant_rows_stay_finite():
    gradient = jax.grad(lambda x: jnp.sum(LayerNorm().apply(variables(4), x) ** 2))(jnp.full((2, 4), 7.0))
    assert np.isfinite(gradient).all()
