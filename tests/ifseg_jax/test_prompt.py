"""Categories as prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifseg_jax.prompt import PROMPT, UNKNOWN, Words, encode_categories
from ifseg_jax.vocabulary import BOS, EOS, PAD, UNK
from vlseg.errors import VocabularyError


def letters(text: str) -> list[int]:
    """A tokenizer whose ids can be read back: one id for each character but white space."""
    return [ord(character) for word in text.split() for character in word]


NAMES = st.lists(st.text("abcXYZé -'", min_size=1).filter(str.strip), min_size=1, max_size=5).filter(
    lambda names: len({" ".join(name.split()).casefold() for name in names}) == len(names)
)


@given(names=NAMES)
def test_the_prompt_is_the_prefix_then_every_name_then_unknown(names: list[str]) -> None:
    words = encode_categories(names, letters)
    assert words.names == tuple(" ".join(name.split()) for name in names)
    assert [list(ids) for ids in words.category_ids] == [letters(name) for name in names]
    assert words.prompt_ids[0] == BOS and words.prompt_ids[-1] == EOS
    assert "".join(map(chr, words.prompt_ids[1:-1])) == "".join((PROMPT + "".join(names) + UNKNOWN).split())


def test_the_tokenizer_is_called_once_for_each_text() -> None:
    calls: list[str] = []

    def recording(text: str) -> list[int]:
        calls.append(text)
        return letters(text)

    encode_categories(["traffic  light ", "cat"], recording, prompt="where? object:")
    assert sorted(calls) == sorted(["where? object:", "traffic light", "cat", "unknown"])


def test_special_ids_and_constants_are_those_of_ofa() -> None:
    assert (BOS, PAD, EOS, UNK, UNKNOWN) == (0, 1, 2, 3, "unknown")
    assert PROMPT == "what is the segmentation map of the image? object:"


def test_words_are_hashable_and_made_of_plain_integers() -> None:
    words = encode_categories(("cat",), lambda text: np.asarray(letters(text)))
    assert words == encode_categories(["cat"], letters)
    assert hash(words) == hash(Words(words.names, words.category_ids, words.prompt_ids))
    assert all(type(index) is int for index in words.prompt_ids)


def test_a_name_of_unknown_pieces_only_is_fine() -> None:
    assert encode_categories(["cat"], lambda text: [UNK]).category_ids == ((UNK,),)


def test_unknown_may_be_a_category() -> None:
    assert encode_categories([UNKNOWN], letters).category_ids == (tuple(letters(UNKNOWN)),)


@pytest.mark.parametrize("returned", [[], [-1], [4, -2], [1.5], ["4"], "45", None, [[4]], {"input_ids": [4]}])
def test_what_is_not_a_list_of_ids_is_refused(returned: object) -> None:
    with pytest.raises(VocabularyError, match=r"'dog'.*must return"):
        encode_categories(["cat", "dog"], lambda text: returned if text == "dog" else [4])  # type: ignore[arg-type, return-value]
