"""Words that a text encoder cannot tell apart or read."""

import itertools
import logging

import jax
import numpy as np
import pytest

from vlseg.errors import VocabularyError
from vlseg.labels import distinct
from vlseg.labels.distinct import check_embeddings, check_known, check_tokens
from vlseg.labels.tokens import token_ids

RNG = np.random.default_rng(0)
WORDS = [f"w{index}" for index in range(300)]


def test_rounding_is_no_difference_and_more_is():
    rows = RNG.standard_normal((300, 64)).astype(np.float32)
    check_embeddings(WORDS, rows)
    check_embeddings(["alone"], np.zeros((1, 4)))
    near = rows.copy()
    near[250] = near[7] + 1e-4 * RNG.standard_normal(64)
    check_embeddings(WORDS, near)
    for one, other, third in itertools.islice(itertools.permutations((0, 7, 299)), 3):
        same = rows.copy()
        same[other] = same[one] * np.float32(1 + 1e-7)
        same[third] = same[one] * np.float32(1 - 1e-7)
        with pytest.raises(VocabularyError, match="apart: 'w0' = 'w7' = 'w299';"):
            check_embeddings(WORDS, same)


def test_groups_are_listed_and_the_message_stays_short():
    rows = np.repeat(RNG.standard_normal((8, 5)), 9, axis=0)
    with pytest.raises(VocabularyError) as error:
        check_embeddings(["a long name " * 30 + str(index) for index in range(72)], rows)
    assert len(str(error.value)) <= 500
    with pytest.raises(VocabularyError, match=r"apart: 'a' = 'c'; 'b' = 'd'; leave all but one"):
        check_embeddings(["a", "b", "c", "d"], [[1, 2], [2, 1], [1, 2], [2, 1]])


def test_vectors_of_one_direction_and_other_lengths_are_told_apart():
    check_embeddings(["a", "b"], [[1, 2], [2, 4]])
    with pytest.raises(VocabularyError):
        check_embeddings(["a", "b"], [[0, 0], [0, 0]])


def test_many_words_take_little_time():
    rows = RNG.standard_normal((20_000, 8))
    check_embeddings([""] * len(rows), rows)
    with pytest.raises(VocabularyError, match=r"and 19995 more"):
        check_embeddings(list(map(str, range(20_000))), np.ones((20_000, 8)))


def test_nothing_is_checked_where_there_are_no_values():
    jax.eval_shape(lambda rows: check_embeddings(["a", "b"], rows), jax.ShapeDtypeStruct((2, 3), np.float32))


def test_tokens(caplog):
    check_tokens(["a", "b", "a"], [[1, 2], [2, 1], [1, 2]])
    with pytest.raises(VocabularyError, match="'a' = 'A'"):
        check_tokens(["a", "b", "A"], [[1], [2], [1]])
    with pytest.raises(VocabularyError, match="nothing of '猫', '★': "):
        check_known(["猫", "cat", "★"], [[9], [4], [9, 9]], 9)
    with pytest.raises(VocabularyError, match="nothing of '猫'"):
        check_known(["猫"], [[]], None)
    with caplog.at_level(logging.WARNING, distinct.__name__):
        for _ in range(2):
            check_known(["cat ★", "dog"], [[4, 9], [5]], 9)
    (record,) = caplog.records
    assert "lacks a part of 'cat ★'" in record.getMessage()


def test_words_of_other_languages_are_told_once(caplog, monkeypatch):
    """By letters, which is all that can be told: "Hose" is German for trousers."""
    monkeypatch.setattr(distinct, "_told", set())
    english = [
        "cat",
        "t-shirt",
        "St. Bernard's",
        "4 x 4",
        "sofa \u2013 red",
        "tree \N{EVERGREEN TREE}",
        "Hose",
        "\u2764\ufe0f",
    ]
    foreign = ["M\u00fctze", "cafe\u0301", "\u9577\u9774", "\u0448\u0430\u043f\u043a\u0430", "stra\u00dfe", "\u00f8l"]
    assert [word for word in (*english, *foreign) if distinct.is_foreign(word)] == foreign
    tokens = [[place] for place in range(20)]
    with caplog.at_level(logging.WARNING, distinct.__name__):
        check_tokens(english, tokens[: len(english)])
        assert not caplog.records
        for words in (["cat", foreign[0]], [foreign[0], *foreign], foreign):
            check_tokens(words, [[foreign.index(word) if word in foreign else 9] for word in words])
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "the text encoder reads English, and results for words of other languages are poor: 'M\u00fctze'"
    assert len(said) == 2 and said[1].endswith(
        "'caf\u0065\u0301', '\u9577\u9774', '\u0448\u0430\u043f\u043a\u0430', 'stra\u00dfe', '\u00f8l'"
    )


def test_halves_of_characters_are_no_text():
    with pytest.raises(VocabularyError, match="no text in Unicode"):
        token_ids(lambda text: [1], "a\ud800")
