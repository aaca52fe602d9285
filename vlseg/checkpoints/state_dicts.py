"""State dicts as training code leaves them: names behind a wrapper's, and parts that the model does not have.

One rule for all of them. A prefix of wrappers' names before a parameter that every such model has is taken off. A
module that the model does not have is left out if what it computes can follow what the model computes, such as a
further head; anything inside a module that the model has would change what that computes, and stays for
`rules.check_names` to refuse. What was done is said in one line.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from vlseg.checkpoints.rules import Tensors
from vlseg.errors import CheckpointError, one_line
from vlseg.files import PathLike
from vlseg.torch_files import STATE_KEYS, load_weights

Tensor = TypeVar("Tensor")

WRAPPERS = frozenset({"module", "model", "net", "network", "backbone", "_forward_module"})
"""What a model is called in what is built around it: DistributedDataParallel, Lightning, mmsegmentation, DeepSpeed."""

INVISIBLE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch.compile, FSDP and activation checkpointing put around any module."""

_HEAD = re.compile(r"(?i)(^|_)(heads?|fc|classifier|classification|ema|teacher|loss|logits)(_|\d|$)")
"""Names of modules that come after a model, or stand beside it, whatever else they say."""

_PART = re.compile(
    r"(?i)norm|bn|ln|pre|post|stem|embed|pos|token|block|layer|stage|coder|conv|down|attn|mlp|visual|text"
)
"""Names of modules that could be a part of one."""

_AVERAGED = re.compile(r"(?i)ema|average|teacher|swa")


class Unwrapped(NamedTuple, Generic[Tensor]):
    """A model's tensors without the prefix that they had, and the names of those that had none."""

    tensors: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]


def unwrapped(tensors: Mapping[str, Tensor], marks: Iterable[str]) -> Unwrapped[Tensor]:
    """Takes the prefix off names.

    Args:
        tensors: by name. marks: names of parameters one of which the model has, whatever its size.

    Raises:
        CheckpointError: there are several such models under different prefixes.
    """
    visible = {_visible(name): tensor for name, tensor in tensors.items()}
    if len(visible) < len(tensors):
        raise CheckpointError("parameters have the same name but for what torch.compile puts before it")
    found = {prefix for mark in marks for name in visible if (prefix := _prefix(name, mark)) is not None}
    if len(found) > 1 and "" not in found:
        raise CheckpointError(f"it holds several models, under {' and '.join(sorted(found))}; keep one of them")
    prefix = "" if "" in found or not found else found.pop()
    ours = {name[len(prefix) :]: tensor for name, tensor in visible.items() if name.startswith(prefix)}
    return Unwrapped(ours, prefix, tuple(name for name in visible if not name.startswith(prefix)))


def _visible(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INVISIBLE)


def _prefix(name: str, mark: str) -> str | None:
    if name == mark:
        return ""
    prefix = name.removesuffix(mark)
    wraps = prefix != name and prefix.endswith(".") and WRAPPERS.issuperset(prefix[:-1].split("."))
    return prefix if wraps else None


def without_extras(
    tensors: Mapping[str, Tensor], modules: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leaves out the modules that a model does not have, see above.

    Args:
        tensors: by name, without a prefix. modules: the model's, see `modules_of`.

    Returns:
        The others, and the names of those that are left out.
    """
    extra = {name for name in tensors if _is_extra(name, modules)}
    return {name: tensor for name, tensor in tensors.items() if name not in extra}, tuple(
        filter(extra.__contains__, tensors)
    )


def modules_of(names: Iterable[str]) -> frozenset[str]:
    """The modules that parameters of these names are in."""
    return frozenset(map(_first, names))


def _first(name: str) -> str:
    return re.split(r"[./]", name, maxsplit=1)[0]


def _is_extra(name: str, modules: Collection[str]) -> bool:
    first = _first(name)
    if first == name:
        return False  # a parameter of the model itself
    if any(re.match(r"(?i)aux", part) for part in name.split(".")):
        return True
    return first not in modules and (bool(_HEAD.search(first)) or not _PART.search(first))


class Checkpoint(NamedTuple):
    """The tensors of a model by its names, and what else the file had.

    prefix: what was taken off names. left_out: names of parameters. beside: entries of the file that hold tensors.
    """

    tensors: Tensors
    prefix: str
    left_out: tuple[str, ...]
    beside: tuple[str, ...]


def read(path: PathLike, mark: str, modules: Collection[str], keys: Sequence[str] = STATE_KEYS) -> Checkpoint:
    """Reads which tensors of a model a PyTorch file has, without their values.

    Args:
        path: the file. mark: a parameter that every such model has. modules: the model's, see `modules_of`.
        keys: where the file may have its state dict first, see `torch_files.load_weights`.

    Raises:
        CheckpointError: there is no such file, it is broken, or it holds no tensors or several models.
    """
    tensors, beside = load_weights(path, keys)
    try:
        found = unwrapped(tensors, [mark])
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    kept, extra = without_extras(found.tensors, modules)
    return Checkpoint({**kept}, found.prefix, (*found.left_out, *extra), beside)


def report(source: PathLike, prefix: str, left_out: Sequence[str], beside: Sequence[str], usual: str = "") -> None:
    """Says in one line what of a file was not taken as it stands.

    Args:
        source: the file. usual: a prefix that need not be said.
        prefix, left_out, beside: see `Checkpoint`.
    """
    parts = [f"names are read without their prefix {prefix!r}"] if prefix != usual and prefix else []
    modules = Counter(_first(name) for name in left_out)
    listed = [f"{name} ({number} {'tensors' if number > 1 else 'tensor'})" for name, number in modules.items()]
    others = [*listed, *(f"the entry {name!r}" for name in beside)]
    if others:
        parts.append(f"left out: {', '.join(others)}")
    noteworthy = bool(prefix != usual and prefix) or bool(listed) or any(map(_AVERAGED.search, beside))
    if parts:
        level = logging.WARNING if noteworthy else logging.INFO
        logging.getLogger(__name__).log(level, "%s", one_line(f"{os.fspath(source)}: {'; '.join(parts)}"))
