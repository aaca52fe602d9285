"""Scores of a model while it trains, and which of its steps is the best by them."""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vlseg import distributed, storage
from vlseg.errors import StorageError

FILE = "validation.jsonl"


class Validation(NamedTuple):
    """When a run is validated, and how. The last step is always validated.

    every: in updates. metric: which the best step has most of. score: (state, step) -> scores by metric, the same on
    all processes, which call it together.
    """

    every: int
    metric: str
    score: Callable[[Any, int], Mapping[str, float]]


class History:
    """The scores of a run, in `workdir`/validation.jsonl, a line for each step that was validated.

    Attributes:
        scores: by step, in order.
    """

    def __init__(self, workdir: str | os.PathLike[str], validation: Validation | None) -> None:
        """Reads what is there; nothing is due without a `validation`.

        Raises:
            StorageError: it cannot be read.
        """
        self._path, self._validation = f"{os.fspath(workdir)}/{FILE}", validation
        self.scores: dict[int, dict[str, float]] = {}
        if validation and storage.exists(self._path):
            try:
                for line in storage.read_bytes(self._path).decode().splitlines():
                    entry = json.loads(line)
                    step = int(entry.pop("step"))
                    self.scores[step] = {k: math.nan if value is None else value for k, value in entry.items()}
            except (ValueError, KeyError, AttributeError) as error:
                raise StorageError(f"{self._path} cannot be used: {error}; delete it to validate anew") from error

    def forget_after(self, step: int) -> None:
        """Drops the scores of later steps, which a run that goes on from this one comes to again."""
        self.scores = {number: scores for number, scores in self.scores.items() if number <= step}

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
        if distributed.is_main():
            lines = [_line(number, scores) for number, scores in self.scores.items()]
            storage.write_text(self._path, "".join(lines))
        return self.scores[step]

    @property
    def best(self) -> int | None:
        """The step with the highest score, of equal ones the first; None before the first validation."""
        if self._validation is None:
            return None
        metric = self._validation.metric

        def rank(step: int) -> float:
            value = self.scores[step][metric]
            return -math.inf if math.isnan(value) else value

        return max(self.scores, key=rank, default=None)


def _line(step: int, scores: Mapping[str, float]) -> str:
    finite = {name: None if math.isnan(value) else value for name, value in scores.items()}
    return json.dumps({"step": step, **finite}) + "\n"
