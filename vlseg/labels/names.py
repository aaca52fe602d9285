"""Names as text: the one form in which they are compared, and the check that they can be told apart."""

import re
import reprlib
import unicodedata
from collections.abc import Sequence

from vlseg.errors import VocabularyError

NONE = "none of these"
"""The label of pixels that are rejected."""

_INVISIBLE = re.compile(
    "[\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}\N{SOFT HYPHEN}]"
    "|[\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}\N{ARABIC LETTER MARK}\u202a-\u202e\u2066-\u2069]"
    # Joiners shape letters of Arabic and Indian scripts, and emoji. Beside Latin letters and at ends they do nothing.
    "|(?<![^\0-\u024f])[\u200c\u200d]|[\u200c\u200d](?![^\0-\u024f])"
)


def plain(name: str) -> str:
    """A name as it is compared and given to models: single spaces, nothing invisible, and Unicode's form NFC.

    Macs write "café" in file names with an accent of its own (NFD); web pages and spreadsheets leave zero-width spaces.
    Case stays: whether it matters is for a model's tokenizer to say.
    """
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", name)).split())


def shown(value: object) -> str:
    """A value for an error message: on one line, and not long."""
    return " ".join(reprlib.repr(value).split())


def check_names(
    names: Sequence[str], one: str = "category", many: str = "categories", *, source: str = "", ignore_case: bool = True
) -> tuple[str, ...]:
    """Names that can be told apart.

    Args:
        names: N >= 1 names, which are compared as `plain` has them.
        one, many: what such a name is called in messages.
        source: where the names are from; messages begin with it.
        ignore_case: whether names that differ in case only are the same.

    Returns:
        The names as `plain` has them.

    Raises:
        VocabularyError: a bare string or not strings, no name, a blank name, one with control characters, or a name
            given twice.
    """
    where = f"{source}: " if source else ""
    if isinstance(names, str):
        raise VocabularyError(f"{where}{many} are one string: give a list of names, such as [{shown(names)}]")
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise VocabularyError(f"{where}{many} are not a list of strings but {shown(names)}: give a list of names")
    if not names:
        raise VocabularyError(f"{where}there are no {many}: give at least one name")
    found = tuple(map(plain, names))
    if "" in found:
        raise VocabularyError(f"{where}{one} {found.index('')} has a blank name: give it a name or leave it out")
    for name in found:
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise VocabularyError(f"{where}{one} {shown(name)} has characters that are no text: correct the name")
    seen: dict[str, int] = {}
    for index, name in enumerate(found):
        first = seen.setdefault(name.casefold() if ignore_case else name, index)
        if first != index:
            raise VocabularyError(f"{where}{found[first]!r} and {name!r} are the same {one}: give each name once")
    return found
