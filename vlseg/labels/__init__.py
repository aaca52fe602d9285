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

import difflib
import os
import re
from importlib import resources
from pathlib import Path

from vlseg import files
from vlseg.errors import ConfigError, VocabularyError
from vlseg.labels.names import NONE, check_names, plain, shown
from vlseg.labels.names_files import NamesFile, read_names, read_names_file, unquoted, without_marks

__all__ = [
    "NONE",
    "NamesFile",
    "check_names",
    "known",
    "load",
    "names_from",
    "plain",
    "read_names",
    "read_names_file",
    "shown",
]

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


def names_from(text_or_path: str | os.PathLike[str], *, pairs: bool = False) -> tuple[str, ...]:
    """Names from "cat, grass", a list of this package by its name, or the path of a names file, see `names_files`.

    Args:
        pairs: whether "name=word" may stand in a text, for `binding.bind`. Where nothing binds names it is refused, as
            nobody means it as a label.

    Raises:
        VocabularyError: no names, a blank one, one twice (in the same case), what looks like the path of a file that
            does not exist, or what stands between or around names and is no comma.
    """
    text = os.fspath(text_or_path)
    if text in known() and not os.path.isfile(text):
        return load(text)
    path = Path(os.path.expanduser(text))
    if isinstance(text_or_path, os.PathLike) or os.path.isfile(path) or os.path.islink(path):
        return read_names(path)[0]
    parts = [unquoted(part) for part in text.split(",")] if text.strip() else []
    _check_no_path(text, parts)
    _check_words(text, parts)
    parts = without_marks(list(map(plain, parts)), repr(text))
    names = check_names(parts, source=repr(text), ignore_case=False)
    if not pairs and (equal := [name for name in names if "=" in name]):
        raise VocabularyError(
            f"{shown(equal[0])}: another word for a class of a data set is given where a data set is; here, give the "
            'word alone, or a names file if "=" is part of the name'
        )
    return names


_OTHER_SIGNS = re.compile("[\\n\\r;|<>{}\\[\\]\uff0c\u3001\uff1b]")
_NO_WORD = re.compile(r"\(?[\"\u201c]|\(?'[^']*'?\)?$|\d+\s*:|.*:\s*\d+$")
"""An open quotation mark, as of a name with a comma or of a list in Python; or a name with its id."""


def _check_words(text: str, parts: list[str]) -> None:
    """Refuses lists in another form than "cat, grass", which would be taken for names as they stand."""
    if sign := _OTHER_SIGNS.search(text.strip()) or (
        re.search(r"(?<=\S)\t(?=\S)", text.strip()) if len(parts) == 1 else None
    ):
        raise VocabularyError(f"{shown(text)}: has {sign[0]!r}: give names with commas, as cat,grass, or a names file")
    strange = [part for part in parts if _NO_WORD.match(part.strip())]
    if strange:
        raise VocabularyError(
            f"{shown(text)}: {shown(strange[0])} is no name: give names with commas, as cat,grass, or a names file"
        )


_FILE_NAME = re.compile(r"\S.*\.[A-Za-z][A-Za-z0-9]{1,5}")
_FOLDER = re.compile(r"(~|\.{0,2})[/\\]|[A-Za-z]:\\")


def _check_no_path(text: str, parts: list[str]) -> None:
    """Refuses what is no list of names but a path with nothing at its end, or the name of a list written wrongly."""
    whole, alone = text.strip(), len(parts) == 1
    path = os.path.expanduser(whole)
    if alone and re.search(r"[/\\]", whole) and os.path.exists(path):
        files.check_regular(path, VocabularyError)  # a folder, or a pipe
    for part in (*map(str.strip, parts), whole):
        name = _FILE_NAME.fullmatch(part) and " " not in part.rpartition(".")[2]
        if name or _FOLDER.match(part) or files.is_remote(part) or (alone and re.search(r"[/\\]", part)):
            raise VocabularyError(f"{part}: no such file of category names")
    near = difflib.get_close_matches(whole, known(), n=2, cutoff=0.8) if alone and "_" in whole else []
    if near:
        raise VocabularyError(f"no label list is called {whole!r}: did you mean {' or '.join(near)}?")
