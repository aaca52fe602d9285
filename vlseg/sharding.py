"""One mesh of devices for all models, and what is spread over which of its axes.

    mesh = make_mesh("data=4,fsdp=2")
    state = place(state, mesh, axes)        # parameters and what the optimizer keeps beside them
    images = place_batch(images, mesh, 16)  # this process's rows of a batch of 16, see `own_rows`

The axes are those of big transformers in JAX: "data" copies the parameters and splits the batch, "fsdp" splits both,
"tensor" splits heads and hidden units of one layer. A package has a table from names of parameters to logical axes; an
array inside a model is told by `batch_sharded` that its first axis is the batch. Without a mesh nothing here changes
anything.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vlseg.errors import ConfigError, one_line

AXES = ("data", "fsdp", "tensor")
"""Of every mesh, outermost first: the parts of a layer talk most, so they are neighbours."""

RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}
"""Logical axis -> axes of the mesh that it is spread over."""

ParameterAxes: TypeAlias = Sequence[tuple[str, tuple[str | None, ...]]]
"""Patterns of names of parameters -> logical axes of their last dimensions; the first pattern that is found counts.
Layers that are stacked have one more dimension in front. The rest (biases, scales) is small and copied everywhere."""

Tree = Any


def parse_mesh(text: str, devices: int) -> dict[str, int]:
    """Sizes of all axes from text such as "data=4,fsdp=2".

    Args:
        text: what is left out is 1, but "data", which takes the devices that are left.
        devices: how many there are; all must be used.

    Raises:
        ConfigError: no such axis, a size that is no positive number, or sizes that do not fit the devices.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = (piece.strip() for piece in part.partition("="))
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            raise ConfigError(f"mesh {text!r}: {part!r} is not like data=4; the axes are {', '.join(AXES)}, once each")
        sizes[name] = int(size)
    asked = math.prod(sizes.values())
    if "data" not in sizes and devices % asked == 0:
        sizes["data"] = devices // asked
    if math.prod(sizes.values()) != devices:
        raise ConfigError(f"mesh {text!r} asks for {asked} devices, which does not fit the {devices} that there are")
    return {name: sizes.get(name, 1) for name in AXES}


def make_mesh(text: str = "", devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that `parse_mesh` describes, over all devices of all processes or over `devices`.

    Several TPU slices, or hosts with GPUs, are parts of the axis "data", so that only gradients go from one to another.

    Raises:
        ConfigError: as `parse_mesh`, or sizes that cannot be laid over the network of these devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = parse_mesh(text, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes["data"] % slices:
        raise ConfigError(f"mesh {text!r}: data={sizes['data']} cannot be divided over {slices} slices or hosts")
    inner = (sizes["data"] // slices, sizes["fsdp"], sizes["tensor"])
    try:
        if slices > 1:
            arranged = mesh_utils.create_hybrid_device_mesh(
                inner, (slices, 1, 1), devices, allow_split_physical_axes=True
            )
        else:
            arranged = mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"mesh {text!r} cannot be laid over {len(devices)} devices: {one_line(error)}") from error
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(mesh: Mesh, size: int) -> None:
    """Raises ConfigError for a batch, or the part of one that is computed at a time, that the mesh does not divide."""
    _check(f"a batch of {size}", size, "batch", mesh)


def check_heads(mesh: Mesh, heads: int) -> None:
    """Raises ConfigError for a number of attention heads that the mesh does not divide."""
    _check(f"{heads} attention heads", heads, "heads", mesh)


def _check(what: str, size: int, logical: str, mesh: Mesh) -> None:
    parts = _parts(logical, mesh)
    if size % parts:
        sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in RULES[logical])
        raise ConfigError(f"{what} cannot be divided into {parts} parts ({sizes} of config.mesh)")


def parts(logical: str) -> int:
    """Into how many parts a logical axis of arrays is divided in the program that is being traced, see `using`."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _parts(logical, mesh)


def platform() -> str:
    """Kind of the devices that a program which is being traced is for: those of `using`, else the default ones."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.abstract_device is not None:
        return str(mesh.abstract_device.platform)
    chosen = jax.config.values["jax_default_device"]
    return str(getattr(chosen, "platform", chosen) or jax.default_backend())


def _parts(logical: str, mesh: Any) -> int:
    """Into how many parts a logical axis is divided."""
    return math.prod(mesh.shape[axis] for axis in RULES[logical])


def partition(name: str, shape: Sequence[int], mesh: Mesh, axes: ParameterAxes) -> PartitionSpec:
    """How a parameter is spread: dimensions that an axis of the mesh does not divide stay whole.

    Args:
        name: path such as "params/encoder/layers/ffn/fc1/kernel".
        shape: of the array. axes: of the package.
    """
    logical = next((found for pattern, found in axes if re.search(pattern, name)), ())
    logical = (None,) * (len(shape) - len(logical)) + logical
    sized = zip(logical, shape, strict=True)
    return PartitionSpec(*(None if axis is None or size % _parts(axis, mesh) else RULES[axis] for axis, size in sized))


def shardings(tree: Tree, mesh: Mesh, axes: ParameterAxes) -> Tree:
    """The sharding of every leaf of a tree of parameters, gradients or optimizer state, by its name in flat dicts.

    Leaves are arrays or shapes; those whose path has no name of a parameter, such as counts of steps, are copied.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        return NamedSharding(mesh, partition(name, leaf.shape, mesh, axes))

    return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def place(tree: Tree, mesh: Mesh | None, axes: ParameterAxes) -> Tree:
    """Parameters and the like where the table puts them; those not spread yet every process must hold whole."""
    if mesh is None:
        return tree
    where = shardings(tree, mesh, axes)
    if jax.process_count() == 1:
        return jax.device_put(tree, where)

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, where)


def own_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that devices of this process hold: int64 [b], rising."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in parts if index is not None]))


def place_batch(tree: Tree, mesh: Mesh | None, batch_size: int) -> Tree:
    """Arrays of a whole batch, of which each process gives `own_rows` as host arrays [b, ...]."""
    if mesh is None:
        return tree
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    rows = own_rows(mesh, batch_size)

    def one(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return array[np.searchsorted(rows, np.arange(batch_size)[index[0]])]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    return jax.tree.map(one, tree)


def gathered(tree: Tree, mesh: Mesh) -> Tree:
    """All of every array on one device of this process: what `place` has spread. All processes call it together."""
    if mesh.size == 1:
        return tree
    copies = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), copies)


def batch_sharded(x: jax.Array) -> jax.Array:
    """`x` [B, ...] with the batch spread as it should be, see `axis_sharded`."""
    return axis_sharded(x, 0, "batch")


def axis_sharded(x: jax.Array, axis: int, logical: str) -> jax.Array:
    """`x`, and its gradient, with one axis spread as it should be; what becomes of the others is the compiler's choice.

    Does something only while a program for several devices is traced, see `using`, and if they divide the axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[axis] % _parts(logical, mesh):
        return x
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = RULES[logical]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def for_each_shard(x: jax.Array) -> jax.Array:
    """`x` [1, ...], which all examples share, as one copy for each part of the batch: [G, ...].

    What is computed of the copies is computed where their examples are, so gradients are summed over devices for `x`
    itself and not for whatever larger is made of it. Outside of programs for several devices G is 1.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] != 1:
        return x
    return batch_sharded(jnp.broadcast_to(x, (_parts("batch", mesh), *x.shape[1:])))


def using(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """While a program is traced: the mesh that `batch_sharded` is about, and its devices."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
