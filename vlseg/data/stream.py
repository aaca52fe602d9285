"""Random batches of labelled examples, each a pure function of the seed and of the number of the step.

So a run can start anywhere, any process can make any part of a batch, and nothing has to be saved to go on.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlseg.checks import ON_ERROR
from vlseg.errors import ConfigError, DatasetError, ImageError

T = TypeVar("T")
PATTERN = 1000
"""Examples after which a weighted mixture of data sets repeats which data set comes when."""

ORDER, VIEW, MIXTURE = 1, 2, 3
"""What randomness is for: so that no two uses of a seed draw the same numbers."""


class Draw(NamedTuple):
    """An example as its data set gives it, the number of the data set, and the randomness for its view."""

    example: Any
    source: int
    rng: np.random.Generator


class Stream:
    """An endless random sequence of the examples of one or several data sets, cut into batches.

    Without weights every example of every data set comes once an epoch. With weights each data set goes through epochs
    of its own.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        batch_size: int,
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        rows: Sequence[int] | None = None,
        on_error: str = "stop",
    ) -> None:
        """Opens no example.

        Args:
            datasets: sequences of examples. batch_size: of all processes together. seed: of everything random.
            weights: how often each data set comes, in proportion; by default by its size.
            rows: of every batch that `draws` gives, such as those of this process (`vlseg.sharding.own_rows`); by
                default all.
            on_error: what happens to an example that cannot be read: "stop", or "skip" to take the next one instead,
                which stops when none of a data set can be read.

        Raises:
            ConfigError: weights that do not fit the data sets, or an unknown `on_error`.
            DatasetError: a data set is empty.
        """
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error {on_error!r} is none of {', '.join(ON_ERROR)}")
        if not all(map(len, datasets)) or not datasets:
            raise DatasetError("a data set without examples has no batches")
        self._datasets, self._batch_size, self._seed, self._on_error = datasets, batch_size, seed, on_error
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
        self._pattern = None if weights is None else _pattern(weights, len(datasets), seed)
        self._firsts = np.cumsum([0, *map(len, datasets)])
        self._unreadable: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        """Examples of an epoch over all data sets."""
        return int(self._firsts[-1])

    @property
    def skipped(self) -> int:
        """How many different examples this process found that cannot be read."""
        return len(self._unreadable)

    def draws(self, step: int) -> list[Draw]:
        """This process's part of a batch; ImageError or DatasetError as `on_error` has it."""
        return [
            Draw(self._read(source, index), source, np.random.default_rng((VIEW, self._seed, step, position)))
            for position, (source, index) in zip(self._rows.tolist(), self.places(step), strict=True)
        ]

    def places(self, step: int) -> list[tuple[int, int]]:
        """Data set and index in it of each example of this process's part of a batch."""
        positions = step * self._batch_size + self._rows
        if self._pattern is None:
            indices = stream_indices(len(self), self._seed, positions)
            sources = np.searchsorted(self._firsts, indices, side="right") - 1
            return list(zip(sources.tolist(), (indices - self._firsts[sources]).tolist(), strict=True))
        rounds, places = np.divmod(positions, PATTERN)
        sources, indices = self._pattern[places], np.empty(len(positions), np.int64)
        for source in np.unique(sources).tolist():
            here, own = sources == source, self._pattern == source
            # How many examples of this data set came before.
            before = rounds[here] * own.sum() + (np.cumsum(own) - own)[places[here]]
            indices[here] = stream_indices(len(self._datasets[source]), self._seed, before, source)
        return list(zip(sources.tolist(), indices.tolist(), strict=True))

    def _read(self, source: int, index: int) -> Any:
        dataset = self._datasets[source]
        for number in range(len(dataset)):
            place = (index + number) % len(dataset)
            try:
                return dataset[place]
            except (ImageError, DatasetError) as error:
                if self._on_error == "stop":
                    raise
                if (source, place) not in self._unreadable:
                    self._unreadable.add((source, place))
                    logging.getLogger(__name__).warning("skipped, number %d: %s", self.skipped, error)
        raise DatasetError(f"none of the {len(dataset)} examples of data set number {source} can be read")


def _pattern(weights: Sequence[float], count: int, seed: int) -> NDArray[np.int64]:
    """The data sets of PATTERN examples, in shares as near to the weights as that number allows."""
    shares = np.asarray(weights, np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise ConfigError(f"weights {list(weights)} do not fit {count} data sets: give a positive number for each")
    ends = np.rint(np.cumsum(shares) / shares.sum() * PATTERN).astype(int)
    pattern = np.searchsorted(ends, np.arange(PATTERN), side="right")
    if len(np.unique(pattern)) < count:
        raise ConfigError(f"weights {list(weights)} differ by more than a factor of {PATTERN}")
    return np.random.default_rng((MIXTURE, seed)).permutation(pattern)


@functools.lru_cache(maxsize=16)
def epoch_order(num_examples: int, seed: int, epoch: int, source: int = 0) -> NDArray[np.int64]:
    """The order of the examples of a data set in one epoch: int64 permutation of range(num_examples), read-only.

    A pure function; `source` is the number of the data set.
    """
    order = np.random.default_rng((ORDER, seed, source, epoch)).permutation(num_examples)
    order.flags.writeable = False
    return order


def stream_indices(num_examples: int, seed: int, positions: NDArray[np.int64], source: int = 0) -> NDArray[np.int64]:
    """The examples at some positions of the endless sequence of epochs: int64, a pure function.

    Args:
        num_examples: at least 1. seed, source: of each epoch's `epoch_order`. positions: from 0.
    """
    epochs, places = np.divmod(positions, num_examples)
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(num_examples, seed, int(epoch), source)[places[here]]
    return indices


def prefetched(make: Callable[[int], T], threads: int, workers: int = 0) -> Callable[[int], T]:
    """`make` with the next values made ahead, while the caller is busy with one.

    Values are the same and come in the same order. Asking for another number than the next one starts anew from there.

    Args:
        make: from a number to a value; called from threads, or from processes that it is sent to.
        threads: how many, in each process; with 0 threads and 0 workers nothing is made ahead.
        workers: processes, 0 for threads of this one.
    """
    if not threads and not workers:
        return make
    import grain
    from absl import flags

    if workers and not flags.FLAGS.is_parsed():
        # Grain's processes read flags, which nothing has parsed in a notebook.
        flags.FLAGS.mark_as_parsed()
    options = grain.ReadOptions(num_threads=max(threads, 1), prefetch_buffer_size=max(threads, 1))
    expected: int | None = None
    values: Any = None

    def call(number: int) -> T:
        nonlocal expected, values
        if number != expected:
            # An upper end is needed; nothing is made of it.
            endless = grain.MapDataset.range(number, 2**62).map(make).to_iter_dataset(options)
            if workers:
                endless = endless.mp_prefetch(
                    grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
                )
            values = iter(endless)
        expected = number + 1
        return next(values)

    return call
