"""What scoring makes of words and a background, with scores of pixels in the place of a model."""

import zlib

import numpy as np
import pytest

from tests import compilations
from vlseg import labels
from vlseg.data import catalog
from vlseg.data.examples import Example
from vlseg.errors import ConfigError
from vlseg.evaluation.scoring import NO_CLASS, Vocabulary, choose, score
from vlseg.scores import Scores

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
    rows = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=3) for word in words]
    # Of unit length, so that each is best somewhere.
    weights = np.stack([row / np.linalg.norm(row) for row in rows], axis=1)
    exponentials = np.exp((image - 127.5) @ weights / 40)
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


@pytest.mark.parametrize(("background", "threshold"), [("words", None), ("threshold", 0.5)])
def test_scoring_compiles_nothing_for_the_size_of_a_picture(background, threshold):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (9, width, 3), dtype=np.uint8) for width in (12, 13, 14)]
    examples = Pictures(Example(image, rng.choice([0, 1, 2], image.shape[:2]), "") for image in images)
    with compilations.counted() as programs:
        score(Model(), examples, vocabulary=Vocabulary(WORDS, background, threshold))
    assert programs == []


CLASSES = ("cat", "dog", "Sea", "tree", "road")


class Labelled(list):
    names = CLASSES

    def __init__(self, examples, ignore_label):
        super().__init__(examples)
        self.ignore_label = ignore_label


def labelled(seed, ignore_label):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(3)]
    # Some ids mean nothing: -1, and what lies beyond the names.
    ids = [-1, 0, 1, 2, 3, 4, 7, ignore_label]
    return Labelled([Example(image, rng.choice(ids, SIZE), "") for image in images], ignore_label)


def counted(pictures, words, class_of, scored):
    """IoU, accuracy, their means and the share of right pixels, pixel by pixel as the protocol is told in words."""
    hit, said, there = (dict.fromkeys(scored, 0) for _ in range(3))
    for image, label, _ in pictures:
        best = probabilities(image, words).argmax(axis=-1)
        for place in np.ndindex(SIZE):
            known = label[place] != pictures.ignore_label and 0 <= label[place] < len(CLASSES)
            truth = CLASSES[label[place]] if known else None
            if truth not in scored:
                continue
            answer = class_of.get(words[best[place]])
            there[truth] += 1
            if answer in scored:
                said[answer] += 1
            hit[truth] += answer == truth
    either = {name: said[name] + there[name] - hit[name] for name in scored}
    iou = [hit[name] / either[name] if either[name] else np.nan for name in scored]
    accuracy = [hit[name] / there[name] if there[name] else np.nan for name in scored]
    return iou, accuracy, sum(hit.values()) / sum(there.values())


BY_NAME = {name: name for name in CLASSES}


@pytest.mark.parametrize(
    ("labels", "score_labels", "class_of"),
    [
        (None, None, BY_NAME),
        (None, ["road", "cat"], BY_NAME),
        # In another order, with two distractors.
        (["tree", "moon", "cat", "Sea", "sun", "road", "dog"], None, BY_NAME),
        # A candidate for an unscored class is a wrong answer for the scored ones as well.
        (["tree", "moon", "cat", "Sea", "sun"], ["Sea", "tree"], BY_NAME),
        # White space and case are no difference.
        (["  tree", "moon", "SEA", "road", "dog"], ["tree ", "sea"], {**BY_NAME, "SEA": "Sea", "  tree": "tree"}),
        # Other words in the classes' places, and in the scored ones'.
        (
            ["kitten", "hound", "ocean", "oak", "way"],
            None,
            dict(zip(["kitten", "hound", "ocean", "oak", "way"], CLASSES, strict=True)),
        ),
        (["oak", "hound"], ["tree", "dog"], {"oak": "tree", "hound": "dog"}),
        (["kitten", "hound", "ocean", "oak", "way"], ["tree", "dog"], {"oak": "tree", "hound": "dog"}),
    ],
)
@pytest.mark.parametrize("ignore_label", [255, 2])
def test_candidates_and_scored_classes(labels, score_labels, class_of, ignore_label):
    pictures = labelled(len(labels or ()), ignore_label)
    words = list(labels or CLASSES)
    scored = [next(c for c in CLASSES if c.lower() == name.strip().lower()) for name in score_labels or CLASSES]
    iou, accuracy, right = counted(pictures, words, class_of, scored)
    (metrics,) = score(Model(), pictures, labels=labels, score_labels=score_labels)
    assert 0 < right < 1 and metrics.aacc == pytest.approx(right, rel=1e-12)
    np.testing.assert_allclose(metrics.iou, iou, rtol=1e-12)
    np.testing.assert_allclose(metrics.accuracy, accuracy, rtol=1e-12)
    assert metrics.miou == pytest.approx(np.nanmean(iou), rel=1e-12)
    assert metrics.macc == pytest.approx(np.nanmean(accuracy), rel=1e-12)


