"""Names bind by name: which of the given words stands for which class, wherever words meet the ids of a data set.

- Words that hold the name of every class are found by name, in whatever order; others among them are distractors.
- "name=word" asks for a class by another word. Classes that are not mentioned keep their names, if nothing but such
  pairs is given.
- Otherwise as many words as classes stand for the classes in their places ("sofa" for "couch"). What differs is for the
  caller to print; the name of another class in a class's place is refused.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vlseg.errors import VocabularyError
from vlseg.labels.names import plain

NO_CLASS = -1
"""The class of a distractor."""

SHOWN = 5
"""Names in a message."""


class Binding(NamedTuple):
    """Words, and what they stand for.

    words: in the order in which they were given, each without what it renames.
    classes: of each word the id of its class, or NO_CLASS.
    replaced: names of classes and the words that stand for them, where the two differ in more than case.
    """

    words: tuple[str, ...]
    classes: tuple[int, ...]
    replaced: tuple[tuple[str, str], ...] = ()

    def places(self, classes: int) -> np.ndarray:
        """int32 [classes]: of each class of the data set the index of its word, or NO_CLASS."""
        found = np.full(classes, NO_CLASS, np.int32)
        for place, class_id in enumerate(self.classes):
            if class_id != NO_CLASS:
                found[class_id] = place
        return found


def bind(
    names: Sequence[str],
    words: Sequence[str],
    needed: Sequence[int] | None = None,
    *,
    what: str = "labels",
    source: str = "",
    places: bool = True,
) -> Binding:
    """Finds the classes that words stand for.

    White space and the forms of Unicode do not matter (`names.plain`), nor does case unless names differ in nothing
    else.

    Args:
        names: of the data set's classes, by id.
        words: what is given for them, which may have pairs "name=word"; a name of the data that has a "=" is itself.
        needed: ids of the classes that must be among them, by default all.
        what: what messages call the words. source: what they call the data set.
        places: whether words that are no names may stand for the classes in their places.

    Raises:
        VocabularyError: see above; or neither all names nor as many words as classes.
    """
    needed = range(len(names)) if needed is None else needed
    pairs = _renamed(names, words, what)
    if pairs and len(pairs) == len(words):
        pairs_of = dict(pairs.values())
        asked = [pairs_of.get(class_id, name) for class_id, name in enumerate(names)]
        return _bound(names, _apart(asked, what), range(len(names)), ignore_case=True)
    given = [names[pairs[place][0]] if place in pairs else word for place, word in enumerate(words)]
    asked = [pairs[place][1] if place in pairs else word for place, word in enumerate(words)]
    found = find(names, given)
    missing = [names[class_id] for class_id in needed if found[class_id] is None]
    if not missing:
        bound = [NO_CLASS] * len(words)
        for class_id, index in enumerate(found):
            if index is not None:
                bound[index] = class_id
        return _bound(names, _apart(asked, what) if pairs else asked, bound, ignore_case=True)
    lacking = f"there is no {', '.join(missing[:SHOWN])}{', ...' if len(missing) > SHOWN else ''}"
    if pairs:
        raise VocabularyError(f'{what} with "name=word" name every class, or are such pairs alone: {lacking}')
    if not places:
        raise VocabularyError(
            f"{len(missing)} of {len(names)} classes of the data set are none of the {what}: "
            f"{', '.join(missing[:SHOWN])}{', ...' if len(missing) > SHOWN else ''}"
        )
    if len(words) == len(names):
        in_place: Sequence[int] = range(len(names))
    elif len(words) == len(needed):
        in_place = needed
    else:
        classes = f"the {len(names)} classes of {source}" if source else f"the data set's {len(names)} classes"
        of = f", of which {len(needed)} are scored" if len(needed) < len(names) else ""
        raise VocabularyError(
            f"{len(words)} {what} do not fit {classes}{of}: give as many, in their order, or name all of them "
            f"({lacking})"
        )
    for class_id, index in enumerate(found):
        if index is not None and in_place[index] != class_id:
            raise VocabularyError(
                f"{lacking} among the {what}, so they stand for the classes in their order, but {words[index]!r}, "
                f"another class, stands for {names[in_place[index]]!r}: put it in its place"
            )
    return _bound(names, asked, in_place, ignore_case=False)


def explanation(replaced: Sequence[tuple[str, str]]) -> str:
    """One line that says which words stand for which names, of a `Binding`; empty if none do."""
    return f"asked for: {', '.join(f'{name} as {word}' for name, word in replaced)}" if replaced else ""


def renamed(names: Sequence[str], words: Sequence[str], replaced: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Words that were bound to the classes of one data set, for another one, as `bind` takes them.

    Args:
        names: of the other data set. words, replaced: of the `Binding`.
    """
    name_of = {word: name for name, word in replaced}
    found = zip(words, find(words, names), strict=True)
    return tuple(
        f"{name_of[word]}={word}" if index is None and find([name_of.get(word, "")], names) != [None] else word
        for word, index in found
    )


