"""How far a long piece of work has come: a bar on a terminal, else a line every half minute, on standard error."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

INTERVAL = 30.0
"""Seconds between two lines."""


class Progress:
    """A count of what is done, shown while a block runs.

    Lines come from a thread of their own, so that a step that takes minutes, as one that is compiled does, shows that
    the program lives.
    """

    def __init__(self, total: int, what: str, unit: str, *, initial: int = 0, shown: bool = True) -> None:
        """Shows nothing yet, unless on a terminal.

        Args:
            total: of the count. what: is done, such as "train". unit: what is counted, such as "step".
            initial: the count at first. shown: whether this process shows anything.
        """
        self._total, self._what, self._unit = total, what, unit
        self._first = self._count = initial
        self._started = time.monotonic()
        self._closed = threading.Event()
        on_terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=initial, desc=what, unit=unit, disable=not on_terminal)
        if shown and not on_terminal:
            threading.Thread(target=self._print_lines, name="progress", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Adds to the count."""
        self._count += count
        self._bar.update(count)

    def set_values(self, values: Mapping[str, float]) -> None:
        """Numbers to be shown beside the bar."""
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})

    def close(self) -> None:
        """Shows nothing more."""
        self._closed.set()
        self._bar.close()

    def line(self) -> str:
        """What a line says."""
        seconds = time.monotonic() - self._started
        done = self._count - self._first
        rate = f", {done / seconds:.3g} {self._unit}/s, {_duration((self._total - self._count) * seconds / done)} left"
        return f"{self._what}: {self._count:,} of {self._total:,} {self._unit}s{rate if done else ''}"

    def _print_lines(self) -> None:
        while not self._closed.wait(INTERVAL):
            print(self.line(), file=sys.stderr, flush=True)


def over(items: Iterable[Item], total: int, what: str, unit: str, *, shown: bool = True) -> Iterator[Item]:
    """The items, each counted when the next one is asked for."""
    with Progress(total, what, unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
