"""Settings that training code records beside weights, as plain values."""

from collections.abc import Mapping
from typing import Any

from vlseg.torch_files.names import Record

_CONTENTS = ("_content", "content")
"""Where OmegaConf's dictionaries keep their entries; its older versions without the underscore."""

_VALUES = ("_val", "val")
"""Where OmegaConf's nodes keep their value."""


def settings_of(recorded: Any) -> dict[str, Any]:
    """The settings by name of a dictionary, an argparse.Namespace, Lightning's AttributeDict or OmegaConf's DictConfig.

    Values are what they were; OmegaConf's nodes become theirs. Anything else has no settings.
    """
    if isinstance(recorded, Record):
        state = recorded.state if isinstance(recorded.state, Mapping) else {}
        content = next((state[name] for name in _CONTENTS if isinstance(state.get(name), Mapping)), None)
        items = [item for item in recorded.items if isinstance(item, tuple) and len(item) == 2]
        pairs = [*(state if content is None else content).items(), *items]
    elif isinstance(recorded, Mapping):
        pairs = list(recorded.items())
    else:
        pairs = []
    return {name: _value(value) for name, value in pairs if isinstance(name, str)}


def _value(value: Any) -> Any:
    if isinstance(value, Record) and isinstance(value.state, Mapping):
        return next((value.state[name] for name in _VALUES if name in value.state), value)
    return value
