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

import reprlib
from collections.abc import Sequence
from importlib import resources

from vlseg.errors import ConfigError, VocabularyError

_SUFFIX = ".txt"


def known() -> tuple[str, ...]:
    """The names that `load` takes, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def load(name: str) -> tuple[str, ...]:
    """Category names of one list, indexed by training id.

    Raises:
        ConfigError: there is no list of that name; the message has the known ones.
    """
    if name not in known():
        raise ConfigError(f"no label list is called {name!r}; the known ones are {', '.join(known())}")
    return tuple(resources.files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8").splitlines())


def check_names(names: Sequence[str], one: str, many: str) -> tuple[str, ...]:
    """Names that can be told apart.

    Args:
        names: N >= 1 names. White space around and between their words does not matter.
        one, many: what such a name is called in messages, "category" and "categories".

    Returns:
        The names, each with single spaces.

    Raises:
        VocabularyError: a bare string or not strings, no name, a blank name, or a name given twice (case ignored).
    """
    if isinstance(names, str):
        raise VocabularyError(f"{many} are one string: give a list of names, such as [{shown(names)}]")
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise VocabularyError(f"{many} are not a list of strings but {shown(names)}: give a list of names")
    if not names:
        raise VocabularyError(f"there are no {many}: give at least one name")
    plain = tuple(" ".join(name.split()) for name in names)
    if "" in plain:
        raise VocabularyError(f"{one} {plain.index('')} has a blank name: give it a name or leave it out")
    seen: dict[str, int] = {}
    for index, name in enumerate(plain):
        first = seen.setdefault(name.casefold(), index)
        if first != index:
            raise VocabularyError(f"{plain[first]!r} and {name!r} are the same {one}: give each name once")
    return plain


def shown(value: object) -> str:
    """A value for an error message: on one line, and not long."""
    return " ".join(reprlib.repr(value).split())
