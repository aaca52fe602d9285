"""From the best words of pixels to classes, against the definitions written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.errors import ConfigError
from vlseg.evaluation.scoring import CONVENTIONS, Vocabulary, choose

WORDS = (("sky", "sea"), ("cat",), ("dog", "hound", "puppy"), ("tree",))
NAMES = ("background", "cat", "dog", "tree")


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def defined(scores, words, background, threshold):
    """SCLIP's and GroupViT's rules: probabilities over words, a class has its best word's, few means background."""
    if background == "threshold":
        words = words[1:]
    of_class = np.repeat(np.arange(len(words)), [len(group) for group in words])
    probabilities = softmax(scores[..., : len(of_class)])
    classes = np.stack([probabilities[..., of_class == c].max(axis=-1) for c in range(len(words))], axis=-1)
    if background != "threshold":
        return classes.argmax(axis=-1)
    return np.where(classes.max(axis=-1) < threshold, 0, 1 + classes.argmax(axis=-1))


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4), min_size=2, max_size=6),
    st.sampled_from(CONVENTIONS),
    st.sampled_from([0.05, 0.3, 0.6, 1.0]),
)
def test_classes_are_those_of_the_definition(seed, counts, background, threshold):
    words = tuple(tuple(f"{c} {w}" for w in range(count)) for c, count in enumerate(counts))
    vocabulary = Vocabulary(words, background, threshold)
    scores = 3 * np.random.default_rng(seed).standard_normal((5, 7, sum(counts)))
    asked = scores[..., : len(vocabulary.asked)]
    best, highest = asked.argmax(axis=-1), softmax(asked).max(axis=-1)
    expected = defined(scores, words, background, threshold)
    candidates = choose([str(c) for c in range(len(words))], vocabulary=vocabulary)
    found = candidates.class_map(jnp.asarray(best), jnp.asarray(highest))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


def test_words_and_their_classes():
    vocabulary = Vocabulary(WORDS, "words")
    assert vocabulary.asked == ("sky", "sea", "cat", "dog", "hound", "puppy", "tree")
    assert vocabulary.classes == (0, 0, 1, 2, 2, 2, 3)
    best = jnp.array([[0, 1, 2, 3], [4, 5, 6, 0]])
    assert choose(NAMES, vocabulary=vocabulary).class_map(best).tolist() == [[0, 0, 1, 2], [2, 2, 3, 0]]
    # The words for the background are not asked for where a threshold finds it; a tie with the threshold is a class.
    vocabulary = Vocabulary(WORDS, "threshold", 0.5)
    assert vocabulary.asked == ("cat", "dog", "hound", "puppy", "tree")
    highest = jnp.array([[0.1, 0.5, 0.4999, 0.9], [0.6, 0.5, 0.5, 0.0]])
    class_map = choose(NAMES, vocabulary=vocabulary).class_map
    found = jax.jit(class_map)(jnp.array([[0, 0, 1, 2], [3, 4, 1, 1]]), highest)
    assert found.tolist() == [[0, 1, 0, 2], [2, 3, 2, 0]]
    with pytest.raises(ValueError, match="needs probabilities"):
        class_map(best)


def test_what_fits_a_data_set():
    Vocabulary(WORDS, "words").check(NAMES)
    Vocabulary(WORDS, "threshold", 0.2).check(NAMES)
    Vocabulary(WORDS).check(("wall", "cat", "dog", "tree"))
    with pytest.raises(ConfigError, match="words for 4 classes do not fit the data set's 3"):
        Vocabulary(WORDS, "words").check(NAMES[:3])
    with pytest.raises(ConfigError, match="has a background"):
        Vocabulary(WORDS).check(NAMES)
    with pytest.raises(ConfigError, match="has no background"):
        Vocabulary(WORDS, "threshold", 0.2).check(("wall", "cat", "dog", "tree"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"background": "guess"}, "'guess' is none of none, words, threshold"),
        ({"words": ("cat", ("dog",))}, "words of class 0 are 'cat'"),
        ({"words": (("cat",), ())}, r"words of class 1 are \(\)"),
        ({"words": (("cat",), (3,))}, "words of class 1"),
        *[({"background": "threshold", "threshold": t}, "needs one in") for t in (None, 0.0, 1.1, float("nan"))],
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary.from_config({"words": WORDS, "background": "none", "threshold": None, **values})


def test_settings_that_are_missing():
    with pytest.raises(ConfigError, match="lacks background, threshold: give a file such as configs/open_voc"):
        Vocabulary.from_config({"words": WORDS})


@pytest.mark.parametrize(("word", "message"), [("kit ten", "the same word"), (" ", "blank"), ("\u200b", "blank")])
def test_a_word_stands_for_one_class(word, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary((("kit  ten",), ("dog", word)))
