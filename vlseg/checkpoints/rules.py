"""Official PyTorch parameters and our variables: rules that pair names and layouts, and what follows them both ways.

PyTorch keeps linear weights as [out, in] and convolutions as [out, in, h, w]. Moving a state dict along its rules is
bit-exact and has an exact inverse.
"""

import contextlib
import contextvars
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vlseg.errors import LONGEST, CheckpointError

Variables = dict[str, Any]
"""Nested dicts of arrays, as Flax has them: {"params": {...}, "batch_stats": {...}}."""


class TensorSource(Protocol):
    """A tensor of a checkpoint file that is read on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype | str:
        """Its data type; the file's name of it where numpy has none."""

    def read(self) -> np.ndarray:
        """Its values."""


Tensors = Mapping[str, TensorSource]
"""By name."""


class ArrayTensor(NamedTuple):
    """An array in memory as a `TensorSource`."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype | str:
        return self.array.dtype

    def read(self) -> np.ndarray:
        return self.array


class Layout(NamedTuple):
    """A change of layout and its inverse."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_official: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
"""A 1x1 convolution in PyTorch, a linear layer here."""
CONVOLUTION = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


class Rule(NamedTuple):
    """One official parameter.

    official: its name. path: where it stands in our variables. layout: how it is laid out there.
    layer: its index along the leading axis of stacked layers, or None.
    """

    official: str
    path: str
    layout: Layout
    layer: int | None = None


_NORM = {"weight": "params/{}/scale", "bias": "params/{}/bias"}
_BATCH_NORM = _NORM | {"running_mean": "batch_stats/{}/mean", "running_var": "batch_stats/{}/variance"}


def linear(official: str, ours: str, layout: Layout = LINEAR) -> list[Rule]:
    """A linear layer, or a convolution of that layout, with bias."""
    return [
        Rule(f"{official}.weight", f"params/{ours}/kernel", layout),
        Rule(f"{official}.bias", f"params/{ours}/bias", SAME),
    ]


def norm(official: str, ours: str) -> list[Rule]:
    """A layer norm."""
    return [Rule(f"{official}.{leaf}", path.format(ours), SAME) for leaf, path in _NORM.items()]


def batch_norm(official: str, ours: str) -> list[Rule]:
    """A batch norm and its running statistics."""
    return [Rule(f"{official}.{leaf}", path.format(ours), SAME) for leaf, path in _BATCH_NORM.items()]


