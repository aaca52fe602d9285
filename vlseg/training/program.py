"""The programs of a configuration: pure functions of arrays, described by shapes, spread over a mesh.

A package says what is computed (`Task`, `Inference`); `training` and `inference` here make programs of it. Training
fills their shapes with arrays, `launch.compile` compiles them for chips that are not there.
"""

import abc
import ctypes
import gc
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vlseg import progress, sharding
from vlseg.segmenter import Segmenter
from vlseg.sharding import ParameterAxes
from vlseg.training.finite import NonFiniteLossError, listed, not_finite

METRICS = ("mIoU", "mAcc", "aAcc")
"""Of a labelled data set."""

Tree = Any
Metrics = dict[str, jax.Array]


class Task(abc.ABC):
    """A way of training: one update as a pure function, and the shapes of what it takes.

    Attributes:
        settings: of the optimization: a dataclass with `batch_size`, images in an update, and `accumulation_steps`,
            parts of a batch that are computed one after another.
    """

    settings: Any

    @property
    def batch_size(self) -> int:
        """Images in an update."""
        return int(self.settings.batch_size)

    def summary(self) -> dict[str, Any]:
        """Learning rates, and whatever else of a run the task alone knows, as JSON takes them."""
        return {}

    @property
    def heads(self) -> tuple[int, ...]:
        """Numbers of attention heads, which the mesh's axis "tensor" must divide."""
        return ()

    @property
    @abc.abstractmethod
    def flops(self) -> float:
        """Of an update, as the definition of the model asks for."""

    @abc.abstractmethod
    def state(self) -> Tree:
        """Shapes of what an update changes: a dict with flat dicts of parameters by name, and the optimizer's state."""

    @abc.abstractmethod
    def constants(self) -> Tree:
        """Shapes of what an update needs besides: frozen parameters by name, embeddings of words."""

    @abc.abstractmethod
    def batch(self) -> Tree:
        """Shapes of a batch [batch_size, ...], or None if batches are drawn within the update."""

    @abc.abstractmethod
    def update(self, state: Tree, constants: Tree, batch: Tree, step: jax.Array) -> tuple[Tree, Metrics]:
        """One step of the optimizer; all its randomness is a function of `step`, int32 []."""


class Inference(NamedTuple):
    """Inference as a pure function and shapes.

    function: (variables, embeddings, images uint8 [B, height, width, 3]) -> arrays [B, ...].
    variables: shapes, nested. embeddings: shapes, of the labels. size: height and width. flops: of one image.
    """

    function: Callable[[Tree, Tree, jax.Array], Tree]
    variables: Tree
    embeddings: Tree
    size: tuple[int, int]
    flops: float


class Outline(NamedTuple):
    """What a configuration computes.

    inference: to logits. segmentation: to label maps, with all that the model does on the way by default; its FLOPs are
        those of `inference`, as the definition of the model names no others. None for a model that has none.
    """

    task: Task
    inference: Inference
    segmentation: Inference | None = None


class Prepared(NamedTuple):
    """What training fills a task with.

    task: its shapes are those of the arrays here. state, constants: arrays, see `Task`.
    batches: step -> this process's rows of the batch as host arrays, a pure function; None if there are none.
    steps: of the whole run.
    finish: from the final state (gathered on this process, without the optimizer's part) to the model.
    words: what the model is asked for on `config.evaluation` and `config.validation`, see `scoring.choose`; None for
        the names of the data set.
    epoch: updates until all images were seen once, None where there are none.
    validate: scores of a model by the names in `metrics`, where `config.validation` names no data set.
    report: writes what else there is to say of the finished model into the working directory.
    filled: settings that the configuration leaves open, or that a checkpoint decides, as they are in this run: values
        by names with dots, or mappings for whole sections; config.json has them.
    replaced: names of classes that it is trained on, and which of `words` stand for them, where the two differ.
    """

    task: Task
    state: Tree
    constants: Tree
    batches: Callable[[int], Tree] | None
    steps: int
    finish: Callable[[Tree], Segmenter]
    words: tuple[str, ...] | None = None
    epoch: int | None = None
    validate: Callable[[Segmenter], Mapping[str, float]] | None = None
    metrics: tuple[str, ...] = METRICS
    report: Callable[[Segmenter, Path], None] | None = None
    filled: Mapping[str, Any] = {}
    replaced: tuple[tuple[str, str], ...] = ()


