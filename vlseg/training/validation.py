"""Scores of a model while it trains, and which of its steps is the best by them."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vlseg import distributed, json_files, storage
from vlseg.errors import StorageError

FILE = "validation.jsonl"


class Validation(NamedTuple):
    """When a run is validated, and how. The last step is always validated.

    every: in updates. metric: by which the best step is chosen, the higher the better.
    score: (state, step) -> scores by metric, the same on all processes, which call it together.
    """

    every: int
    metric: str
    score: Callable[[Any, int], Mapping[str, float]]

    def then(self, check: Callable[[], None]) -> "Validation":
        """The same, with a check after each scoring, which raises if nothing may be written any more."""

        def score(state: Any, step: int) -> Mapping[str, float]:
            scores = self.score(state, step)
            check()
            return scores

        return self._replace(score=score)


class History:
    """The scores of a run, in `workdir`/validation.jsonl, a line for each step that was validated.

    Attributes:
        scores: by step, in order.
    """

    def __init__(self, workdir: str | os.PathLike[str], validation: Validation | None) -> None:
        """Reads what is there; nothing is due without a `validation`. All processes call it together.

        Raises:
            StorageError: it cannot be read, or is of other scores.
        """
        self._path, self._validation = f"{os.fspath(workdir)}/{FILE}", validation
        self.scores: dict[int, dict[str, float]] = {}
        if validation:
            try:
                for line in _shared(self._path).decode().splitlines():
                    step, scores = _entry(json_files.parse(line, "a line", StorageError))
                    self.scores[step] = scores
                    _ = scores[validation.metric]
            except (ValueError, KeyError, AttributeError, StorageError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise StorageError(
                    f"{self._path} cannot be used: {reason}; put it right, or start another run"
                ) from error

    def forget_after(self, step: int) -> None:
        """Drops the scores of later steps, since a run that goes on from this one scores them again."""
        kept = {number: scores for number, scores in self.scores.items() if number <= step}
        if len(kept) < len(self.scores):
            self.scores = kept
            self._write()

    def is_due(self, step: int, last: int) -> bool:
        """Whether a step is to be validated, in a run whose last step is known."""
        return self._validation is not None and (step == last or step % self._validation.every == 0)

    def validate(self, state: Any, step: int) -> dict[str, float]:
        """Scores a step that is due, and records the scores.

        Raises:
            StorageError: they cannot be written.
        """
        assert self._validation is not None
        self.scores[step] = dict(self._validation.score(state, step))
        self._write()
        return self.scores[step]

    def _write(self) -> None:
        if distributed.is_main():
            lines = [_line(number, scores) for number, scores in self.scores.items()]
            storage.write_text(self._path, "".join(lines))

    def best(self, steps: Collection[int]) -> int | None:
        """The step with the highest score among some, such as those that were kept.

        Of equal ones it is the last, as in the official code (alinlab/ifseg). None if none of them was validated, or no
        score is a number.
        """
        if self._validation is None:
            return None
        metric = self._validation.metric
        scores = {step: scores[metric] for step, scores in self.scores.items() if step in steps}
        numbers = {step: score for step, score in scores.items() if not math.isnan(score)}
        return max(numbers, key=lambda step: (numbers[step], step), default=None)


def _shared(path: str) -> bytes:
    """The content of a small file as process 0 sees it, empty if there is none: a shared folder may lag for others."""
    content = storage.read_bytes(path) if distributed.is_main() and storage.exists(path) else b""
    buffer = np.zeros(int(distributed.from_main(np.int32(len(content)))), np.uint8)
    if content:
        buffer[:] = np.frombuffer(content, np.uint8)
    return distributed.from_main(buffer).tobytes() if buffer.size else b""


def _entry(values: Any) -> tuple[int, dict[str, float]]:
    """The step and the scores of a line; ValueError, KeyError or AttributeError if it is none."""
    scores = {name: math.nan if value is None else value for name, value in values.items()}
    step = scores.pop("step")
    if type(step) is not int or not all(type(value) in (int, float) for value in scores.values()):
        raise ValueError("a step or a score is no number")
    return step, scores


def _line(step: int, scores: Mapping[str, float]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return json.dumps({"step": step, **finite}) + "\n"
