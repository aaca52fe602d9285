"""Broadcasting over the batch whose gradient is a matrix product."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast_batch(x: jax.Array, batch: int) -> jax.Array:
    """Repeats `x` [1, ...] along the batch: [batch, ...]; an array that already has `batch` rows is returned as it is.

    The gradient sums over the batch. As a product with a row of ones that sum runs at the speed of memory on every
    backend; XLA's own reduction over a leading axis is a hundred times slower on CPUs.
    """
    return x if x.shape[0] == batch else jnp.broadcast_to(x, (batch, *x.shape[1:]))


def _forward(x: jax.Array, batch: int) -> tuple[jax.Array, bool]:
    return broadcast_batch(x, batch), x.shape[0] == batch


def _backward(batch: int, same: bool, gradient: jax.Array) -> tuple[jax.Array]:
    if same:
        return (gradient,)
    flat = gradient.reshape(batch, -1)
    ones = jnp.ones((1, batch), gradient.dtype)
    return (jnp.matmul(ones, flat, precision="highest").reshape(1, *gradient.shape[1:]),)


broadcast_batch.defvjp(_forward, _backward)