class Program(NamedTuple):
    """A program before it is compiled.

    name: "train", "inference" or "segmentation". function: of `arguments`, shapes with shardings. is_update: its first
    argument is a state that it replaces. images: that one call sees, on all chips together. flops: that the definition
    of the model asks for, of all images together. held: bytes that one chip holds between two calls.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Tree, ...]
    mesh: Mesh
    is_update: bool
    images: int
    flops: float
    held: float

    def compile(self) -> Callable[..., Any]:
        """The compiled program; arguments of other shapes, types or shardings raise."""
        return compile_lowered(self.lower())

    def lower(self) -> jax.stages.Lowered:
        """The program as the compiler takes it."""
        if self.is_update:
            return lower(self.function, self.mesh, *self.arguments)
        with sharding.using(self.mesh):
            jitted = jax.jit(self.function, out_shardings=sharding.batch_sharding(self.mesh))
            return jitted.lower(*self.arguments)


def training(task: Task, mesh: Mesh, axes: ParameterAxes) -> Program:
    """The update of a task, spread over a mesh: arguments are state, constants, batch and step.

    Raises:
        ConfigError: the mesh does not divide the batch or the heads.
    """
    check(task, mesh)
    state, constants = (_spread(tree, mesh, axes) for tree in (task.state(), task.constants()))
    batch = _placed(task.batch(), sharding.batch_sharding(mesh))
    step = _struct((), sharding.replicated(mesh), jnp.int32)
    arguments = (state, constants, batch, step)
    held = _held((state, constants))
    return Program("train", task.update, arguments, mesh, True, task.batch_size, task.flops, held)


def inference(outline: Inference, mesh: Mesh, axes: ParameterAxes, name: str = "inference") -> Program:
    """Inference of one image on each chip: arguments are variables, embeddings of labels, and images."""
    variables = _spread(outline.variables, mesh, axes)
    embeddings = _placed(outline.embeddings, sharding.replicated(mesh))
    images = _struct((mesh.size, *outline.size, 3), sharding.batch_sharding(mesh), jnp.uint8)
    arguments = (variables, embeddings, images)
    flops = mesh.size * outline.flops
    return Program(name, outline.function, arguments, mesh, False, mesh.size, flops, _held(variables))


def compile_step(step: Callable[..., tuple[Any, Any]], mesh: Mesh | None = None) -> Callable[..., tuple[Any, Any]]:
    """`jax.jit` for a training step whose arguments have the same shapes and types in every call.

    The first call compiles, and then gives the memory that the compiler has freed back to the system: hundreds of MB
    that the C library would keep beside the training state.

    Args:
        step: (state, ...) -> (state, metrics), of arrays and pytrees of them. The results take over the state's
            buffers.
        mesh: over which the arguments are spread, see `vlseg.sharding`; the state stays where it is and metrics are
            copied to every device. None for a single device.

    Returns:
        The compiled step. A call with other shapes or types than the first raises TypeError.
    """
    compiled: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> tuple[Any, Any]:
        if not compiled:
            compiled.append(compile_lowered(lower(step, mesh, *arguments)))
        return compiled[0](*arguments)

    return call


def lower(step: Callable[..., tuple[Any, Any]], mesh: Mesh | None, *arguments: Any) -> jax.stages.Lowered:
    """The program of `compile_step` before it is compiled, from arguments or their shapes with shardings."""
    results = None
    if mesh is not None:
        results = (jax.tree.map(lambda leaf: leaf.sharding, arguments[0]), sharding.replicated(mesh))
    # JAX keeps a function's trace as long as the function: that of a wrapper goes with it.
    jitted = jax.jit(lambda *arguments: step(*arguments), donate_argnums=0, out_shardings=results)
    with sharding.using(mesh):
        return jitted.lower(*arguments)


def compile_lowered(lowered: jax.stages.Lowered) -> Callable[..., Any]:
    """The compiled program; the memory that the compiler has freed goes back to the system."""
    compiled = lowered.compile()
    # What tracing has left is dropped, and glibc asked to return what it keeps; other C libraries do so unasked.
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
    return compiled


def run_in_memory(
    task: Task,
    state: Tree,
    constants: Tree,
    steps: int,
    batches: Callable[[int], Tree] | None = None,
    title: str | None = None,
) -> Tree:
    """The state after some updates on one device, without checkpoints; with a `title`, progress is shown.

    Updates take over the buffers of `state`.

    Raises:
        NonFiniteLossError: what came of it holds NaN or infinities.
    """
    update = compile_step(task.update)
    for step in progress.over(range(steps), steps, title or "", "step", shown=title is not None):
        state, _ = update(state, constants, batches(step) if batches else None, np.int32(step))
    if broken := not_finite(state):
        raise NonFiniteLossError(
            f"the state after {steps} steps is not finite ({listed(broken)}): lower the learning rate"
        )
    return state


def check(task: Task, mesh: Mesh) -> None:
    """Raises ConfigError if the mesh does not divide the batch, its parts or the heads."""
    sharding.check_batch(mesh, task.batch_size // task.settings.accumulation_steps)
    for heads in task.heads:
        sharding.check_heads(mesh, heads)


def _struct(shape: tuple[int, ...], where: NamedSharding, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _placed(tree: Tree, where: NamedSharding) -> Tree:
    return jax.tree.map(lambda leaf: _struct(leaf.shape, where, leaf.dtype), tree)


def _spread(tree: Tree, mesh: Mesh, axes: ParameterAxes) -> Tree:
    """Shapes with the shardings that `vlseg.sharding.place` gives to arrays."""
    where = sharding.shardings(tree, mesh, axes)
    return jax.tree.map(lambda leaf, where: _struct(leaf.shape, where, leaf.dtype), tree, where)


def _held(tree: Tree) -> float:
    """Bytes of a tree on one chip."""
    leaves = jax.tree.leaves(tree)
    return float(sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves))
