"""Optimizers and schedules, by name, as optax transformations."""

import optax


def learning_rate_schedule(base: float, steps: int, warmup_steps: int = 0, kind: str = "cosine") -> optax.Schedule:
    """Linear warm-up to `base` over `warmup_steps`, then "cosine" to 0 at `steps`, or "constant"."""
    if kind == "constant":
        after = optax.constant_schedule(base)
    else:
        after = optax.cosine_decay_schedule(base, max(steps - warmup_steps, 1))
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, base, warmup_steps), after], [warmup_steps])


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
    return optax.chain(*clip, optax.adamw(schedule, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay))
