"""Broadcasting over the batch whose gradient is a matrix product."""

import functools

import jax
import jax.numpy as jnp


def sum_batch(x: jax.Array, groups: int = 1) -> jax.Array:
    """Sums over groups of consecutive examples: [B, ...] -> [groups, ...].

    As a product with a row of ones it runs at the speed of memory on every backend; XLA's own reduction over a leading
    axis is a hundred times slower on CPUs.
    """
    # The other axes stay apart, so that one of them may be spread over devices.
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    ones = jnp.ones((groups, 1, grouped.shape[1]), x.dtype)
    return jax.lax.dot_general(ones, grouped, (((2,), (1,)), ((0,), (0,))), precision="highest")[:, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast_batch(x: jax.Array, batch: int) -> jax.Array:
    """Repeats each of `x` [G, ...] for its group of consecutive examples: [batch, ...].

    G divides the batch; an array that already has `batch` rows is returned as it is. The gradient is `sum_batch`.
    """
    groups = x.shape[0]
    if groups == batch:
        return x
    return jnp.broadcast_to(x[:, None], (groups, batch // groups, *x.shape[1:])).reshape(batch, *x.shape[1:])


def _forward(x: jax.Array, batch: int) -> tuple[jax.Array, int]:
    return broadcast_batch(x, batch), x.shape[0]


def _backward(batch: int, groups: int, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient if groups == batch else sum_batch(gradient, groups),)


broadcast_batch.defvjp(_forward, _backward)
