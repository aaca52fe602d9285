"""Names in JSON and YAML: a list of names; a map from ids to names or from names to ids; a list of objects with names,
such as the categories of COCO and the labels of a project of CVAT; or one of these under a key such as "names".
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlseg import json_files
from vlseg.errors import VocabularyError
from vlseg.labels.names import shown

Colour = tuple[int, int, int]

_KEYS = ("names", "categories", "classes", "labels", "id2label", "label2id")
"""Under which names stand, among other things."""

_NAMES, _COLOURS = ("name", "label", "class", "category", "title"), ("color", "colour")
_IDS = ("id", "category_id", "class_id", "label_id", "index", "idx", "value", "train_id", "trainId")

_EDITORS = ("attributes", "shape", "geometry_config")
"""Keys of labels of CVAT and Supervisely, which number them through their whole data base: no ids of pixels."""


class Entry(NamedTuple):
    """A name, its id, and its colour, as far as a file has them."""

    name: str
    id: int | None = None
    colour: Colour | None = None


class Unclear(Exception):
    """What is wrong with content that has no name."""


def from_json(text: str) -> list[Entry]:
    """The names in a JSON text. Raises Unclear."""
    try:
        content = json_files.parse(text, "JSON", VocabularyError)
    except VocabularyError as problem:
        raise Unclear(
            f"{str(problem).removeprefix('JSON: ')}; a list of names, as text, has one on each line"
        ) from problem
    json.loads(text, object_pairs_hook=_once)
    return entries(content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unclear(f"has an entry twice among {shown([key for key, _ in pairs])}: leave one out")
    return found


def from_yaml(text: str) -> list[Entry]:
    """The names in a YAML text. Raises Unclear, also where the package for YAML is missing."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise Unclear("is YAML: pip install pyyaml, or give the names one a line") from error

    class Loader(yaml.BaseLoader):
        """Everything is text: "no" stays a name, and nothing is made but lists and maps, which hold no key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(keys) < len(node.value) or len(set(keys)) < len(keys):
                raise yaml.YAMLError("a key is there twice, or is no text")
            return super().construct_mapping(node, deep)

    try:
        # An alias would let a short file stand for an endless one.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=Loader)):
            raise Unclear("is YAML with aliases: give the names one a line")
        content = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as problem:
        raise Unclear(f"is not YAML ({shown(' '.join(str(problem).split()))}): give the names one a line") from problem
    return entries(content)


def entries(content: Any) -> list[Entry]:
    """The names in what JSON or YAML was parsed to; ids may be text there. Raises Unclear."""
    if isinstance(content, list):
        return [_entry(item) for item in content]
    if not isinstance(content, Mapping):
        raise Unclear("is neither a list nor a map of names")
    keys = [key for key in _KEYS if isinstance(content.get(key), list | Mapping)]
    if keys:
        _check_one(content, keys)
        found = entries(content[keys[0]])
        count = _whole(content.get("nc"))
        if count is not None and count != len(found):
            raise Unclear(f"has {len(found)} names, but says that there are {count} (nc)")
        return found
    by_id = all(_whole(key) is not None for key in content)
    if all(_whole(value) is not None for value in content.values()) and not by_id:
        return [Entry(_name(key), _whole(value)) for key, value in content.items()]
    if by_id:
        return [Entry(_name(value), _whole(key)) for key, value in content.items()]
    raise Unclear(
        f"is a map of {shown(list(content))}, neither from ids to names nor from names to ids: give a list of names"
    )


def _check_one(content: Mapping[str, Any], keys: list[str]) -> None:
    """Refuses several lists that do not say the same."""
    found = [sorted(entries(content[key]), key=lambda entry: entry.id or 0) for key in keys]
    if any([entry.name for entry in other] != [entry.name for entry in found[0]] for other in found[1:]):
        raise Unclear(f"has names under {' and '.join(keys)}, which differ: leave one in")


def _entry(item: Any) -> Entry:
    if not isinstance(item, Mapping):
        return Entry(_name(item))
    names = [key for key in _NAMES if isinstance(item.get(key), str)]
    if not names:
        raise Unclear(f"has an entry without a name: {shown(item)}")
    keys = [key for key in _IDS if key in item] + [key for key in _NAMES if type(item.get(key)) is int]
    keys = [] if any(key in item for key in _EDITORS) else keys
    ids = [_whole(item[key]) for key in keys]
    if None in ids:
        raise Unclear(f"has the id {shown(item[keys[ids.index(None)]])}, which is no number from 0")
    if len(set(ids)) > 1:
        raise Unclear(f"has several ids for {shown(item[names[0]])}, {' and '.join(keys)}: leave all but one out")
    colours = [item[key] for key in _COLOURS if item.get(key)]
    return Entry(item[names[0]], ids[0] if ids else None, colour(colours[0]) if colours else None)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise Unclear(f"has {shown(value)} where a name is expected: put names in quotes")
    return value


def _whole(value: Any) -> int | None:
    """A number from 0, also as text; None for anything else."""
    text = str(value) if type(value) is int else value
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", text) else None


def colour(value: Any) -> Colour:
    """A colour from "#rrggbb", "r,g,b" or [r, g, b]. Raises Unclear."""
    if isinstance(value, str) and re.fullmatch(r"#?[0-9A-Fa-f]{6}", value):
        number = int(value.removeprefix("#"), 16)
        return number >> 16, number >> 8 & 255, number & 255
    parts = re.split(r"[\s,]+", value.strip(" ()[]")) if isinstance(value, str) else value
    numbers = [_whole(part) for part in parts] if isinstance(parts, list) else []
    if len(numbers) != 3 or any(number is None or number > 255 for number in numbers):
        raise Unclear(f"has the colour {shown(value)}, which is no red, green and blue from 0 to 255")
    return numbers[0] or 0, numbers[1] or 0, numbers[2] or 0
