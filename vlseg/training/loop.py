"""The training loop: one compiled step, called until done, that can be stopped anywhere and resumed."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from vlseg import distributed, json_files, storage
from vlseg.checks import check_numbers
from vlseg.errors import ConfigError, StorageError, VlsegError
from vlseg.progress import Progress
from vlseg.training.checkpoints import Checkpoints
from vlseg.training.finite import NonFiniteLossError, listed, not_finite
from vlseg.training.lease import Lease, held
from vlseg.training.telemetry import MetricWriter, Profiler, Work, rates
from vlseg.training.validation import History, Validation

StepFunction = Callable[[Any, int], tuple[Any, dict[str, jax.Array]]]
STOPPED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells give it."""

FAILURE_FILE = "non_finite_loss.json"
FINITE = {"loss": "loss", "gradient_norm": "gradient"}
"""Metrics that must be finite, and what they are of."""

STATE = "state"
"""What is not finite where it is neither: parameters, running statistics, the optimizer's part."""

FREE = (
    *("evaluation", "data.strict", "validation.strict", "loading", "mesh", "log_every", "profile"),
    *("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_period"),
)
"""Settings of `configs` that a run may change when it goes on."""


class Schedule(NamedTuple):
    """When a run does what.

    steps: when to stop. log_every, checkpoint_every: in steps. checkpoint_minutes: a checkpoint also with a log line
    when so much time has passed since the last, None for never. keep: checkpoints that stay. keep_period: those at
    multiples of it stay too, None for none. profile: the first and the last step of a profile, None for none.
    """

    steps: int
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 2
    checkpoint_minutes: float | None = None
    keep_period: int | None = None
    profile: tuple[int, int] | None = None

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, steps: int) -> "Schedule":
        """From the settings of a run.

        Raises:
            ConfigError: an interval or a number of checkpoints below 1, or a profile that is not like "10:12".
        """
        check_numbers(config, "log_every", "checkpoint_every", "keep_checkpoints", least=1, whole=True, where="config.")
        check_numbers(config, "checkpoint_minutes", "keep_period", where="config.")
        profile = _read_profile(config.profile)
        for name, first in {"keep_period": config.keep_period, "profile": profile[0] if profile else 0}.items():
            if first > steps > 0:
                raise ConfigError(
                    f"config.{name}={config[name]} has no effect, because the run ends after step {steps}: leave it out"
                )
        return cls(
            steps,
            config.log_every,
            config.checkpoint_every,
            config.keep_checkpoints,
            config.checkpoint_minutes or None,
            config.keep_period or None,
            profile,
        )


def _read_profile(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"config.profile {text!r} is not like 10:12, the first and the last step")
    return int(first), int(last)


