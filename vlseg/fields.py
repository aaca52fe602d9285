"""Values of any origin, checked against the fields of dataclasses: their types, ranges and number.

What a field may hold is written once, in its type hint, and holds wherever the value comes from: a file, a flag, a
configuration, Python.

    layers: Annotated[int, Range(1, 256)] = 12
    stages: Annotated[tuple[Annotated[int, Range(1, 128)], ...], Length(1, 4)] = (3, 4, 23)

    check(self)                               # in __post_init__
    read(Adaptation, values, "adaptation")    # a dataclass from a mapping, such as an object of a JSON file
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from vlseg.errors import ConfigError

T = TypeVar("T")

LARGEST_INTEGER = 2**31 - 1
"""Of fields without a `Range`: accelerators count in 32 bits."""


class Range(NamedTuple):
    """What a number may be, both ends included unless `below` says that the upper one is not."""

    least: float
    most: float
    below: bool = False


class Choice(NamedTuple):
    """What a text may be."""

    among: tuple[str, ...]


class Length(NamedTuple):
    """How many items a tuple may have, both ends included."""

    least: int
    most: int


# Limits that several dataclasses share: far beyond all that there is, and small enough that no size made of them
# overflows or takes minutes to find out.
Layers = Annotated[int, Range(1, 256)]
Width = Annotated[int, Range(1, 2**16)]
Side = Annotated[int, Range(1, 2**14)]
"""Pixels of a side of what a network sees at once."""
Count = Annotated[int, Range(1, LARGEST_INTEGER)]
CountOrNone = Annotated[int, Range(0, LARGEST_INTEGER)]
"""Of what may be left out: 0 for none."""
Positive = Annotated[float, Range(0, 1e30)]
"""Rates, weights and norms; 0 too."""
Share = Annotated[float, Range(0, 1, below=True)]
"""Less than 1."""
Seed = Annotated[int, Range(0, 2**32 - 1)]


def read(kind: type[T], values: Any, where: str = "") -> T:
    """A dataclass from values by name; lists become tuples, and mappings the dataclasses that its fields are.

    Args:
        kind: a dataclass.
        values: a mapping from names of its fields to values; what is left out has its default.
        where: what a message calls them, such as "config.adaptation".

    Raises:
        ConfigError: it is no mapping, or has a name that does not exist, lacks one that has no default, or has a value
            that cannot be.
    """
    whole, prefix = where or "it", f"{where}." if where else ""
    values = mapping(values, whole)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(str(name) for name in values if name not in fields):
        raise ConfigError(f"{whole} has no setting {', '.join(unknown)}; there are {', '.join(fields)}")
    if missing := [name for name, field in fields.items() if name not in values and _is_needed(field)]:
        raise ConfigError(f"{whole} lacks {', '.join(missing)}")
    hints, found = _hints(typing.cast(Any, kind)), dict[str, Any]()
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
            found[name] = read(hint, value, f"{prefix}{name}")  # type: ignore[arg-type]
        else:
            found[name] = as_tuples(value) if typing.get_origin(_bare(hint)) is tuple else value
    try:
        made = kind(**found)
        check(made)
        return made
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ConfigError(f"{whole}: {error}") from error


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """A value that is a mapping (ConfigDict among them); ConfigError otherwise, which calls it `name`."""
    if not (isinstance(value, Mapping) or hasattr(value, "iteritems")):
        raise ConfigError(f"{name} is {_shown(value)}; it must hold settings by name")
    found: Mapping[str, Any] = value
    return found


def check(settings: Any, where: str = "") -> None:
    """Checks each field of a dataclass; one that is a dataclass has checked its own.

    Raises:
        ConfigError: a value is not of the type, range or length that the hint of its field says.
    """
    hints = _hints(settings.__class__)
    for field in dataclasses.fields(settings):
        check_value(getattr(settings, field.name), hints[field.name], f"{where}{field.name}")


def check_section(values: Any, kind: type, where: str) -> None:
    """Checks the values that a section of a configuration has for the fields of a dataclass, and of those in them.

    Args:
        values: a mapping, ConfigDict among them; what it lacks or has beside the fields is passed over.
        where: what a message puts before a name, such as "config.".

    Raises:
        ConfigError: a value is not of the type, range or length that the hint of its field says.
    """
    values = mapping(values, where.rstrip("."))
    for name, hint in _hints(kind).items():
        if name not in values or typing.get_origin(hint) is ClassVar:
            continue
        if dataclasses.is_dataclass(hint):
            check_section(values[name], hint, f"{where}{name}.")  # type: ignore[arg-type]
        else:
            check_value(as_tuples(values[name]), hint, f"{where}{name}")


def check_value(value: Any, hint: Any, name: str) -> None:
    """Checks one value, which a message calls `name`, see `check`.

    A bool is no number here, and an integer is a float. Numbers are finite.
    """
    limits: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *others = typing.get_args(hint)
        limits = tuple(others)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
        if len(choices) == 1:
            check_value(value, choices[0], name)
        return
    if hint in (int, float):
        between = next((limit for limit in limits if isinstance(limit, Range)), None)
        _check_number(value, hint, between, name)
    elif hint in (bool, str):
        if not isinstance(value, hint):
            words = "True or False" if hint is bool else "a text"
            raise ConfigError(f"{name} is {_shown(value)}; it must be {words}")
        choice = next((limit for limit in limits if isinstance(limit, Choice)), None)
        if choice and value not in choice.among:
            raise ConfigError(f"{name} {_shown(value)} is none of {', '.join(choice.among)}")
    elif typing.get_origin(hint) is tuple:
        _check_tuple(value, typing.get_args(hint), limits, name)
    elif (origin := typing.get_origin(hint) or hint) is Mapping:
        mapping(value, name)
    elif isinstance(origin, type) and not isinstance(value, origin):
        raise ConfigError(f"{name} is {_shown(value)}; it must hold settings by name")


def _check_number(value: Any, kind: type, between: Range | None, name: str) -> None:
    by_default = Range(-LARGEST_INTEGER - 1, LARGEST_INTEGER) if kind is int else Range(-math.inf, math.inf)
    least, most, below = between or by_default
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    # Not math.isfinite, which has no answer for integers of more than 308 digits. NaN is in no range.
    if is_number and least <= value <= most and (kind is int or abs(value) < 1e300) and not (below and value == most):
        return
    whole = ", an integer" if kind is int else ""
    if least == -math.inf and most == math.inf:
        limits = "a finite number"
    elif most in (LARGEST_INTEGER, math.inf):
        limits = f"{least:.12g} or more{' and fit in 32 bits' if most == LARGEST_INTEGER and is_number else ''}"
    else:
        limits = f"in [{least:.12g}, {most:.12g}{')' if below else ']'}"
    raise ConfigError(f"{name} is {_shown(value)}; it must be {limits}{whole}")


def _check_tuple(value: Any, kinds: tuple[Any, ...], limits: Iterable[Any], name: str) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(f"{name} is {_shown(value)}; it must be a list")
    if kinds[-1] is not Ellipsis:
        limits = [Length(len(kinds), len(kinds))]
    for limit in limits:
        if isinstance(limit, Length) and not limit.least <= len(value) <= limit.most:
            wanted = f"{limit.least}" if limit.least == limit.most else f"{limit.least} to {limit.most}"
            raise ConfigError(f"{name} has {len(value)} items; it must have {wanted}")
    for item, kind in zip(value, kinds if kinds[-1] is not Ellipsis else (kinds[0],) * len(value), strict=True):
        try:
            check_value(item, kind, name)
        except ConfigError as error:
            raise ConfigError(f"{name} is {_shown(value)}: {error}") from error


def as_tuples(value: Any) -> Any:
    """A value with its lists as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _bare(hint: Any) -> Any:
    """A hint without its limits, and without None beside it."""
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType):
        (hint,) = (choice for choice in typing.get_args(hint) if choice is not types.NoneType)
        return _bare(hint)
    return hint


def _shown(value: Any) -> str:
    """A value in a message; an integer of any length, whose digits Python may refuse to write."""
    try:
        text = repr(value)
    except ValueError:
        return "a number with thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
