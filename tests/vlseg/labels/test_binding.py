"""Names bind by name, in every place where they meet the ids of a data set."""

import numpy as np
import pytest

from vlseg import labels
from vlseg.commands.pseudo_label import PseudoLabelled
from vlseg.data.examples import Example
from vlseg.errors import ConfigError, VocabularyError
from vlseg.evaluation.scoring import Vocabulary, choose
from vlseg.labels.binding import NO_CLASS, bind, explanation, renamed
from vlseg.scores import Scores

NAMES = ("trousers", "café", "hot dog", "Tree")


def bound(words, **options):
    found = bind(NAMES, words, **options)
    return found.words, found.classes


def test_a_permutation_is_put_in_order_by_name():
    assert bound(["Tree", "hot dog", "trousers", "café"]) == (("Tree", "hot dog", "trousers", "café"), (3, 2, 0, 1))
    assert bind(NAMES, NAMES[::-1]).places(4).tolist() == [3, 2, 1, 0]
    assert not bind(NAMES, NAMES[::-1]).replaced


def test_other_words_beside_all_names_are_distractors():
    words = ["moon", "Tree", "hot dog", "sun", "trousers", "café"]
    assert bind(NAMES, words).classes == (NO_CLASS, 3, 2, NO_CLASS, 0, 1)


def test_white_space_forms_of_unicode_and_case_do_not_matter():
    words = ["TREE", "hot \t dog", " trousers\u200b", "cafe\u0301"]
    assert bind(NAMES, words).classes == (3, 2, 0, 1)
    assert not bind(NAMES, words).replaced
    assert bind(["cafe\u0301", "Turkey", "turkey"], ["turkey", "café", "Turkey"]).classes == (2, 0, 1)


def test_other_words_stand_for_the_classes_in_their_places():
    found = bind(NAMES, ["pants", "café", "frankfurter", "oak"])
    assert found.classes == (0, 1, 2, 3)
    assert found.replaced == (("trousers", "pants"), ("hot dog", "frankfurter"), ("Tree", "oak"))
    assert explanation(found.replaced) == "asked for: trousers as pants, hot dog as frankfurter, Tree as oak"


@pytest.mark.parametrize("name", ["ade20k_150", "ade20k_150_lseg"])
def test_a_published_list_of_other_words(name):
    found = bind(labels.load("ade20k_150"), labels.load(name))
    assert found.classes == tuple(range(150)) and len(found.replaced) == (14 if name.endswith("lseg") else 0)


@pytest.mark.parametrize("words", [["café", "pants", "hot dog", "Tree"], ["pants", "hot dog", "cafe\u0301", "tree"]])
def test_a_name_in_the_place_of_another_is_refused(words):
    with pytest.raises(VocabularyError, match=r"there is no trousers among the labels, .* another class"):
        bind(NAMES, words)


def test_pairs_rename_by_name():
    assert bound(["trousers=pants"]) == (("pants", "café", "hot dog", "Tree"), (0, 1, 2, 3))
    assert bound(["TREE = oak", "trousers=pants"]) == (("pants", "café", "hot dog", "oak"), (0, 1, 2, 3))
    assert bind(NAMES, ["trousers=pants"]).replaced == (("trousers", "pants"),)
    words = ["Tree", "moon", "trousers=pants", "cafe\u0301", "hot dog"]
    assert bound(words) == (("Tree", "moon", "pants", "cafe\u0301", "hot dog"), (3, NO_CLASS, 0, 1, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pants=trousers"], "comes first .*'trousers=pants'"),
        (["skirt=gown"], 'no "name=word" with a name of the data set\'s classes, which are trousers'),
        (["trousers="], 'no "name=word"'),
        (["trousers=a", "trousers=b"], "rename 'trousers' more than once"),
        (["trousers=café"], "would stand for two classes"),
        (["trousers=pants", "Tree"], "name every class"),
    ],
)
def test_pairs_that_are_refused(words, message):
    with pytest.raises(VocabularyError, match=message):
        bind(NAMES, words)
    with pytest.raises(ConfigError, match=message):
        choose(NAMES, words)


