"""Weights that others publish, read without PyTorch and brought to the names that an encoder has rules for."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax
import numpy as np

from vlseg import files, json_files, torch_files
from vlseg.checkpoints import state_dicts
from vlseg.checkpoints.rules import (
    Rule,
    Tensors,
    TensorSource,
    Variables,
    assemble,
    check_dtypes,
    check_names,
    check_shapes,
    flatten,
    is_float,
    official_shapes,
)
from vlseg.errors import CheckpointError, ConfigError
from vlseg.npz_files import open_npz
from vlseg.safetensors_files import open_safetensors

Shapes = Mapping[str, tuple[int, ...]]
Config = TypeVar("Config")

HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
"""Of a model in several files, after the name of one."""


class Recipe(NamedTuple):
    """How one tensor is made that a rule is about.

    name: its name. sources: tensors of the file. combine: makes it of them.
    """

    name: str
    sources: tuple[str, ...]
    combine: Callable[..., np.ndarray] = np.asarray


class Format(NamedTuple):
    """Names that somebody publishes weights by.

    title: whose they are, and of what. mark: a name that every such file has and no other. skipped: names at whose
    start this matches belong to parts that are not wanted. layer: matches names of layers, with the number as group
    1. recipes: from the number of layers to the names that rules have; None where the names are those already.
    settings: from the directory that the file lies in to what its shapes do not tell. check: raises CheckpointError
    about shapes, by the names of the file, of another network that has such a mark.
    """

    title: str
    mark: str
    skipped: re.Pattern[str]
    layer: str
    recipes: Callable[[int], list[Recipe]] | None = None
    settings: Callable[[Path], dict[str, Any]] = lambda directory: {}
    check: Callable[[Shapes], None] = lambda shapes: None


class Combined(NamedTuple):
    """What a recipe makes of tensors, those with its sources' names, as a `TensorSource`."""

    recipe: Recipe
    parts: tuple[TensorSource, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; nothing is read.

        Raises:
            CheckpointError: the recipe cannot take tensors of these shapes.
        """
        shapes = [tuple(part.shape) for part in self.parts]
        try:
            return tuple(self.recipe.combine(*(np.broadcast_to(np.int8(0), shape) for shape in shapes)).shape)
        except (ValueError, IndexError) as error:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in zip(self.recipe.sources, shapes, strict=True))
            raise CheckpointError(f"tensors have impossible shapes: {found}") from error

    @property
    def dtype(self) -> np.dtype | str:
        """That of the first of its parts that is no float, else of the first."""
        return next((part.dtype for part in self.parts if not is_float(part)), self.parts[0].dtype)

    def read(self) -> np.ndarray:
        return self.recipe.combine(*(part.read() for part in self.parts))


def concatenated(*parts: np.ndarray) -> np.ndarray:
    """A recipe's `combine`: along the first axis."""
    return np.concatenate(parts)


def open_tensors(path: Path) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors of a file by name, and its other entries that hold some; most tensors are read on demand.

    Args:
        path: a safetensors file (.safetensors), an archive of arrays (.npz), a PyTorch file (any other suffix;
            TorchScript, too), or a directory as Hugging Face has it, where the weights may lie in several files.

    Raises:
        CheckpointError: there is no such file, or it is broken.
    """
    if os.path.isdir(path):
        found = [path / name for name in HUGGING_FACE_FILES if os.path.isfile(path / name)]
        indices = [path / f"{name}{_INDEX}" for name in HUGGING_FACE_FILES if os.path.isfile(path / f"{name}{_INDEX}")]
        if not found and indices:
            return _open_shards(indices[0]), ()
        if not found:
            names = sorted(entry.name for entry in path.iterdir())
            held = f"; it holds {', '.join(names[:4])}{', ...' * (len(names) > 4)}" if names else ""
            raise CheckpointError(f"{path} has no {' and no '.join(HUGGING_FACE_FILES)}{held}")
        path = found[0]
    if path.suffix == ".safetensors":
        return open_safetensors(path), ()
    if path.suffix == ".npz":
        return open_npz(path), ()
    return torch_files.load_weights(path)


def _open_shards(index: Path) -> Tensors:
    """The tensors of a model that lies in several files, of which an index names the one of each tensor."""
    content = json_files.read(index, CheckpointError)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} is no index of files: it has no weight_map")
    suffix = os.path.splitext(index.name.removesuffix(_INDEX))[1]
    # A name must not lead out of the folder, nor back to the index.
    if any(not isinstance(name, str) or name != os.path.basename(name) for name in places.values()) or not all(
        name.endswith(suffix) and "\0" not in name for name in places.values()
    ):
        raise CheckpointError(f"{index} is no index of files: its weight_map has more than names of {suffix} files")
    for name in set(places.values()):
        files.check_regular(index.parent / name, CheckpointError)
    parts = {name: open_tensors(index.parent / name)[0] for name in sorted(set(places.values()))}
    if missing := [name for name, part in places.items() if name not in parts[part]]:
        raise CheckpointError(f"{index} says that {places[missing[0]]} has {missing[0]}, which it has not")
    return {name: parts[part][name] for name, part in places.items()}


class Encoder(NamedTuple, Generic[Config]):
    """What the shapes of a file tell of an encoder.

    config: its configuration. rules: of all its parameters. module: has them, and takes `example`.
    """

    config: Config
    rules: list[Rule]
    module: nn.Module
    example: jax.ShapeDtypeStruct


def read(
    path: Path,
    wanted: Sequence[Format],
    describe: Callable[[Format, Shapes, Mapping[str, Any]], Encoder[Config]],
    part: str,
    *,
    known: Iterable[Format] = (),
    refuse: Callable[[Tensors], None] = lambda tensors: None,
) -> tuple[Config, Variables]:
    """The configuration of an encoder and its variables, float32, from a file of one of several forms.

    Names of wrappers are taken off, and modules that the encoder does not have are left out; both are said in one line,
    see `vlseg.checkpoints.state_dicts`.

    Args:
        path: see `open_tensors`.
        wanted: the forms.
        describe: from the form, shapes by the names of its rules and what `Format.settings` found, to the encoder; may
            raise CheckpointError or ConfigError.
        part: the encoder's name in a whole model, as the rules have it.
        known: forms that an error can name. refuse: may raise CheckpointError about tensors of none of `wanted`.

    Raises:
        CheckpointError: there is no such file, it is broken or something else; names are missing or not known, or
            shapes do not fit.
    """
    tensors, beside = open_tensors(path)
    try:
        found = state_dicts.unwrapped(tensors, [form.mark for form in wanted])
        form = next((form for form in wanted if form.mark in found.tensors), None)
        if form is None:
            refuse(found.tensors)
            raise CheckpointError(_unknown(found.tensors, wanted, known))
        named, left_out = renamed(found.tensors, form)
        told = form.settings(path) if path.is_dir() else {}
        encoder = describe(form, shapes_of(named), told)
        modules = state_dicts.modules_of(rule.official for rule in encoder.rules)
        named, more = state_dicts.without_extras(named, modules)
        variables = _variables(named, encoder, part)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    state_dicts.report(path, found.prefix, (*found.left_out, *left_out, *more), beside)
    return encoder.config, variables


def _unknown(tensors: Tensors, wanted: Sequence[Format], known: Iterable[Format]) -> str:
    """What is there in place of the wanted forms, and what these are."""
    titles = " and ".join(candidate.title for candidate in known if candidate.mark in tensors)
    found = titles or f"something unknown with the names {', '.join(list(tensors)[:3])}"
    return f"this is {found}; what is expected here is {' or '.join(candidate.title for candidate in wanted)}"


def renamed(tensors: Tensors, form: Format) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors of the encoder by the names of its rules, and the names of extra modules that are left out.

    Raises:
        CheckpointError: names are missing or not known, or it is another network.
    """
    form.check(shapes_of(tensors))
    ours = {name: tensor for name, tensor in tensors.items() if not form.skipped.match(name)}
    if form.recipes is None:
        return ours, ()
    # At least one layer, so that an encoder without any lacks that one's names.
    recipes = form.recipes(count(ours, form.layer) or 1)
    sources = [name for recipe in recipes for name in recipe.sources]
    ours, left_out = state_dicts.without_extras(ours, state_dicts.modules_of(sources))
    check_names(ours, sources, "the encoder")
    combined = {recipe.name: Combined(recipe, tuple(ours[name] for name in recipe.sources)) for recipe in recipes}
    return combined, left_out


def _variables(tensors: Tensors, encoder: Encoder[Any], part: str) -> Variables:
    """The rules carried out on tensors by the names of the rules; CheckpointError where these do not fit."""
    expected_names = [rule.official for rule in encoder.rules]
    check_names(tensors, expected_names, "the encoder")
    check_dtypes(tensors, expected_names)
    variables = jax.eval_shape(encoder.module.init, jax.random.key(0), encoder.example)
    expected = shapes_of(flatten({collection: {part: tree} for collection, tree in variables.items()}))
    check_shapes(shapes_of(tensors), official_shapes(encoder.rules, expected))

    def read(rule: Rule) -> np.ndarray:
        return np.asarray(tensors[rule.official].read(), np.float32)

    return assemble(encoder.rules, read, np.ascontiguousarray)


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of everything that has one."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def shape_of(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a parameter that decides a configuration; CheckpointError without it or with another rank."""
    if name not in shapes:
        raise CheckpointError(f"it has no {name}")
    shape = tuple(shapes[name])
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"its {name} has shape {list(shape)}, which cannot be")
    return shape


def count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the group of a pattern stands for at the start of names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})
