"""Broken files of every kind: each is read or refused in one line, soon, with little memory, and runs nothing."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fuzz.readers import READERS

ROOT = Path(__file__).parents[2]
SECONDS, START = 10, 120


class Reading:
    """A worker, started anew where it died or hung."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._known: set[str] = set()

    def problem(self, name: str, seed: int) -> str | None:
        """What is wrong with how a broken input is read."""
        if not self._process:
            self._start()
        if name not in self._known:
            self._known.add(name)
            failed = self._ask(f"{name} ", START)
            assert failed is None, failed
        return self._ask(f"{name} {seed}", SECONDS)

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._known.clear()

    def _start(self) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        log = (self._folder / "stderr.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", self._folder],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip

    def _ask(self, line: str, seconds: float) -> str | None:
        assert self._process and self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self.close()
            return f"nothing came of it within {seconds} s"
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self.close()
            return f"ended the process ({code})\n{(self._folder / 'stderr.txt').read_text(errors='replace')[-2000:]}"
        problem: str | None = json.loads(answer)
        return problem


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    worker = Reading(tmp_path)
    yield worker
    worker.close()


def problems(reading: Reading, names: Sequence[str], count: int, first: int) -> str:
    """What is wrong with so many inputs, of each reader in turn; a line for each, with its seed."""
    found = []
    for number in range(count):
        # All inputs of a reader follow each other, so that a worker that ends takes the fewest files along.
        name, seed = names[number * len(names) // count], first + number
        if problem := reading.problem(name, seed):
            found.append(f"{name}, seed {seed}: {problem}")
    return "\n".join(found)


def test_broken_files(reading: Reading) -> None:
    found = problems(reading, [name for name, reader in READERS.items() if not reader.slow], 200, 0)
    assert not found, found


@pytest.mark.slow
def test_many_broken_files(reading: Reading) -> None:
    found = problems(reading, list(READERS), 2000, 1000)
    assert not found, found
