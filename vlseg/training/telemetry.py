"""What training tells of itself: metrics.jsonl and TensorBoard, rates, share of the chip's peak, memory, profiles."""

import json
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
from tensorboardX import SummaryWriter

from vlseg import chips, distributed, files, json_files, storage
from vlseg.errors import StorageError, VlsegError
from vlseg.training.workdir import METRICS_FILE

_NO_JSON = re.compile(r"(?<=: )-?(NaN|Infinity)\b")
"""What lines of older versions have for numbers that are not finite."""

_PERIOD = 30
"""Seconds between uploads to a bucket, which takes about one write of an object in a second."""


class Work(NamedTuple):
    """What a training step does. images: in the batch of all processes. flops: of the model's definition."""

    images: int
    flops: float


def rates(steps: int, seconds: float, work: Work | None) -> dict[str, float]:
    """Rates over some steps, for a log line.

    Returns:
        steps_per_second; with `work` also images_per_second and teraflops_per_second, of all devices together, and
        peak_share, of their published peak where it is known; peak_memory_gb of the first device where it is told.
    """
    device = jax.local_devices()[0]
    found = {"steps_per_second": steps / seconds}
    if work:
        found["images_per_second"] = steps * work.images / seconds
        found["teraflops_per_second"] = steps * work.flops / seconds / 1e12
        chip = chips.chip_of(device)
        if chip:
            found["peak_share"] = steps * work.flops / seconds / (chip.flops * jax.device_count())
    memory = device.memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        found["peak_memory_gb"] = memory["peak_bytes_in_use"] / 1e9
    return found


class Profiler:
    """Writes a profile of some steps to `workdir`/profile, which TensorBoard's profile plugin and Perfetto show."""

    def __init__(self, workdir: str | os.PathLike[str], steps: tuple[int, int] | None) -> None:
        self._path, self._steps = f"{os.fspath(workdir)}/profile", steps
        self._running: storage.Staging | None = None

    def before(self, step: int) -> None:
        """To be called before a step."""
        if self._steps and step == self._steps[0] and distributed.is_main():
            self._running = storage.Staging(self._path)
            jax.profiler.start_trace(self._running.folder)

    def after(self, step: int, results: Any) -> None:
        """To be called after a step, with what it has computed."""
        if self._running and self._steps and step == self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a profile that a run was too short for."""
        if self._running:
            jax.profiler.stop_trace()
            running, self._running = self._running, None
            running.close()


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard event files in a working directory.

    A resumed run drops the lines that an interrupted one wrote after the checkpoint that it resumes from, so that
    every step stands there once.

    In a bucket the lines of before are continued, and the event files of before stay. What is written comes there half
    a minute later at the latest if more follows, and by `flush`.
    """

    def __init__(self, workdir: str | os.PathLike[str], first_step: int = 0) -> None:
        self._staging = storage.Staging(workdir)
        self._uploaded, self._abandoned = time.monotonic(), False
        self._path = self._staging.folder / METRICS_FILE
        self._staging.fetch(self._path.name)
        if self._path.exists():
            files.atomic_write_text(self._path, _kept(files.read_regular(self._path, StorageError), first_step))
        self._board = SummaryWriter(str(self._staging.folder), purge_step=first_step if first_step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes scalars of one step."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with files.storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        self.show(step, metrics)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Writes scalars of one step to TensorBoard alone."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if time.monotonic() - self._uploaded > _PERIOD:
            self.flush()

    def flush(self) -> None:
        """Uploads what was written, if the working directory is in a bucket.

        Raises:
            StorageError: the bucket cannot be reached, or denies access.
        """
        if self._staging.is_remote:
            self._board.flush()
            self._staging.upload()
            self._uploaded = time.monotonic()

    def abandon(self) -> None:
        """Makes `close` upload nothing: the working directory is another run's."""
        self._abandoned = True

    def close(self) -> None:
        """Flushes what is buffered, and uploads it."""
        self._board.close()
        if self._abandoned:
            self._staging.discard()
        else:
            self._staging.close()


def _kept(content: bytes, first_step: int) -> str:
    """The lines of metrics.jsonl of steps before one, each step once; how many others are no lines is printed.

    The last one is not counted: a run that was killed has cut it short.
    """
    lines = content.decode("utf-8", "replace").splitlines()
    steps = [_step(line) for line in lines]
    broken = sum(step is None for step in steps[:-1])
    if broken:
        print(f"metrics.jsonl: {broken} damaged lines are left out", flush=True)
    by_step = {step: line for step, line in zip(steps, lines, strict=True) if step is not None and step < first_step}
    return "".join(f"{by_step[step]}\n" for step in sorted(by_step))


def _step(line: str) -> int | None:
    """The step of a line; None if it is none."""
    try:
        step = json_files.parse(_NO_JSON.sub("null", line), "", StorageError)["step"]
    except (VlsegError, KeyError, TypeError):
        return None
    return step if type(step) is int else None
