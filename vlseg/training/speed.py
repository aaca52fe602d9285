"""How fast training runs: rates, the share of the chip's peak, memory, and profiles."""

import os
from typing import Any, NamedTuple

import jax

from vlseg import chips, distributed, remote


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
        self._running: remote.Staging | None = None

    def before(self, step: int) -> None:
        """To be called before a step."""
        if self._steps and step == self._steps[0] and distributed.is_main():
            self._running = remote.Staging(self._path)
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
