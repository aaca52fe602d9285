"""What stands after the colon of --config=FILE.py:ARGUMENT. Not an experiment of its own."""

from collections.abc import Iterable

from vlseg.errors import ConfigError


def check(file: str, argument: str, choices: Iterable[str]) -> None:
    """Refuses what a configuration file does not know.

    Args:
        file: its name, for the message. argument: what was given. choices: what may be.

    Raises:
        ConfigError: the argument is none of the choices.
    """
    known = tuple(choices)
    if argument not in known:
        raise ConfigError(f"--config={file}:{argument}: after the colon give one of {', '.join(known)}")
