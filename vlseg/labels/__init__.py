"""Category lists of the data sets, one name a line, in the order of the data set's training ids.

They are plain words, to be asked for; where a data set calls a category otherwise ("wall-concrete", "building;edifice",
"Lane Marking - General") `vlseg.data.catalog` has its own name.

Of the prompts that IFSeg (alinlab/ifseg) publishes:

- `coco_stuff_171`: COCO-Stuff 164k, the 80 things of COCO, then the 91 kinds of stuff.
- `coco_unseen_15`, `coco_seen_156`: the zero-shot split of the same 171; each with ids of its own, counted from 0.
- `ade20k_150`: ADE20K (SceneParse150). The label files count from 1 and keep 0 for "other".

As LSeg's zero-shot models (isl-org/lang-seg) were trained with them: `pascal_5i_20`, `coco_20i_80`, `fss_1000`.

`ade20k_150_lseg` are the words of LSeg's own checkpoint for ADE20K, in which names of several words have lost all but
the first ("chest", "pool"); "screen door" alone is whole here, since it would be "screen" a second time.

The others are data sets of the catalog in plain words.
"""

import os
import re
import reprlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from vlseg.errors import ConfigError, VocabularyError

_SUFFIX = ".txt"


def known() -> tuple[str, ...]:
    """The names that `load` takes, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def load(name: str) -> tuple[str, ...]:
    """Category names of one list, indexed by training id; ConfigError, which has the known ones, if there is none."""
    if name not in known():
        raise ConfigError(f"no label list is called {name!r}; the known ones are {', '.join(known())}")
    return tuple(resources.files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8").splitlines())


def check_names(
    names: Sequence[str], one: str = "category", many: str = "categories", *, source: str = "", ignore_case: bool = True
) -> tuple[str, ...]:
    """Names that can be told apart.

    Args:
        names: N >= 1 names. White space around and between their words does not matter.
        one, many: what such a name is called in messages.
        source: where the names are from; messages begin with it.
        ignore_case: whether names that differ in case only are the same. Models take them so; a data set may have
            them, and be scored with other words.

    Returns:
        The names, each with single spaces.

    Raises:
        VocabularyError: a bare string or not strings, no name, a blank name, or a name given twice.
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
    seen: dict[str, int] = {}
    for index, name in enumerate(found):
        first = seen.setdefault(name.casefold() if ignore_case else name, index)
        if first != index:
            raise VocabularyError(f"{where}{found[first]!r} and {name!r} are the same {one}: give each name once")
    return found


def names_from(text_or_path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names from "cat, grass", a list of this package by its name, or the path of a names file, see `read_names`.

    Raises:
        VocabularyError: no names, a blank one, one twice (in the same case), or a .txt file that does not exist.
    """
    if os.path.isfile(text_or_path):
        return read_names(Path(text_or_path))[0]
    text = os.fspath(text_or_path)
    if text in known():
        return load(text)
    if isinstance(text_or_path, os.PathLike) or text.lower().endswith(".txt"):
        raise VocabularyError(f"{text}: no such file of category names")
    return check_names(text.split(",") if text.strip() else (), source=repr(text), ignore_case=False)


def read_names(path: Path) -> tuple[tuple[str, ...], int | None]:
    """The names in a file, and the id that the file gives the first of them, if it gives ids.

    The file has one name a line, optionally as "id: name" or "id<tab>name"; blank lines and those that begin with #
    do not matter.

    Raises:
        VocabularyError: no names, a blank one, one twice (in the same case), or ids that do not count up by one.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise VocabularyError(f"{path}: is not a text file in UTF-8") from None
    lines = [line for line in lines if line and not line.startswith("#")]
    numbered = [match for line in lines if (match := re.fullmatch(r"(\d+)\s*[:\t]\s*(.*)", line))]
    has_ids = len(numbered) == len(lines) > 0
    names = check_names([match[2] for match in numbered] if has_ids else lines, source=str(path), ignore_case=False)
    if not has_ids:
        return names, None
    ids = [int(match[1]) for match in numbered]
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise VocabularyError(f"{path}: the ids of the names must count up by one from line to line")
    return names, ids[0]


def plain(name: str) -> str:
    """A name with single spaces, which is how names are compared."""
    return " ".join(name.split())


def shown(value: object) -> str:
    """A value for an error message: on one line, and not long."""
    return " ".join(reprlib.repr(value).split())
