"""How many programs something compiles, those of single operations included."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax import monitoring


@contextmanager
def counted() -> Iterator[list[str]]:
    """A list that gets the name of each program which is compiled, or read from the cache of compiled ones."""
    names: list[str] = []

    def note(event: str, _: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(details.get("fun_name")))

    monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        monitoring.unregister_event_duration_listener(note)
