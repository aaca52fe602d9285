"""The training loop: one compiled step, called until done, that can be stopped anywhere and resumed."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from vlseg.errors import ConfigError, VlsegError
from vlseg.training.checkpoints import Checkpoints
from vlseg.training.writers import MetricWriter

StepFunction = Callable[[Any, int], tuple[Any, dict[str, jax.Array]]]


class Schedule(NamedTuple):
    """steps: when to stop. log_every, checkpoint_every: in steps. keep: checkpoints that stay."""

    steps: int
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 2


class NonFiniteLossError(VlsegError):
    """The loss became NaN or infinite."""


def train(
    state: Any,
    step_function: StepFunction,
    workdir: str | os.PathLike[str],
    schedule: Schedule,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
) -> Any:
    """Runs `step_function` from the newest checkpoint in `workdir` (or from `state`) to `schedule.steps`.

    Args:
        state: a pytree of arrays, everything that a step changes.
        step_function: (state, step) -> (state, metrics); all its randomness must be a function of the step, which is
            what makes a resumed run equal an uninterrupted one. `metrics` are scalars that stay on the device until
            they are logged; "loss" is checked to be finite.
        workdir: for checkpoints, metrics.jsonl and TensorBoard.
        schedule: see there. A checkpoint is also written at the end and on SIGTERM.
        on_log: called with the step and the metrics of each log line.

    Raises:
        NonFiniteLossError: naming the step range; the last checkpoint is from before.
    """
    checkpoints = Checkpoints(workdir, schedule.keep)
    state, first = checkpoints.restore(state)
    writer = MetricWriter(workdir, first + 1)
    bar = tqdm(total=schedule.steps, initial=first, disable=not sys.stderr.isatty(), unit="step", desc="train")
    pending: list[dict[str, jax.Array]] = []
    stopping: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    started = time.monotonic()
    try:
        for step in range(first, schedule.steps):
            state, metrics = step_function(state, step)
            pending.append(metrics)
            done = step + 1
            bar.update()
            last = done == schedule.steps or bool(stopping)
            saving = last or done % schedule.checkpoint_every == 0
            logging = last or done % schedule.log_every == 0
            if saving or logging:
                _check_finite(pending, done)
            if logging:
                values = _means(pending)
                values["steps_per_second"] = len(pending) / (time.monotonic() - started)
                pending, started = [], time.monotonic()
                writer.write(done, values)
                bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
                if on_log:
                    on_log(done, values)
            if saving:
                checkpoints.save(done, state)
            if last and stopping:
                sys.exit(128 + stopping[0])
    finally:
        signal.signal(signal.SIGTERM, previous)
        bar.close()
        writer.close()
        checkpoints.close()
    return state


def check_counts(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for an interval or a number of checkpoints below 1."""
    for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
        if config[name] < 1:
            raise ConfigError(f"config.{name} is {config[name]}; it must be 1 or more")


def print_metrics(step: int, metrics: dict[str, float]) -> None:
    """One line of progress on standard output."""
    print(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def _means(pending: list[dict[str, jax.Array]]) -> dict[str, float]:
    host = jax.device_get(pending)
    return {name: float(np.mean([metrics[name] for metrics in host])) for name in host[0]}


def _check_finite(pending: list[dict[str, jax.Array]], step: int) -> None:
    """Raises NonFiniteLossError if a loss since the last log line, which ended before `pending`, is not finite."""
    losses = jax.device_get([metrics["loss"] for metrics in pending if "loss" in metrics])
    if not np.isfinite(losses).all():
        raise NonFiniteLossError(
            f"the loss is not finite between steps {step - len(pending) + 1} and {step}; lower the learning rate or "
            "resume from the last checkpoint"
        )
