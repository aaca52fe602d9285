"""What the label maps of a data set say against the way in which they are read, once many have been seen."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENOUGH = 100
"""Label maps after which a doubt is said although more may follow: who trains never comes to the end."""

MANY = 20
"""Label maps that say something of how often an id occurs."""

MOSTLY = 0.95
_SHOWN = 5
# One for all, because what has a lock of its own cannot be sent to a worker process.
_LOCK = threading.Lock()
_BACKGROUND = (
    {"background", "_background_", "clutter", "ignore", "ignored", "none", "none of these", "nothing", "other"}
    | {"others", "rest", "unknown", "unlabeled", "unlabelled", "unlabeled area", "void"}
)  # fmt: skip


class Evidence:
    """The numbers that stood in label maps, and what is doubtful in the light of them. May be shared by threads."""

    def __init__(self, names: Sequence[str], first: int, ignore_label: int, ignore_zero: bool) -> None:
        """Nothing is seen yet.

        Args:
            names: of the categories. first: the number of the first one.
            ignore_label: the number of pixels that do not count. ignore_zero: whether those of 0 do not count either.
        """
        self._names, self._first, self._ignored, self._ignore_zero = tuple(names), first, ignore_label, ignore_zero
        self._maps: dict[int, int] = {}
        self._read = 0
        self._said = False

    def add(self, stored: NDArray[np.int32], source: object) -> None:
        """Takes note of a label map of numbers from 0; `source` is what a warning calls the data set."""
        found = np.flatnonzero(np.bincount(stored.ravel()))
        with _LOCK:
            self._read += 1
            for number in found.tolist():
                self._maps[number] = self._maps.get(number, 0) + 1
            doubts = self._doubts() if self._read == ENOUGH else []
            self._said |= bool(doubts)
        for doubt in doubts:
            logging.getLogger(__name__).warning("%s: %s", source, doubt)

    def doubts(self) -> list[str]:
        """What is doubtful by now, in lines; nothing if it was said."""
        with _LOCK:
            return [] if self._said else self._doubts()

    def _doubts(self) -> list[str]:
        return list(filter(None, (self._two_classes(), self._ignore_zero_is_wrong(), self._ignore_zero_is_missing())))

    def _two_classes(self) -> str:
        """Black and white instead of 0 and 1: then white is taken for what does not count."""
        if set(self._maps) != {0, 255} or self._ignored != 255 or self._first + len(self._names) != 2:
            return ""
        return f"labels hold 0 and 255 alone, and 255 is ignored: if it is {self._names[-1]!r}, store it as 1"

    def _ignore_zero_is_wrong(self) -> str:
        last = self._first + len(self._names) - 1
        if not self._ignore_zero or 0 not in self._maps or last in self._maps:
            return ""
        counts_from_zero = all(number in self._maps for number in range(self._first, last))
        if not counts_from_zero and self._ignored not in self._maps:
            return ""
        return (
            f"0 is ignored, and no label is {last}, which would be {self._names[-1]!r}: if labels count from 0, leave "
            "out ignore_zero"
        )

    def _ignore_zero_is_missing(self) -> str:
        zeros = self._maps.get(0, 0)
        if self._first or self._ignore_zero or self._ignored in self._maps or self._read < MANY:
            return ""
        if zeros < MOSTLY * self._read or self._names[0].casefold() in _BACKGROUND or len(self._names) < 3:
            return ""
        return (
            f"{zeros} of {self._read} label maps have 0, which is {self._names[0]!r}, and no pixel is ignored: if 0 "
            "means that a pixel is not labelled, set ignore_zero"
        )


def doubts(dataset: Any, names: Sequence[str] = (), pixels: Sequence[int] = ()) -> list[str]:
    """What is doubtful of a data set that was read to its end, in lines.

    Args:
        dataset: of `vlseg.data.sources`. names, pixels: of its classes, and how many labelled pixels each has;
            by default they were not counted.
    """
    absent = [name for name, count in zip(names, pixels, strict=True) if not count]
    lines = []
    if absent:
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        lines.append(f"{len(absent)} of {len(names)} classes have no pixel in the whole data set: {shown}")
    evidence = getattr(dataset, "evidence", None)
    return lines + (evidence.doubts() if evidence else [])
