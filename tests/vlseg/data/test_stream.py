"""Batches as pure functions of seed and step: orders, parts, mixtures, examples that cannot be read, making ahead."""

import itertools
import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlseg.data.stream import PATTERN, Stream, epoch_order, prefetched, stream_indices
from vlseg.errors import ConfigError, DatasetError, ImageError


@given(st.integers(1, 200), st.integers(0, 2**32), st.integers(0, 1000))
def test_epoch_order_is_a_permutation(num_examples, seed, epoch):
    order = epoch_order(num_examples, seed, epoch)
    assert sorted(order) == list(range(num_examples))
    np.testing.assert_array_equal(order, epoch_order(num_examples, seed, epoch))


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed, epoch in itertools.product(range(4), range(4))}
    assert len(orders) == 16


def indices(stream, steps):
    """Each step's examples, as numbers over all data sets."""
    return [[draw.example for draw in stream.draws(step)] for step in steps]


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 9))
def test_batches_cut_the_sequence_of_epochs(num_examples, batch_size, seed):
    steps = 7
    drawn = np.concatenate(indices(Stream([range(num_examples)], batch_size, seed), range(steps)))
    epochs = -(-steps * batch_size // num_examples)
    expected = np.concatenate([epoch_order(num_examples, seed, epoch) for epoch in range(epochs)])
    np.testing.assert_array_equal(drawn, expected[: steps * batch_size])
    whole = len(drawn) // num_examples
    assert set(Counter(drawn[: whole * num_examples].tolist()).values()) <= {whole}


def test_batches_far_out_need_no_history():
    far = stream_indices(1000, 0, np.arange(16) + 16 * 10**9)
    assert far.shape == (16,) and ((far >= 0) & (far < 1000)).all()


MIXED = [range(30), range(100, 107), range(1000, 1200)]


@pytest.mark.parametrize("weights", [None, [1, 2, 5]])
@pytest.mark.parametrize("parts", [2, 4])
def test_processes_make_parts_of_the_same_batches(weights, parts):
    whole = Stream(MIXED, 12, 3, weights=weights)
    streams = [Stream(MIXED, 12, 3, weights=weights, rows=rows) for rows in np.split(np.arange(12), parts)]
    for step in (0, 1, 7, 500):
        draws = whole.draws(step)
        together = [draw for stream in streams for draw in stream.draws(step)]
        assert [draw.example for draw in together] == [draw.example for draw in draws]
        assert [draw.rng.random() for draw in together] == [draw.rng.random() for draw in draws]


@pytest.mark.parametrize("weights", [None, [3, 1, 1]])
def test_the_rest_is_the_same_after_a_stop_anywhere(weights):
    everything = indices(Stream(MIXED, 5, 0, weights=weights), range(60))
    for stopped in (1, 17, 48):
        assert indices(Stream(MIXED, 5, 0, weights=weights), range(stopped, 60)) == everything[stopped:]


def test_every_example_of_a_union_comes_once_an_epoch():
    size = sum(map(len, MIXED))
    stream = Stream(MIXED, size, 1)
    assert len(stream) == size
    for step in range(2):
        draws = stream.draws(step)
        assert sorted(draw.example for draw in draws) == sorted(itertools.chain(*MIXED))
        assert all(draw.example in MIXED[draw.source] for draw in draws)


def test_weights_say_how_often_a_data_set_comes_and_its_epochs_are_whole():
    stream = Stream(MIXED, 10, 0, weights=[2, 1, 1])
    draws = [draw for step in range(2 * PATTERN // 10) for draw in stream.draws(step)]
    assert Counter(draw.source for draw in draws) == {0: PATTERN, 1: PATTERN // 2, 2: PATTERN // 2}
    for source, dataset in enumerate(MIXED):
        own = [draw.example for draw in draws if draw.source == source]
        for epoch in range(len(own) // len(dataset)):
            assert sorted(own[epoch * len(dataset) : (epoch + 1) * len(dataset)]) == list(dataset)
    # They alternate; no data set waits for another to end.
    runs = [len(list(group)) for _, group in itertools.groupby(draws, lambda draw: draw.source)]
    assert max(runs) < 30


class Broken:
    """Ten examples, of which some cannot be read."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index in self.bad:
            raise ImageError(f"{index}.jpg: is truncated or damaged")
        return index


def test_examples_that_cannot_be_read(caplog):
    order = epoch_order(10, 0, 0).tolist()
    with pytest.raises(ImageError, match=r"3\.jpg"):
        indices(Stream([Broken({3})], 10, 0), range(1))
    stream = Stream([Broken({3, 4, 9})], 10, 0, on_error="skip")
    replaced = {3: 5, 4: 5, 9: 0}
    with caplog.at_level(logging.WARNING):
        assert indices(stream, range(1)) == [[replaced.get(index, index) for index in order]]
        first = len(caplog.records)
        indices(stream, range(1, 5))
    assert stream.skipped == 3 and first == len(caplog.records) == 3
    assert "skipped, number 3" in caplog.messages[-1]
    with pytest.raises(DatasetError, match="none of the 10 examples of data set number 0"):
        indices(Stream([Broken(set(range(10)))], 2, 0, on_error="skip"), range(1))


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (([range(3)], 4, 0), {"on_error": "ignore"}, "'ignore' is none of stop, skip"),
        (([range(3)], 4, 0), {"weights": [1, 2]}, "do not fit 1 data sets"),
        ((MIXED, 4, 0), {"weights": [1, 2, 0]}, "a positive number for each"),
        ((MIXED, 4, 0), {"weights": [1, 1e6, 1]}, "differ by more than a factor of 1000"),
        (([], 4, 0), {}, "without examples"),
        (([range(3), range(0)], 4, 0), {}, "without examples"),
    ],
)
def test_what_cannot_be(arguments, options, match):
    with pytest.raises((ConfigError, DatasetError), match=match):
        Stream(*arguments, **options)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_values_made_ahead_are_the_same(threads):
    made = []

    def make(number):
        made.append(number)
        return number**2

    values = prefetched(make, threads)
    assert [values(number) for number in (5, 6, 7, 8, 20, 21, 3)] == [25, 36, 49, 64, 400, 441, 9]
    assert (len(made) > 7) == (threads > 0)


def test_errors_of_threads_reach_the_caller():
    def make(number):
        if number == 2:
            raise ImageError("2.jpg: is truncated or damaged")
        return number

    values = prefetched(make, 2)
    assert [values(0), values(1)] == [0, 1]
    with pytest.raises(ImageError, match=r"2\.jpg: is truncated"):
        values(2)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_values_of_processes_are_the_same(workers):
    values = prefetched(lambda number: number**2, 1, workers=workers)
    assert [values(number) for number in (3, 4, 5, 6)] == [9, 16, 25, 36]


def test_no_two_uses_of_a_seed_draw_the_same():
    stream = Stream([range(20), range(20)], 4, 5, weights=[1, 1])
    views = [draw.rng.random() for step in range(3) for draw in stream.draws(step)]
    orders = [tuple(epoch_order(20, 5, epoch, source)) for epoch in range(3) for source in range(2)]
    assert len(set(views)) == 12 and len(set(orders)) == 6
    assert np.random.default_rng((5, 0)).random() not in views
