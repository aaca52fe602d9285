"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Drops the residual branch of whole examples (stochastic depth, Huang et al. 2016), scaling the survivors.

    Attributes:
        rate: probability in [0, 1) that an example loses this branch during training.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """`x` float [B, ...] -> the same shape and dtype. Uses the rng stream "dropout" unless `deterministic`."""
        if deterministic or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))
