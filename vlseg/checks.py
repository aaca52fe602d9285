"""Checks of the fields of settings, so that each kind of mistake has one message."""

import math
from collections.abc import Collection
from typing import Any

from vlseg.errors import ConfigError

DTYPES = ("float32", "bfloat16")
"""What a model may compute in; parameters, norms and losses stay float32."""

ON_ERROR = ("stop", "skip")
"""What may happen to an example that cannot be read."""


def check_numbers(
    settings: Any, *names: str, least: float = 0, below: float = math.inf, whole: bool = False, where: str = ""
) -> None:
    """Checks that fields hold numbers in [least, below), or tuples of them; None passes.

    Args:
        settings: a dataclass or ConfigDict. names: of the fields.
        whole: whether they must be integers. where: what a message puts before the name.

    Raises:
        ConfigError: a field does not.
    """
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            is_number = isinstance(number, int if whole else (int, float)) and not isinstance(number, bool)
            fits = number is None or (is_number and least <= number < below)
            if not fits:
                limits = f"in [{least:g}, {below:g})" if below < math.inf else f"{least:g} or more"
                raise ConfigError(f"{where}{name} is {value!r}; it must be {limits}{', an integer' if whole else ''}")


def check_choices(settings: Any, where: str = "", /, **choices: Collection[str]) -> None:
    """Raises ConfigError unless each of these fields has one of its choices; `where` as in `check_numbers`."""
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            raise ConfigError(f"{where}{name} {value!r} is none of {', '.join(known)}")
