"""Category lists of the data sets, one name a line, in the order of the data set's training ids.

The names are those of the prompts that IFSeg (alinlab/ifseg) publishes; where a data set calls a category otherwise
("wall-concrete", "building;edifice") the prompt's plain words stand here ("concrete wall", "building").

- `coco_stuff_171`: COCO-Stuff 164k, the 80 things of COCO, then the 91 kinds of stuff.
- `coco_unseen_15`, `coco_seen_156`: the zero-shot split of the same 171; each with ids of its own, counted from 0.
- `ade20k_150`: ADE20K (SceneParse150). The label files count from 1 and keep 0 for "other".
"""

from importlib import resources

from vlseg.errors import ConfigError

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
