"""What both systems' `evaluate` makes of words and a background, with scores of pixels in the place of a model."""

from types import SimpleNamespace

import numpy as np
import pytest

import ifseg_jax.evaluate
import lseg_jax.evaluate
from lseg_jax.inference import Ranking
from vlseg.data.folder import Example
from vlseg.evaluation.open_vocabulary import Vocabulary

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


def lseg(pictures, vocabulary, monkeypatch):
    def rank(config, scheme, variables, image, words, batch_size):
        return Ranking(np.zeros(0), probabilities(image, words).argmax(axis=-1)[..., None])

    def most_probable(config, scheme, variables, image, words, batch_size):
        found = probabilities(image, words)
        return found.argmax(axis=-1), found.max(axis=-1)

    monkeypatch.setattr(lseg_jax.evaluate.inference, "rank", rank)
    monkeypatch.setattr(lseg_jax.evaluate.inference, "most_probable", most_probable)
    model = SimpleNamespace(config=None, inference=None, variables=None, encode_text=lambda words: words)
    return lseg_jax.evaluate.evaluate(model, pictures, vocabulary=vocabulary)


class Model:
    """Stands for an IFSeg model."""

    def word_embeddings(self, words):
        return words

    def batches(self, items, image_of, batch_size):
        return ([item] for item in items)

    def grid_probabilities(self, images, words, rounds, batch_size):
        return [np.stack([probabilities(image, words) for image in images])] * len(rounds), None

    def label_maps(self, grids, _, sizes):
        return list(grids.argmax(axis=-1))

    def best_categories(self, grids, _, sizes):
        return list(zip(grids.argmax(axis=-1), grids.max(axis=-1), strict=True))


def ifseg(pictures, vocabulary, monkeypatch):
    plain, averaged = ifseg_jax.evaluate.evaluate(Model(), pictures, (0, 1), vocabulary=vocabulary)
    assert plain == averaged
    return plain


@pytest.mark.parametrize("evaluate", [lseg, ifseg])
@pytest.mark.parametrize(("background", "threshold"), [("words", None), ("threshold", 0.5)])
def test_scores_are_of_classes(evaluate, background, threshold, pictures, monkeypatch):
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
    metrics = evaluate(pictures, Vocabulary(WORDS, background, threshold), monkeypatch)
    assert (hits > 0).all()
    np.testing.assert_allclose(metrics.iou, hits / either, rtol=1e-12)
