"""Optimizers and schedules, by name, as optax transformations, and gradients of a batch in several parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlseg import sharding

Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Any]]


def learning_rate_schedule(base: float, steps: int, warmup_steps: int = 0, kind: str = "cosine") -> optax.Schedule:
    """Linear warm-up to `base` over `warmup_steps`, then "cosine" to 0 at `steps`, or "constant"."""
    if kind == "constant":
        after = optax.constant_schedule(base)
    else:
        after = optax.cosine_decay_schedule(base, max(steps - warmup_steps, 1))
    if warmup_steps:
        after = optax.join_schedules([optax.linear_schedule(0.0, base, warmup_steps), after], [warmup_steps])

    def rate(step: jax.Array | int) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # which optax needs, whatever the user has chosen
            return jnp.asarray(after(step))

    return rate


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.1,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on every parameter and a global-norm clip, as fairseq applies them."""
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(*clip, _scale_by_adam(b1, b2, epsilon), decay, optax.scale_by_learning_rate(schedule))


def _scale_by_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam whose epsilon is added to the root of the second moment before its bias is corrected, as fairseq has it.

    optax and PyTorch add it after: 1 / sqrt(1 - b2) = 32 times less of it counts in the first step, which shows in
    parameters with gradients of 1e-6 and less.
    """

    def update(gradients: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, gradients)
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - jax.lax.pow(jnp.float32(b2), count)) / (1 - jax.lax.pow(jnp.float32(b1), count))
        updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def poly_schedule(
    base: float, steps: int, power: float = 0.9, *, hold: int = 1, warmup_steps: int = 0
) -> optax.Schedule:
    """`base` * (1 - progress) ** power, where the progress of `steps` is updated every `hold` steps.

    A linear warm-up from 0 multiplies its first `warmup_steps` steps.
    """

    def rate(step: jnp.ndarray) -> jnp.ndarray:
        progress = jnp.minimum((step // hold) * hold / steps, 1.0)
        warm = jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0) if warmup_steps else 1.0
        return base * warm * (1.0 - progress) ** power

    return rate


def sgd(schedule: optax.Schedule, *, momentum: float = 0.9, weight_decay: float = 1e-4) -> optax.GradientTransformation:
    """SGD with momentum as in PyTorch: the decay is added to the gradient, and the rate applied after the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.trace(momentum), optax.scale_by_learning_rate(schedule)
    )


def scale_by_name(factor: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiplies the update of each entry of a flat dict of parameters by a factor of its name."""
    return optax.stateless(lambda updates, _: {name: factor(name) * update for name, update in updates.items()})


def initial_state(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """The state of an optimizer of this module before its first step, all zeros, in host memory.

    So no device holds all of it before it is spread over a mesh.
    """
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(optimizer.init, params))


def value_and_gradient(loss: Loss, params: Any, carried: Any, batch: Any, parts: int) -> tuple[jax.Array, Any, Any]:
    """Sums of the loss and of its gradient over the parts of a batch, whose activations may not fit the memory at once.

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