class Interruption:
    """While the block runs, SIGTERM does not end the process but is noticed between two steps.

    Cloud TPU, Kubernetes and Slurm send it before they take a machine away.

    Of several processes all notice it after the same step, whichever of them got the signal. Each may get one of its
    own then, so what must not be cut short, such as writing the last checkpoint, belongs into the block too.

    Attributes:
        received: whether this process got the signal; told where it works alone.
    """

    def __init__(self) -> None:
        # JAX's own handler tells the other processes, so it must stay.
        self._together = jax.distributed.is_initialized()
        self.received = False
        self._stopping = False
        self._previous: object = None

    def __enter__(self) -> "Interruption":
        if not self._together:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # What comes after the block does not ask whether to stop, or does nothing but leave the others in good order.
        alone = signal.SIG_IGN if self._stopping else signal.SIG_DFL
        signal.signal(signal.SIGTERM, alone if self._together else self._previous)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: object) -> None:
        del number, frame
        self.received = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every step."""
        together = self._together and multihost_utils.reached_preemption_sync_point(step)
        self._stopping = together or self.received
        return self._stopping


def train(
    state: Any,
    step_function: StepFunction,
    workdir: str | os.PathLike[str],
    schedule: Schedule,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    *,
    work: Work | None = None,
    config: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
    lease: Lease | None = None,
) -> Any:
    """Runs `step_function` from the newest checkpoint in `workdir` (or from `state`) to `schedule.steps`.

    Several processes call this together; process 0 writes metrics and calls `on_log`.

    Args:
        state: a pytree of arrays, everything that a step changes.
        step_function: (state, step) -> (state, metrics); all its randomness must be a function of the step, which is
            what makes a resumed run equal an uninterrupted one. `metrics` are scalars that stay on the device until
            they are logged, as means since the last log line or the start; "loss" and "gradient_norm" must be finite.
        workdir: for checkpoints, metrics.jsonl and TensorBoard; local or `gs://...`.
        schedule: see there. A checkpoint is also written at the end and on SIGTERM.
        on_log: called with the step and the metrics of each log line.
        work: what a step does, from which rates are computed.
        config: JSON-ready settings to be recorded with the checkpoints.
        validation: when and how the state is scored. Scores stand in validation.jsonl, each for a step that is saved
            before it is scored; the checkpoint of the best step stays.
        lease: of `workdir`, if the caller has one; otherwise it is held while this runs.

    Raises:
        NonFiniteLossError: naming the step; the last checkpoint is from before.
        CheckpointError: the newest checkpoint is of another model, or all are damaged.
        StorageError: `workdir` fails or is full, or processes do not see the same one.
        ConfigError: another run works in `workdir`, or has taken it over; or a package for its bucket is missing.
        SystemExit: 143 after SIGTERM, when all is saved.
    """
    if lease is None:
        with held(workdir) as own:
            return train(
                state,
                step_function,
                workdir,
                schedule,
                on_log,
                work=work,
                config=config,
                validation=validation,
                lease=own,
            )
    writer: MetricWriter | None = None
    # Scoring takes long: that the directory is still this run's is looked at again before scores are written.
    history = History(workdir, validation and validation.then(lambda: _check_lease(lease, writer)))
    checkpoints = Checkpoints(workdir, schedule.keep, schedule.keep_period, config, history.best)
    state, first = checkpoints.restore(state)
    history.forget_after(first)
    writer = MetricWriter(workdir, first + 1) if distributed.is_main() else None
    _say_what_is_repeated(workdir, first)
    progress = Progress(schedule.steps, "train", "step", initial=first, shown=distributed.is_main())
    pending: list[dict[str, jax.Array]] = []
    profiler = Profiler(workdir, schedule.profile)
    started = saved = time.monotonic()
    stopped = False
    with contextlib.ExitStack() as closing:
        # The last comes first; each is closed whatever becomes of the others.
        interruption = closing.enter_context(Interruption())
        closing.callback(checkpoints.close)
        if writer:
            closing.callback(writer.close)
        closing.callback(progress.close)
        closing.callback(profiler.close)
        if first and first not in history.scores and history.is_due(first, schedule.steps):
            _validate(history, state, first, writer)  # saved, but stopped before it was scored
            started = time.monotonic()
        for step in range(first, schedule.steps):
            done = step + 1
            profiler.before(done)
            state, metrics = step_function(state, step)
            profiler.after(done, metrics)
            pending.append(metrics)
            progress.update()
            stopped = interruption.reached(done)
            last = stopped or done == schedule.steps
            validating = history.is_due(done, schedule.steps)
            logging = last or validating or done % schedule.log_every == 0
            saving = last or validating or done % schedule.checkpoint_every == 0
            if logging and schedule.checkpoint_minutes is not None:
                # Process 0 decides: clocks differ, and all processes must save or none.
                late = time.monotonic() - saved > 60 * schedule.checkpoint_minutes
                saving |= bool(distributed.from_main(np.asarray(late)))
            if saving or logging:
                host = jax.device_get(pending)
                _check_lease(lease, writer)
                _check_finite(host, state if saving else None, done, checkpoints, workdir)
            if logging:
                values = _means(host) | rates(len(pending), time.monotonic() - started, work)
                pending, started = [], time.monotonic()
                if writer:
                    writer.write(done, values)
                    progress.set_values(values)
                    if on_log:
                        on_log(done, values)
            if saving:
                if writer:
                    writer.flush()  # a run that goes on from the checkpoint needs the lines before it
                checkpoints.save(done, state)
                saved = time.monotonic()
            if stopped:
                break
            if validating:
                checkpoints.finished()  # so that no step is scored that could be lost
                _validate(history, state, done, writer)
                started = time.monotonic()
    if stopped or interruption.received:
        sys.exit(STOPPED)
    return state


def _check_lease(lease: Lease, writer: MetricWriter | None) -> None:
    try:
        lease.check()
    except VlsegError:
        if writer:
            writer.abandon()  # what it would still upload is another run's now
        raise


def _validate(history: History, state: Any, step: int, writer: MetricWriter | None) -> None:
    scores = history.validate(state, step)
    if writer:
        writer.show(step, {f"validation/{name}": value for name, value in scores.items()})


def print_metrics(step: int, metrics: dict[str, float]) -> None:
    """One line of progress on standard output."""
    print(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def _means(logged: list[dict[str, np.ndarray]]) -> dict[str, float]:
    names = sorted(logged[0], key=lambda name: name != "loss")  # which people look for first
    return {name: float(np.mean([metrics[name] for metrics in logged])) for name in names}


def _check_finite(
    logged: list[dict[str, np.ndarray]],
    state: Any,
    done: int,
    checkpoints: Checkpoints,
    workdir: str | os.PathLike[str],
) -> None:
    """Raises NonFiniteLossError if a step since the last log line, which ended before `logged`, has not been finite.

    A loss belongs to the state before its step, so it is the gradient that tells whether the state after it is good,
    where there is one; a `state` that is to be saved is looked at itself.
    """
    checked = [(number, name) for number in range(len(logged)) for name in FINITE if name in logged[number]]
    bad = [(number, name) for number, name in checked if not np.isfinite(logged[number][name])]
    if bad:
        number, name = bad[0]
        step, what = done - len(logged) + 1 + number, f"{FINITE[name]} of step"
    elif arrays := not_finite(state):
        number, name, step = len(logged), STATE, done
        what = f"state ({listed(arrays)}) after step"
    else:
        return
    checkpoint = checkpoints.finished() or 0
    if distributed.is_main():
        before = [float(values["loss"]) for values in logged[:number] if "loss" in values]
        record = {"step": step, "not_finite": name, "resumes_from": checkpoint, "loss_before": before}
        storage.write_json(f"{os.fspath(workdir)}/{FAILURE_FILE}", record)
    raise NonFiniteLossError(
        f"the {what} {step} is not finite; the same command repeats it from the checkpoint of step {checkpoint} (noted "
        f"in {FAILURE_FILE}); to go on, lower the learning rate in another --workdir"
    )


def _say_what_is_repeated(workdir: str | os.PathLike[str], first: int) -> None:
    """Prints that a run which goes on from a step had failed after it, if it had."""
    path = f"{os.fspath(workdir)}/{FAILURE_FILE}"
    if not distributed.is_main() or not storage.exists(path):
        return
    with contextlib.suppress(VlsegError, KeyError, TypeError):
        record = json_files.parse(storage.read_bytes(path), FAILURE_FILE, StorageError)
        if record["step"] > first:
            print(
                f"this run stopped because step {int(record['step'])} was not finite ({FAILURE_FILE}): it is repeated "
                f"from step {first}",
                flush=True,
            )
            return
    storage.remove(path)  # it got past that step
