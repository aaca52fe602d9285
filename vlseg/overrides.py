"""Settings that change others: the fields of a dataclass as flags, or as a section of a configuration, unset at first.

    define(Seen)                                            # --short_side, --crf_iterations, ... of a dataclass
    seen = changed(seen, given(Seen, flags.FLAGS), "--", "_")

What is unset (None) leaves a setting as it is. Fields that are dataclasses have their fields as flags of two names. A
dataclass may say which of its fields have no effect where another one is 0: `needs`, a class variable with the name of
the former -> that of the latter.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_dict

from vlseg.errors import ConfigError

T = TypeVar("T")

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


class Field(NamedTuple):
    """A field: names from the outermost dataclass on, its type, and what the docstring of its dataclass says of it."""

    path: tuple[str, ...]
    kind: Any
    text: str


def fields(kind: type, above: tuple[str, ...] = ()) -> dict[str, Field]:
    """The fields of a dataclass and of those in it, by the names of their flags."""
    found: dict[str, Field] = {}
    hints, texts = typing.get_type_hints(kind), _texts(kind)
    for field in dataclasses.fields(kind):
        path, hint = (*above, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= fields(hint, path)  # type: ignore[arg-type]
        else:
            found["_".join(path)] = Field(path, hint, texts.get(field.name, ""))
    return found


def section(kind: type) -> ConfigDict:
    """The fields of a dataclass as settings of a configuration, all of them unset."""
    unset = {
        name: config_dict.placeholder(typing.get_origin(hint) or hint) for name, (_, hint, _) in fields(kind).items()
    }
    return ConfigDict(nested(kind, unset))


def define(kind: type, only: Collection[str] | None = None) -> None:
    """Defines a flag for each field of a dataclass, or for some of them, unset by default."""
    for name, (_, hint, text) in fields(kind).items():
        if only is not None and name not in only:
            continue
        text = f"{text.rstrip('.')}; default: the model's own.".lstrip("; ")
        text = text[:1].upper() + text[1:]
        if hint is bool:
            flags.DEFINE_bool(name, None, text)
        elif hint is int:
            flags.DEFINE_integer(name, None, text)
        elif hint is float:
            flags.DEFINE_float(name, None, text)
        elif typing.get_args(hint) == (float, ...):
            flags.DEFINE(_Numbers(), name, None, text)
        else:
            raise TypeError(f"{kind.__name__}.{name} is of a type that is no flag's: {hint}")


def given(kind: type, options: Any) -> dict[str, Any]:
    """The values of those flags of `define` that are defined and set, by their names."""
    return {name: options[name].value for name in fields(kind) if name in options and options[name].value is not None}


def nested(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of their flags, as `changed` takes them."""
    found: dict[str, Any] = {}
    known = fields(kind)
    for name, value in values.items():
        *outer, last = known[name].path
        inner = found
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return found


def changed(settings: T, values: Mapping[str, Any], where: str, between: str = ".") -> T:
    """Settings with other values.

    Args:
        settings: a dataclass, which checks its values itself; its fields may be such dataclasses.
        values: names of fields -> values, or -> such a mapping; None leaves a setting as it is.
        where: what messages put before the name of a field, such as "config.inference.". between: what they put between
            the names of a dataclass and of its field.

    Raises:
        ConfigError: a name that does not exist, or a value that cannot be or has no effect.
    """
    known = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}{name}: no such setting; there are {', '.join(known)}")
        if value is None:
            continue
        before = getattr(settings, name)
        if dataclasses.is_dataclass(before):
            changes[name] = changed(before, value, f"{where}{name}{between}", between)
        else:
            changes[name] = tuple(value) if isinstance(value, list) else value
    try:
        found = dataclasses.replace(settings, **changes)  # type: ignore[type-var]
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}{error}") from error
    for name in changes:
        switch = _off(found, name)
        if switch:
            full = f"{where}{switch}"
            raise ConfigError(
                f"{where}{name} has no effect, because {full.lstrip('-')} is 0: give {full}, or leave it out"
            )
    return found


def stored(settings: Any) -> dict[str, Any]:
    """The values of settings that differ from the defaults and have an effect, by the names of their flags."""
    found: dict[str, Any] = {}
    defaults = type(settings)()
    for name, (path, *_) in fields(type(settings)).items():
        *outer, last = path
        holder, default = settings, defaults
        for step in outer:
            holder, default = getattr(holder, step), getattr(default, step)
        if getattr(holder, last) != getattr(default, last) and not _off(holder, last):
            found[name] = getattr(holder, last)
    return found


def shown(values: Mapping[str, Any]) -> str:
    """Values by the names of their flags, as a line shows them."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _off(settings: Any, name: str) -> str | None:
    """The field that is 0, so that one of the settings has no effect."""
    switch = getattr(settings, "needs", {}).get(name)
    return switch if switch and not getattr(settings, switch) else None


def set_in(kind: type, section: ConfigDict) -> dict[str, Any]:
    """The values that a section of a configuration, see `section`, sets, by the names of their flags."""
    found = {}
    for name, (path, *_) in fields(kind).items():
        chosen = section
        for step in path:
            chosen = chosen[step]
        if chosen is not None:
            found[name] = chosen
    return found


def value(settings: Any, name: str) -> Any:
    """The value that settings have for a flag."""
    for step in fields(type(settings))[name].path:
        settings = getattr(settings, step)
    return settings


class _Numbers(flags.ArgumentParser[tuple[float, ...]]):
    """Numbers with commas between them."""

    syntactic_help = "numbers with commas"

    def parse(self, argument: Any) -> tuple[float, ...]:
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(float(number) for number in argument.split(",")) if argument.strip() else ()
        except ValueError:
            raise ValueError(f"{argument!r} are not numbers with commas between them") from None

    def flag_type(self) -> str:
        return "numbers"


def _texts(kind: type) -> dict[str, str]:
    """What the section "Attributes" of a dataclass's docstring says of each of its fields."""
    document = inspect.cleandoc(kind.__doc__ or "")
    part = re.search(r"^Attributes:\n(.*?)(\n\n|\Z)", document, re.DOTALL | re.MULTILINE)
    names = "|".join(field.name for field in dataclasses.fields(kind))
    text = " ".join(part[1].split()) if part else ""
    pieces = re.split(rf"(?:^|(?<=\. ))((?:{names})(?:, (?:{names}))*): ", text)
    entries = zip(pieces[1::2], pieces[2::2], strict=True)
    return {name: said.strip() for listed, said in entries for name in listed.split(", ")}
