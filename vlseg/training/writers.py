"""Where training leaves its numbers: metrics.jsonl and TensorBoard."""

import json
import os
from pathlib import Path

from tensorboardX import SummaryWriter

from vlseg import files


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard event files in a working directory.

    A resumed run drops the lines that an interrupted one wrote after the checkpoint that it resumes from, so that
    every step stands there once.
    """

    def __init__(self, workdir: str | os.PathLike[str], first_step: int = 0) -> None:
        self._path = Path(workdir) / "metrics.jsonl"
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step(line) < first_step]
            files.atomic_write_text(self._path, "".join(f"{line}\n" for line in lines))
        self._board = SummaryWriter(str(workdir), purge_step=first_step if first_step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes scalars of one step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes what is buffered."""
        self._board.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
