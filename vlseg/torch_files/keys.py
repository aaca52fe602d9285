"""Keys of dictionaries and elements of sets that come from a file.

Python finds a key by its hash. Texts have random ones; those of numbers and tuples are known, so that a file can hold
many that collide, which take quadratic time, and tuples that share their parts, which take exponential time to hash.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

LONGEST_TEXT = 1 << 16
"""Characters of a key, or of all texts in one."""

LONGEST_TUPLE = 32
HEAVIEST = 1 << 15
"""Weight of all keys of a dictionary or set that are not texts: a number weighs 1, a tuple or a long number
`LONGEST_TUPLE`."""

_HASHED_BITS, _MOST_BITS = 61, 1 << 12
"""Whole numbers of fewer bits have hashes of their own; hashing one takes time in proportion to its bits."""

_TEXTS = (str, bytes)
_NO_KEYS = (list, dict, set, frozenset, complex, np.complexfloating, np.ndarray, slice, range)


class KeyWeights:
    """Checks keys before they are put in dictionaries and sets, and remembers the weight of each of these."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int]] = {}

    def check(self, container: Any, keys: Iterable[Any]) -> None:
        """Raises ValueError for keys that could take long to find, alone or with those that `container` has."""
        added = sum(map(_weight, keys))
        if not added:
            return
        # The container is remembered as well: the identity of one that is gone would be another's.
        _, before = self._known.get(id(container), (None, 0))
        if before + added > HEAVIEST:
            raise ValueError(f"a dictionary or set with too many keys that are no texts (weight {before + added})")
        self._known[id(container)] = container, before + added


def checked(keys: Iterable[Any]) -> list[Any]:
    """The keys of a new set; ValueError as `KeyWeights.check`."""
    found = list(keys)
    KeyWeights().check(None, found)
    return found


def checked_items(pairs: Any) -> list[tuple[Any, Any]]:
    """The entries of a new dictionary, of a mapping or a collection of pairs; ValueError as `KeyWeights.check`."""
    found = [(key, value) for key, value in (pairs.items() if isinstance(pairs, Mapping) else pairs)]
    KeyWeights().check(None, (key for key, _ in found))
    return found


def _weight(key: Any) -> int:
    if isinstance(key, _TEXTS):
        if len(key) > LONGEST_TEXT:
            raise ValueError(f"a dictionary key of {len(key)} characters")
        return 0
    if isinstance(key, tuple):
        if len(key) > LONGEST_TUPLE or any(isinstance(part, tuple) for part in key):
            raise ValueError("a dictionary key that is nested or too long")
        if sum(len(part) for part in key if isinstance(part, _TEXTS)) > LONGEST_TEXT:
            raise ValueError("a dictionary key that is too long")
        for part in key:
            _weight(part)
        return LONGEST_TUPLE
    if isinstance(key, int):
        if key.bit_length() > _MOST_BITS:
            raise ValueError(f"a number of {key.bit_length()} bits as a dictionary key")
        return 1 if key.bit_length() < _HASHED_BITS else LONGEST_TUPLE
    if isinstance(key, _NO_KEYS):
        raise ValueError(f"a {type(key).__name__} as a dictionary key")
    return 1
