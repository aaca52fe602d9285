"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Drops the residual branch of whole examples (stochastic depth, Huang et al. 2016), scaling the survivors."""

    @nn.compact
    def __call__(self, x: jax.Array, rate: float | jax.Array, *, deterministic: bool) -> jax.Array:
        """`x` float [B, ...] -> the same shape and dtype.

        `rate` in [0, 1) is the probability that an example loses this branch; it may be traced. Uses the rng stream
        "dropout" unless `deterministic`.
        """
        if deterministic:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, shape)
        return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros_like(x))