def each(make: Callable[[str, str], list[Rule]], official: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    """The rules that `make` gives of several parts of a module: official name -> our name, below the module's."""
    return [rule for source, target in names.items() for rule in make(f"{official}.{source}", f"{ours}/{target}")]


def stacked(layers: Iterable[int], one: Sequence[Rule]) -> list[Rule]:
    """The rules of stacked layers from those of one, in whose official names {} stands for the layer's number."""
    return [
        rule._replace(official=rule.official.format(number), layer=index)
        for index, number in enumerate(layers)
        for rule in one
    ]


def residual_stages(official: Iterable[str], ours: str, stages: Iterable[int]) -> list[Rule]:
    """The stages of a ResNet (torchvision): the official name of each, and its number of blocks."""
    rules = []
    for stage, (name, blocks) in enumerate(zip(official, stages, strict=True), start=1):
        for block in range(blocks):
            source, target = f"{name}.{block}", f"{ours}/layer{stage}_{block}"
            for number in (1, 2, 3):
                kernel = f"params/{target}/conv{number}/kernel"
                rules.append(Rule(f"{source}.conv{number}.weight", kernel, CONVOLUTION))
                rules += batch_norm(f"{source}.bn{number}", f"{target}/bn{number}")
            if block == 0:
                kernel = f"params/{target}/downsample_conv/kernel"
                rules.append(Rule(f"{source}.downsample.0.weight", kernel, CONVOLUTION))
                rules += batch_norm(f"{source}.downsample.1", f"{target}/downsample_bn")
    return rules


def stem(convolution: str, normalisation: str, ours: str) -> list[Rule]:
    """The stem of a ResNet."""
    kernel = Rule(f"{convolution}.weight", f"params/{ours}/conv1/kernel", CONVOLUTION)
    return [kernel, *batch_norm(normalisation, f"{ours}/bn1")]


def assemble(
    table: Iterable[Rule], read: Callable[[Rule], np.ndarray], place: Callable[[np.ndarray], Any]
) -> Variables:
    """Our variables from official tensors.

    Args:
        table: the rules; those of stacked layers in order.
        read: a rule's official tensor.
        place: what to make of each array in our layout.

    Raises:
        CheckpointError: tensors hold NaN or infinities; the first are named.
    """
    grouped: dict[str, list[Rule]] = {}
    for rule in table:
        grouped.setdefault(rule.path, []).append(rule)
    flat, broken = {}, Broken()
    for path, parts in grouped.items():
        arrays = [rule.layout.to_ours(broken.seen(rule.official, read(rule))) for rule in parts]
        flat[path] = place(arrays[0] if parts[0].layer is None else np.stack(arrays))
    broken.refuse()
    return unflatten(flat)


_taken_as_they_are: contextvars.ContextVar[bool] = contextvars.ContextVar("taken as they are", default=False)


@contextlib.contextmanager
def as_they_are() -> Iterator[None]:
    """While the block runs, weights that are not finite are read, too: for who looks for what is wrong with them."""
    token = _taken_as_they_are.set(True)
    try:
        yield
    finally:
        _taken_as_they_are.reset(token)


class Broken:
    """Collects the names of tensors that hold NaN or infinities, so that one message names them."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def seen(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array, unchanged; its name is kept if it is of floats that are not all finite."""
        if jnp.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            self._names.append(name)
        return array

    def refuse(self, source: object = "") -> None:
        """Raises CheckpointError if there was one; `source` is what the message begins with."""
        if self._names and not _taken_as_they_are.get():
            more = f" and {len(self._names) - 3} more" if len(self._names) > 3 else ""
            of = f"{source}: " if source else ""
            raise CheckpointError(
                f"{of}weights are not finite (NaN or infinity): {', '.join(self._names[:3])}{more}; the training that "
                "wrote them had failed, or the file is damaged: use an earlier checkpoint"
            )


def check_finite(arrays: Mapping[str, np.ndarray], source: object = "") -> None:
    """Raises CheckpointError if arrays hold NaN or infinities; the first are named."""
    broken = Broken()
    for name, array in arrays.items():
        broken.seen(name, array)
    broken.refuse(os.fspath(source) if isinstance(source, os.PathLike) else source)


def disassemble(table: Iterable[Rule], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inverse of `assemble`: official name -> array."""
    state, flat = {}, flatten(variables)
    for rule in table:
        value = np.asarray(flat[rule.path])
        value = value if rule.layer is None else value[rule.layer]
        state[rule.official] = np.ascontiguousarray(rule.layout.to_official(value))
    return state


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts -> {"params/encoder/...": leaf}, the paths of rules and the names in safetensors files."""
    return traverse_util.flatten_dict(dict(variables), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Variables:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def beside(table: Iterable[Rule], tensors: Tensors, carried: str | re.Pattern[str]) -> dict[str, TensorSource]:
    """The tensors that no rule is about and whose names match `carried`: what is kept though nothing needs it."""
    ours = {rule.official for rule in table}
    return {name: tensor for name, tensor in tensors.items() if name not in ours and re.match(carried, name)}


def check_names(found: Iterable[str], expected: Iterable[str], model: str) -> None:
    """Raises CheckpointError if a checkpoint of a `model` lacks names or has too many; both are listed, sorted."""

    def listing(names: list[str]) -> str:
        # Both lists and what comes before them fit a message.
        ends = itertools.accumulate(len(name) + 2 for name in names)
        shown = max(1, sum(end <= LONGEST // 3 for end in ends))
        more = f", and {len(names) - shown} more" if len(names) > shown else ""
        return ", ".join(names[:shown]) + more

    found, expected = set(found), set(expected)
    wrong = {"missing": sorted(expected - found), "not known": sorted(found - expected)}
    parts = [f"{title}: {listing(names)}" for title, names in wrong.items() if names]
    if parts:
        raise CheckpointError(f"the parameters do not fit {model}; {'; '.join(parts)}")


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError if shapes that are in both differ; a few are listed."""
    wrong = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"shapes do not fit the model's configuration: {', '.join(wrong[:3])}{more}")


FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""Data types of parameters."""


def is_float(tensor: TensorSource) -> bool:
    """Whether a tensor has the data type of a parameter, in either byte order."""
    return getattr(tensor.dtype, "name", tensor.dtype) in FLOATS


def check_dtypes(found: Mapping[str, TensorSource], expected: Iterable[str]) -> None:
    """Raises CheckpointError if parameters are no numbers with a fraction, or quantised ones; a few are listed."""
    wrong = [f"{name} is {found[name].dtype}" for name in expected if name in found and not is_float(found[name])]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"parameters must be float16, bfloat16, float32 or float64, but {', '.join(wrong[:3])}{more}"
        )


def official_shapes(table: Iterable[Rule], ours: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Official name -> shape, of every rule, from those of our parameters by path."""
    shapes = {}
    for rule in table:
        shape = ours[rule.path] if rule.layer is None else ours[rule.path][1:]
        shapes[rule.official] = tuple(rule.layout.to_official(np.broadcast_to(np.int8(0), shape)).shape)
    return shapes
