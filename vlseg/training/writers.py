"""Where training leaves its numbers: metrics.jsonl and TensorBoard."""

import json
import os
import time

from tensorboardX import SummaryWriter

from vlseg import files, remote

_PERIOD = 30
"""Seconds between uploads to a bucket, which takes about one write of an object in a second."""


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard event files in a working directory.

    A resumed run drops the lines that an interrupted one wrote after the checkpoint that it resumes from, so that
    every step stands there once.

    In a bucket the lines of before are continued, and the event files of before stay. What is written comes there half
    a minute later at the latest if more follows, and by `flush`.
    """

    def __init__(self, workdir: str | os.PathLike[str], first_step: int = 0) -> None:
        self._staging = remote.Staging(workdir)
        self._uploaded = time.monotonic()
        self._path = self._staging.folder / "metrics.jsonl"
        self._staging.fetch(self._path.name)
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step(line) < first_step]
            files.atomic_write_text(self._path, "".join(f"{line}\n" for line in lines))
        self._board = SummaryWriter(str(self._staging.folder), purge_step=first_step if first_step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes scalars of one step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
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

    def close(self) -> None:
        """Flushes what is buffered, and uploads it."""
        self._board.close()
        self._staging.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
