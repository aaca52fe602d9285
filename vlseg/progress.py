"""How far a long piece of work has come: a bar on a terminal, else a line every half minute, on standard error."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

BYTES = "byte"
"""A unit that is shown in thousands and millions."""

INTERVAL = 30.0
"""Seconds between two lines."""


class Progress:
    """A count of what is done, shown while a block runs. pooch takes it as the bar of a download.

    Lines come from a thread of their own, so that a step that takes minutes, as one that is compiled does, shows that
    the program lives.

    Attributes:
        total: of the count.
    """

    def __init__(self, total: int, what: str, unit: str, *, initial: int = 0, shown: bool = True) -> None:
        """Shows nothing yet, unless on a terminal.

        Args:
            total: of the count. what: is done, such as "train". unit: what is counted, such as "step".
            initial: the count at first. shown: whether this process shows anything.
        """
        self.total, self._what, self._unit = total, what, unit
        self._first = self._count = initial
        self._started = time.monotonic()
        self._closed = threading.Event()
        on_terminal = shown and sys.stderr.isatty()
        scaled = {"unit": "B", "unit_scale": True} if unit == BYTES else {"unit": unit}
        self._bar = tqdm(total=total, initial=initial, desc=what, disable=not on_terminal, **scaled)
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

    def reset(self) -> None:
        """Counts from the beginning again."""
        self._count = self._first = 0
        self._bar.reset(self.total)

    def close(self) -> None:
        """Shows nothing more."""
        self._closed.set()
        self._bar.close()

    def line(self) -> str:
        """What a line says."""
        seconds, done = time.monotonic() - self._started, self._count - self._first
        divisor, unit = (1e6, "MB") if self._unit == BYTES else (1, self._unit)
        several = unit if self._unit == BYTES else f"{unit}s"
        text = f"{self._what}: {self._count / divisor:,.0f} of {self.total / divisor:,.0f} {several}"
        if not done or not self.total:
            return text
        left = _duration((self.total - self._count) * seconds / done)
        return f"{text}, {done / divisor / seconds:.3g} {unit}/s, {left} left"

    def _print_lines(self) -> None:
        while not self._closed.wait(INTERVAL):
            print(self.line(), file=sys.stderr, flush=True)


def over(
    items: Iterable[Item], total: int, what: str, unit: str, *, each: int = 1, shown: bool = True
) -> Iterator[Item]:
    """The items, each counted, as `each`, when the next one is asked for."""
    with Progress(total, what, unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update(each)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