def test_what_stands_for_what():
    chosen = choose(CLASSES, ["moon", "road", "Cat"], ["cat", "road"])
    assert chosen.words == ("moon", "road", "Cat") and chosen.classes == (NO_CLASS, 4, 0)
    assert chosen.scored == (0, 4) and chosen.names == ("cat", "road") and chosen.replaced == ()
    chosen = choose(CLASSES, ["kitten", "dog", "Sea", "oak", "road"])
    assert chosen.names == chosen.words and chosen.replaced == (("cat", "kitten"), ("tree", "oak"))
    assert chosen.explanation == "asked for: cat as kitten, tree as oak" and not choose(CLASSES).explanation
    # Of names that differ in case alone each is its own.
    assert choose(("a", "A"), ["A", "a", "b"]).classes == (1, 0, NO_CLASS)


def test_words_of_the_authors_checkpoint_stand_for_the_classes_of_ade20k():
    """Most are the classes' names, each in its own place."""
    names, words = catalog.ENTRIES["ade20k"].classes.names, labels.load("ade20k_150_lseg")
    chosen = choose(names, words)
    assert chosen.classes == tuple(range(150)) and 0 < len(chosen.replaced) < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["cat", "dog", "sea"]}, "3 labels do not fit the data set's 5 classes: .* no tree, road"),
        ({"labels": ["oak"], "score_labels": ["tree", "dog"]}, "5 classes, of which 2 are scored"),
        ({"labels": ["Cat"], "names": ("cat", "Cat")}, "1 labels do not fit the data set's 2 classes: .* no cat"),
        # A name in another's place, of a scored class or not, is no other word for it.
        (
            {"labels": ["b", "A", "z"], "names": ("a", "b", "c")},
            "no c among the labels.* but 'A', another class, stands for 'b'",
        ),
        (
            {"labels": ["cat", "oak", "road", "elm", "way"]},
            "'road', another class, stands for 'Sea': put it in its place",
        ),
        ({"labels": ["hound", " CAT"], "score_labels": ["dog", "tree"]}, "' CAT', another class, stands for 'tree'"),
        ({"score_labels": ["tree", "moon"]}, "which has no moon"),
        # Which of the two?
        ({"score_labels": ["CAT"], "names": ("Cat", "cat", "dog")}, "which has no CAT"),
        ({"labels": ["CAT", "x", "y"], "names": ("Cat", "cat"), "score_labels": ["Cat"]}, "there is no Cat"),
        ({"score_labels": ["tree", "tree"]}, "name a class twice"),
        ({"score_labels": []}, "empty"),
        ({"labels": ["cat"], "vocabulary": Vocabulary(WORDS)}, "leave the labels out"),
    ],
)
def test_what_cannot_be_scored(arguments, message):
    with pytest.raises(ConfigError, match=message):
        choose(**{"names": CLASSES, **arguments})


def test_scored_classes_of_a_vocabulary(pictures):
    """A threshold decides over the background although the cat alone is scored."""
    vocabulary, asked = Vocabulary(WORDS, "threshold", 0.5), ["cat", "dog", "hound"]
    hit = said = there = 0
    for image, label, _ in pictures:
        found = probabilities(image, asked)
        is_cat = (found.argmax(axis=-1) == 0) & (found.max(axis=-1) >= 0.5)
        truth = label == 1
        hit, there = hit + (is_cat & truth).sum(), there + truth.sum()
        said += (is_cat & truth).sum()  # other pixels do not count
    (metrics,) = score(Model(), pictures, vocabulary=vocabulary, score_labels=["cat"])
    assert 0 < hit < there
    assert metrics.iou == pytest.approx((hit / (said + there - hit),), rel=1e-12)
