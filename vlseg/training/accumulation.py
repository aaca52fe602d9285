"""Gradients of a batch in several parts, for batches whose activations do not fit the memory at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vlseg import sharding

Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Any]]


def value_and_gradient(loss: Loss, params: Any, carried: Any, batch: Any, parts: int) -> tuple[jax.Array, Any, Any]:
    """Sums of the loss and of its gradient over the parts of a batch.

    Args:
        loss: (params, carried, part of the batch, its number) -> (scalar, carried). Parts are summed, so each is
            divided by what counts in the whole batch. `carried` goes from part to part, such as batch statistics.
        params: what is differentiated. batch: pytree of [B, ...]. parts: divides B.

    Returns:
        The sum, `carried` after the last part, and the gradient.
    """
    differentiate = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (value, carried), gradient = differentiate(params, carried, batch, jnp.zeros((), jnp.int32))
        return value, carried, gradient

    def split(x: jax.Array) -> jax.Array:
        # Every part takes its share of every device's examples.
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(sums: tuple[Any, ...], inputs: tuple[jax.Array, Any]) -> tuple[tuple[Any, ...], None]:
        total, carried, gradients = sums
        number, part = inputs
        part = jax.tree.map(sharding.batch_sharded, part)
        (value, carried), gradient = differentiate(params, carried, part, number)
        return (total + value, carried, jax.tree.map(jnp.add, gradients, gradient)), None

    start = (jnp.zeros((), jnp.float32), carried, jax.tree.map(jnp.zeros_like, params))
    (value, carried, gradient), _ = jax.lax.scan(add, start, (jnp.arange(parts), jax.tree.map(split, batch)))
    return value, carried, gradient
