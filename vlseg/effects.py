"""Settings that take no effect beside others: refused where somebody gives them, and left out of what a run records.

The dataclass of a package's settings says in `idle` which of them have no effect, and when. `effective` is asked once,
when file and flags are read.
"""

import copy
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vlseg.errors import ConfigError

SHOWN = 5
"""Settings in a message."""


def _never(config: ConfigDict, flags: Collection[str]) -> bool:
    del config, flags
    return False


class Idle(NamedTuple):
    """Settings that have no effect in some configurations.

    settings: their names, with dots; that of a section stands for all that is in it. but: names that are excepted.
    reason: from a completed configuration to why they have none there, as the end of "... has no effect"; "" where they
        have one.
    yields: (configuration, names of settings that are given as flags) -> whether what a file says of them is left aside
        without a word, because a flag replaces what it goes with, or a file speaks of several cases. Given as a flag it
        is refused all the same.
    """

    settings: tuple[str, ...]
    reason: Callable[[ConfigDict], str]
    but: tuple[str, ...] = ()
    yields: Callable[[ConfigDict, Collection[str]], bool] = _never

    def covers(self, name: str) -> bool:
        """Whether it speaks of a setting."""
        return is_in(name, self.settings) and not is_in(name, self.but)


def is_in(name: str, names: Iterable[str]) -> bool:
    """Whether a setting is one of some, or in a section that is."""
    return any(f"{name}.".startswith(f"{one}.") for one in names)


def leaves(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def effective(
    config: ConfigDict, defaults: ConfigDict, further: ConfigDict, rules: Iterable[Idle], flags: Collection[str] = ()
) -> tuple[ConfigDict, frozenset[str]]:
    """A configuration in which what has no effect has its default.

    Args:
        config: completed, see `vlseg.settings.complete`. defaults: what it is where nobody says anything. further: the
            same with the kinds of parts that the configuration chooses, for the settings that only these have.
        rules: of the package. flags: names of the settings that the command line gives.

    Returns:
        The configuration, and the names of settings that have no effect in it.

    Raises:
        ConfigError: a setting without effect is given; what differs from its default is.
    """
    values, usual = leaves(config.to_dict()), leaves(further.to_dict()) | leaves(defaults.to_dict())
    _check_own(config, values.keys() - usual.keys(), flags)
    idle: set[str] = set()
    put_back: dict[str, Any] = {}
    for rule in rules:
        reason = rule.reason(config)
        if not reason:
            continue
        covered = [name for name in values if rule.covers(name)]
        idle.update(covered)
        given = [name for name in covered if name not in usual or not same(values[name], usual[name])]
        refused = [name for name in given if name in flags or not rule.yields(config, flags)]
        if refused:
            raise ConfigError(_refusal(refused, values, usual, reason))
        put_back |= {name: usual[name] for name in given if name in usual}
    changed = copy.deepcopy(config).unlock()
    for name, value in put_back.items():
        _put(changed, name, value)
    return changed, frozenset(idle)


def recorded(config: ConfigDict, idle: Collection[str], filled: Mapping[str, Any]) -> dict[str, Any]:
    """What ran, JSON-ready: a configuration without settings that had no effect, and with what was left open.

    Args:
        config, idle: of `effective`. filled: values by names with dots; a mapping replaces a section.
    """
    found: dict[str, Any] = {}
    values = leaves(config.to_dict())
    for name, value in values.items():
        if name not in idle and not is_in(name, filled):
            _enter(found, name, value)
    for name, value in filled.items():
        _enter(found, name, value)
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where tuples are lists."""
    return json.dumps(one, default=str) == json.dumps(other, default=str)


def _refusal(names: list[str], values: Mapping[str, Any], usual: Mapping[str, Any], reason: str) -> str:
    first = f"config.{names[0]}={values[names[0]]}"
    others = [f"config.{name}" for name in names[1:SHOWN]] + ["..."] * (len(names) > SHOWN)
    default = f" (default: {json.dumps(usual[names[0]])})" if names[0] in usual else ""
    have, it = ("have", "them") if others else ("has", "it")
    return f"{', '.join([first, *others])} {have} no effect {reason}: leave {it} out{'' if others else default}"


def _check_own(config: ConfigDict, own: Collection[str], flags: Collection[str]) -> None:
    """Refuses a file's own setting of which nothing is made any more, because flags give all that was made of it."""
    for name in own:
        if name not in flags or not isinstance(leaves(config.to_dict())[name], str):
            continue
        tried = copy.deepcopy(config).unlock()
        before = leaves(tried.to_dict())
        _put(tried, name, f"{before[name]}?")
        after = leaves(tried.to_dict())
        if all(after[other] == before[other] for other in before if other not in own):
            raise ConfigError(
                f"config.{name}={before[name]} has no effect, because flags give what the file makes of it: leave "
                "it out"
            )


def _put(config: ConfigDict, name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    config[last] = value


def _enter(found: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        found = found.setdefault(section, {})
    found[last] = value
