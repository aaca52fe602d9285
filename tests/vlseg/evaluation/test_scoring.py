"""What scoring makes of words and a background, with scores of pixels in the place of a model."""

import numpy as np
import pytest

from vlseg.data.examples import Example
from vlseg.evaluation.scoring import Vocabulary, score
from vlseg.segmenter import Scores

NAMES = ("background", "cat", "dog")
WORDS = (("sky", "sea"), ("cat",), ("dog", "hound"))
OF_WORD = {"sky": 0, "sea": 0, "cat": 1, "dog": 2, "hound": 2}
SIZE = (9, 11)


class Pictures(list):
    names, ignore_label = NAMES, 255


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(3)]
    return Pictures(Example(image, rng.choice([0, 1, 2, 255], SIZE), str(n)) for n, image in enumerate(images))


def probabilities(image, words):
    """Of every word, a function of the pixels."""
    rows = [np.random.default_rng(1 + len(word) + ord(word[0])).normal(size=3) for word in words]
    exponentials = np.exp(image @ np.stack(rows, axis=1) / 100)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


class Drawn(Scores):
    """Of one image; nothing but probabilities, from which the rest follows."""

    def __init__(self, values):
        self.values = values

    def probabilities(self):
        return self.values


class Model:
    """Stands for any model."""

    inference = None

    def embed(self, words):
        return words

    def score_each(self, items, image_of, words, settings, batch_size):
        for item in items:
            yield item, [Drawn(probabilities(image_of(item), words)) for _ in settings]


@pytest.mark.parametrize(("background", "threshold"), [("words", None), ("threshold", 0.5)])
def test_scores_are_of_classes(background, threshold, pictures):
    asked = [word for words in WORDS for word in words if background == "words" or OF_WORD[word]]
    hits, either = np.zeros(3), np.zeros(3)
    for image, label, _ in pictures:
        found = probabilities(image, asked)
        classes = np.array([OF_WORD[word] for word in asked])[found.argmax(axis=-1)]
        if threshold:
            classes[found.max(axis=-1) < threshold] = 0
        for index in range(3):
            a, b = (classes == index) & (label != 255), label == index
            hits[index] += (a & b).sum()
            either[index] += (a | b).sum()
    (metrics,) = score(Model(), pictures, vocabulary=Vocabulary(WORDS, background, threshold))
    assert (hits > 0).all()
    np.testing.assert_allclose(metrics.iou, hits / either, rtol=1e-12)
