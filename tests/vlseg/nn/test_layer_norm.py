"""Oracle: flax's LayerNorm and its automatic gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.nn import layers
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 5, 16), (2, 3, 2, 4)])
def test_gradients_of_all_platforms_are_equal(shape, dtype):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal(shape) * 3 + 5, dtype)
    scale, bias = variables(shape[-1])["params"].values()
    saved = layers._normalize_forward(x, scale, bias, 1e-5)[1]
    gradient = rng.standard_normal(shape).astype(np.float32)
    for one, other in zip(
        layers._gradients_by_products(*saved, gradient), layers._gradients_by_sums(*saved, gradient), strict=True
    ):
        assert one.dtype == other.dtype and one.shape == other.shape
        # A slope may round to the neighbouring number of its type.
        tolerance = 1e-5 if one.dtype == jnp.float32 else 2**-7
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_take_plain_sums(platform):
    gradient = jax.grad(lambda params, x: LayerNorm().apply(params, x).sum(), argnums=(0, 1))
    traced = jax.jit(gradient).trace(variables(16), jnp.ones((2, 8, 16)))
    assert ("dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()) == (platform == "cpu")


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