def test_names_with_the_sign_in_them_are_names():
    names = ("a=b", "a", "c")
    assert bind(names, ["c", "a=b", "a"]).classes == (2, 0, 1)
    assert bind(names, ["c=d=e"]).words == ("a=b", "a", "d=e")
    with pytest.raises(VocabularyError, match="read in 2 ways"):
        bind(names, ["a=b=x"])


def test_scored_classes_and_their_words():
    chosen = choose(NAMES, ["trousers=pants"], ["Tree", "trousers"])
    assert (chosen.words, chosen.scored) == (("pants", "café", "hot dog", "Tree"), (3, 0))
    assert chosen.names == ("Tree", "pants") and chosen.explanation == "asked for: trousers as pants"


def test_words_of_a_vocabulary_are_no_names_of_other_classes():
    Vocabulary((("cat", "kitten"), ("dog",))).check(("cat", "dog"))
    with pytest.raises(ConfigError, match="'dog', a word for 'cat', is the name of another class"):
        Vocabulary((("dog",), ("cat",))).check(("cat", "dog"))


def test_what_was_bound_to_one_data_set_is_bound_to_another_by_name():
    found = bind(("a", "b", "c"), ("x", "y", "c"))
    words = renamed(("c", "b", "a"), found.words, found.replaced)
    assert words == ("a=x", "b=y", "c")
    assert bind(("c", "b", "a"), words)[:2] == (("x", "y", "c"), (2, 1, 0))
    assert renamed(("x", "y", "c"), found.words, found.replaced) == found.words


class Model:
    """Stands for any model: the second of the labels that a pixel may have is always the best."""

    inference = None

    def names(self, labels):
        return labels

    def embed(self, labels):
        return labels

    def score_each(self, items, image_of, labels, settings):
        for item in items:
            yield item, [self._scores(image_of(item).shape[:2], len(labels))]

    @staticmethod
    def _scores(shape, count):
        class Rising(Scores):
            def probabilities(self):
                return np.broadcast_to(np.arange(1, count + 1) / count, (*shape, count))

        return Rising()


class Pictures(list):
    ignore_label = 255

    def __init__(self, names):
        self.names = names
        super().__init__([Example(np.zeros((1, 4, 3), np.uint8), np.array([[0, 1, 2, 255]]), "a")])


@pytest.mark.parametrize(
    ("names", "words", "labels", "expected"),
    [
        (("cat", "dog", "cow"), ["moon", "cow", "cat", "dog", "sun"], ("moon", "cow", "cat", "dog", "sun"),
         [2, 3, 1, 4]),
        (("cafe\u0301", "hot  dog", "Cow"), ["sun", "cow", "hot dog", "café"], ("sun", "cow", "hot dog", "café"),
         [3, 2, 1, 0]),
        (("cat", "dog", "cow"), ["cow=ox", "dog", "sun", "cat"], ("ox", "dog", "sun", "cat"), [3, 1, 0, 2]),
    ],
)  # fmt: skip
def test_labels_of_a_data_set_keep_their_meaning_in_self_training(names, words, labels, expected):
    labelled = PseudoLabelled(Model(), Pictures(names), words)
    assert labelled.names == labels
    assert labelled[0].label.tolist() == [expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pants", "dog", "cow"], "1 of 3 classes of the data set are none of the labels: cat"),
        (["cow", "dog", "cat"], "nothing to label"),
        (["cat=pants"], "nothing to label"),
        (["pants=cat", "dog", "cow", "sun"], "'cat=pants'"),
    ],
)
def test_self_training_needs_all_names_and_another_label(words, message):
    with pytest.raises(ConfigError, match=message):
        PseudoLabelled(Model(), Pictures(("cat", "dog", "cow")), words)
