"""What all models share: streams in batches and in order, rejection, and what follows from probabilities alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlseg.errors import ImageError
from vlseg.scores import Scores
from vlseg.segmentation import Rejection
from vlseg.segmenter import Segmenter
from vlseg.streams import READ_AHEAD, in_order

KEYS = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=40)


@given(KEYS, st.integers(1, 5))
def test_a_stream_keeps_its_order_and_waits_for_little(keys, size):
    read, given_back, batches = 0, 0, []

    def items():
        nonlocal read
        for item in enumerate(keys):
            read += 1
            yield item

    def run(batch):
        batches.append(batch)
        return [f"result {number}" for number, _ in batch]

    for (number, _), result in in_order(items(), lambda item: item[1], run, size):
        assert number == given_back and result == f"result {number}"
        assert read - given_back <= READ_AHEAD * size
        given_back += 1
    assert given_back == len(keys)
    for batch in batches:
        alone = {key for _, key in batch} == {None}
        assert len({key for _, key in batch}) == 1 and len(batch) <= (1 if alone else size)
    # A batch is short only because nothing more of its key had been read, or too much of others.
    short = [batch for batch in batches if len(batch) < size and batch[0][1] is not None]
    assert len(short) <= 3 + len(keys) // (READ_AHEAD * size - size + 1)


def test_an_item_is_read_when_it_is_needed():
    read = []

    def items():
        for number in range(10):
            read.append(number)
            yield number

    stream = in_order(items(), lambda number: "same", lambda batch: batch, 3)
    assert next(stream) == (0, 0) and read == [0, 1, 2]


def test_rejection():
    scores = np.array([[[0.9, 0.5], [0.3, 0.29]], [[0.5, 0.1], [0.31, 0.0]]])
    np.testing.assert_array_equal(Rejection(min_similarity=0.4).of(scores), [[False, True], [False, True]])
    np.testing.assert_array_equal(Rejection(min_margin=0.35).of(scores), [[False, True], [False, True]])
    both = Rejection(min_similarity=0.4, min_margin=0.39).of(scores)
    np.testing.assert_array_equal(both, [[False, True], [False, True]])
    assert not Rejection() and Rejection(min_margin=0.0)
    assert not Rejection(min_margin=0.1).of(scores[..., :1]).any()  # a single label has no rival


class Drawn(Scores):
    def probabilities(self):
        return np.random.default_rng(0).dirichlet(np.ones(4), (5, 6)).round(1)  # with ties


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_best_labels_follow_from_probabilities(count):
    values = Drawn().probabilities()
    labels, scores = map(np.asarray, Drawn().top(count))
    np.testing.assert_array_equal(labels, np.argsort(-values, axis=-1, kind="stable")[..., :count])
    np.testing.assert_allclose(scores, np.take_along_axis(values, labels, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(Drawn().label_map(), values.argmax(axis=-1))
    best, highest = map(np.asarray, Drawn().most_probable())
    np.testing.assert_array_equal(best, values.argmax(axis=-1))
    np.testing.assert_allclose(highest, values.max(axis=-1), rtol=1e-6)
    among = np.array([1, 3])
    best, share = Drawn().most_probable(among)
    allowed = values[..., among]
    np.testing.assert_array_equal(best, among[allowed.argmax(axis=-1)])
    np.testing.assert_allclose(share, allowed.max(axis=-1) / allowed.sum(axis=-1), rtol=1e-6)


def test_what_is_not_a_number_is_no_label():
    class Broken(Drawn):
        def probabilities(self):
            values = super().probabilities()
            values[2, 3] = np.nan
            return values

    assert Broken().label_map()[2, 3] == -1 and (Broken().label_map() == -1).sum() == 1
    assert Broken().most_probable(np.array([1, 3]))[0][2, 3] == -1


class Drawing(Segmenter):
    """Gives every image the scores of `Drawn`."""

    labels = ("a", "b", "c", "d")
    inference = export_size = None
    image_function = stored = None

    def embed(self, labels=None):
        return np.zeros((4, 2), np.float32)

    def scores(self, images, embeddings, settings, batch_size):
        return [[Drawn()] for _ in images]


def test_what_segment_takes():
    first, second = (np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8) for seed in (0, 1))
    model = Drawing()
    for one in (first, jnp.asarray(first), first / np.float32(255), first.transpose(2, 0, 1)):
        np.testing.assert_array_equal(model.segment(one).image, first)
    stack = np.stack([first, second])
    for several in ([first, second], (first, second), iter([first, second]), stack, jnp.asarray(stack), list(stack)):
        found = model.segment(several)
        assert isinstance(found, list)
        np.testing.assert_array_equal([each.image for each in found], stack)
    assert model.segment([]) == []


@pytest.mark.parametrize("image", ["a.png", np.zeros((8, 9, 3), np.uint8), {"image": "a.png"}, None, 3])
def test_one_image_is_not_taken_for_several(image):
    with pytest.raises(ImageError, match="segment_each takes several images, not one"):
        next(Drawing().segment_each(image))
    with pytest.raises(ImageError, match="is no picture"):
        Drawing().segment([{"image": "a.png"}])