def find(names: Sequence[str], words: Sequence[str]) -> list[int | None]:
    """Where each of the names stands among the words, None where it does not.

    A name stands where a word equals it. Of the other names and words, one stands where a word equals it but for case,
    unless there are several of either.
    """
    exact = {plain(word): index for index, word in enumerate(words)}
    found = [exact.get(plain(name)) for name in names]
    other_words = _alone({word: index for word, index in exact.items() if index not in found})
    other_names = _alone({plain(name): index for index, name in enumerate(names) if found[index] is None})
    for folded, index in other_names.items():
        found[index] = other_words.get(folded)
    return found


def _alone(places: Mapping[str, int]) -> dict[str, int]:
    """Places of words without their case, but not of words that differ in nothing else."""
    count = collections.Counter(word.casefold() for word in places)
    return {word.casefold(): place for word, place in places.items() if count[word.casefold()] == 1}


def _bound(names: Sequence[str], words: Sequence[str], classes: Sequence[int], *, ignore_case: bool) -> Binding:
    word_of = {class_id: word for class_id, word in zip(classes, words, strict=True) if class_id != NO_CLASS}
    replaced = []
    for class_id in sorted(word_of):
        pair = plain(names[class_id]), plain(word_of[class_id])
        if len({text.casefold() for text in pair} if ignore_case else set(pair)) > 1:
            replaced.append((names[class_id], word_of[class_id]))
    return Binding(tuple(words), tuple(classes), tuple(replaced))


def _apart(words: list[str], what: str) -> list[str]:
    """Words after renaming, none of which may be another class's."""
    twice = [word for word, count in collections.Counter(map(plain, words)).items() if count > 1]
    if twice:
        raise VocabularyError(f"{twice[0]!r} among the {what} would stand for two classes: choose another word")
    return words


def _renamed(names: Sequence[str], words: Sequence[str], what: str) -> dict[int, tuple[int, str]]:
    """Of the words "name=word", by their index, the id of the class and the word."""
    pairs: dict[int, tuple[int, str]] = {}
    equal = [index for index, word in enumerate(words) if "=" in word]
    literal = find([words[index] for index in equal], names)
    for index, itself in zip(equal, literal, strict=True):
        if itself is not None:
            continue
        parts = words[index].split("=")
        splits = [("=".join(parts[:end]), "=".join(parts[end:])) for end in range(1, len(parts))]
        fitting = [
            (class_id, plain(right))
            for (left, right), class_id in zip(splits, find([left for left, _ in splits], names), strict=True)
            if class_id is not None and plain(right)
        ]
        if len(fitting) != 1:
            raise VocabularyError(_no_pair(words[index], names, splits, len(fitting), what))
        pairs[index] = fitting[0]
    twice = [class_id for class_id, n in collections.Counter(c for c, _ in pairs.values()).items() if n > 1]
    if twice:
        raise VocabularyError(f"{what} rename {names[twice[0]]!r} more than once: give one word for it")
    return pairs


def _no_pair(word: str, names: Sequence[str], splits: Sequence[tuple[str, str]], fitting: int, what: str) -> str:
    if fitting:
        return f"{word!r} among the {what} can be read in {fitting} ways: give the words of all classes in a file"
    reverse = [(left, right) for left, right in splits if find([right], names) != [None] and plain(left)]
    if reverse:
        left, right = (plain(part) for part in reverse[0])
        return f"{word!r}: the data set's name comes first and the word that is asked for behind it: '{right}={left}'"
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f'{word!r} among the {what} is no "name=word" with a name of the data set\'s classes, which are {listed}'
