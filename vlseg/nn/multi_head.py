"""Multi-head attention of arrays as linear layers leave them, by what is fast where it runs.

On TPUs that is a kernel (`vlseg.nn.fused_attention`), elsewhere, and for what the kernel does not take, products of
blocks by XLA (`vlseg.nn.attention`). That is decided while a program is traced, by the devices that it is for. Traced
for a TPU, a program can still be lowered for a CPU alone, but not for both at once; and functions that were compiled
keep what was chosen for them. What is written out for others to run is traced under `kernels("none")`, since kernels
belong to a version of the compiler.
"""

import abc
import contextlib
import contextvars
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from vlseg import sharding
from vlseg.errors import ConfigError, one_line
from vlseg.nn import attention, fused_attention
from vlseg.nn.attention import MASKED, QueryBlock, broadcast_batch
from vlseg.nn.fused_attention import Arrays, Bias
from vlseg.nn.fused_kernels import HEAD

MODES = ("auto", "none", "interpret")
"""auto: the kernel on TPUs, where it fits. none: no kernel. interpret: the kernel anywhere, run by XLA, for tests."""

CORE_MEMORY = 48 * 2**20
"""Bytes of a core's memory that the kernel takes at most; it never takes more than three quarters of what there is."""

GENERATION = 5
"""First one of TPUs that rotates each row of a tile by a number of lanes of its own, and has memory for whole keys."""

Tree = Any

ENVIRONMENT = "VLSEG_KERNELS"
"""Variable of the environment with the mode outside of `kernels`."""

_asked: contextvars.ContextVar[str | None] = contextvars.ContextVar("kernels", default=None)


@contextlib.contextmanager
def kernels(mode: str) -> Iterator[None]:
    """One of `MODES` for programs that are traced meanwhile; those that were traced before stay as they are."""
    assert mode in MODES, mode
    token = _asked.set(mode)
    try:
        yield
    finally:
        _asked.reset(token)


def _mode() -> str:
    """That of `kernels`, else of the environment. Raises ConfigError for an unknown one."""
    mode = _asked.get() or os.environ.get(ENVIRONMENT) or "auto"
    if mode not in MODES:
        raise ConfigError(f"{ENVIRONMENT}={mode}: there are {', '.join(MODES)}")
    return mode


class Pattern(abc.ABC):
    """Which queries attend to which keys, and the biases of their scores. Hashable, and made of numbers alone.

    Both methods take `tables`, arrays that biases are made of and that get gradients, and `fixed`, those that get none.
    """

    @abc.abstractmethod
    def blocks(self, tables: Tree, fixed: Tree) -> Sequence[QueryBlock]:
        """As `vlseg.nn.attention.taken_apart` takes them, in the order of their queries, which together are all."""

    def fused(self, tables: Tree, fixed: Tree, keys: int) -> Bias:
        """As the kernel takes it, for so many keys; for one head only if there are no tables."""
        return attention.laid_out(self.blocks(tables, fixed), keys)


def multi_head_attention(
    pattern: Pattern,
    heads: int,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    positions: tuple[jax.Array, jax.Array] | None = None,
    tables: Tree = None,
    fixed: Tree = None,
    key_mask: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention of each head; scores and softmax are float32.

    Args:
        pattern: pairs that attend and their biases, made of `tables` and `fixed`.
        heads: H, which divides W.
        query: [B, n, W], scaled. key, value: [B, m, W].
        positions: what is multiplied and added to the scores besides, of queries [G, n, W], scaled, and keys
            [G, m, W]: each for a group of B / G consecutive images.
        key_mask: bool [B or 1, m], False where nothing attends to, without gradient; or None.

    Returns:
        [B, n, W] in the dtype of the values.
    """
    mask = None if key_mask is None else jnp.where(key_mask, 0.0, MASKED)[:, None]
    return _attend(pattern, heads, query, key, value, positions, tables, fixed, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(pattern: Pattern, heads: int, *operands: Any) -> jax.Array:
    return _outputs(_choice(pattern, heads, operands, gradients=False), pattern, heads, operands)[0]


@struct.dataclass
class Choice:
    """What a call takes, and its gradient after it. memory: of the core for the kernel, or None without it."""

    memory: int | None = struct.field(pytree_node=False)
    interpret: bool = struct.field(pytree_node=False)

    def run(self, fused: Callable[..., Any], plain: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """The result of one of two functions of `arguments`."""
        if self.memory is None:
            return plain(*arguments)
        if self.interpret:
            return fused(*arguments)
        return jax.lax.platform_dependent(*arguments, tpu=fused, default=plain)


def _outputs(choice: Choice, pattern: Pattern, heads: int, operands: Sequence[Any]) -> list[jax.Array]:
    plain = functools.partial(_plain, pattern, heads)
    fused = functools.partial(_fused, choice, pattern, heads)
    return [checkpoint_name(x, attention.OUTPUT) for x in choice.run(fused, plain, operands)]


def _forward(pattern: Pattern, heads: int, *operands: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    # The gradient has to take the same way: the kernel does not keep what the other one needs.
    choice = _choice(pattern, heads, operands, gradients=True)
    output, normalizer = _outputs(choice, pattern, heads, operands)
    return output, (choice, operands, output, normalizer)


def _backward(pattern: Pattern, heads: int, saved: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    choice, operands, output, normalizer = saved
    plain = functools.partial(_plain_gradients, pattern, heads)
    fused = functools.partial(_fused_gradients, choice, pattern, heads)
    return (*choice.run(fused, plain, (*operands, output, normalizer, gradient)), None, None)


_attend.defvjp(_forward, _backward)


def _choice(pattern: Pattern, heads: int, operands: Sequence[Any], *, gradients: bool) -> Choice:
    """How to compute a call, and its gradients if they are asked for. Says once why it is not by the kernel."""
    memory = _memory()
    if memory is not None:
        reason = _refusal(pattern, heads, operands, memory, gradients)
        if reason is not None:
            _report(reason)
            memory = None
    return Choice(memory, _mode() == "interpret")


def _memory() -> int | None:
    """Bytes that the kernel may take of a core's memory; None where there is none, or none is wanted."""
    if _mode() == "interpret":
        return CORE_MEMORY
    if _mode() == "none" or sharding.platform() != "tpu":
        return None
    try:
        chip = pltpu.get_tpu_info()
    except ValueError as error:  # a chip that is newer than this version of JAX
        _report(f"this chip: {one_line(error)}")
        return None
    if chip.generation < GENERATION:
        _report(f"TPUs before v{GENERATION}")
        return None
    return min(CORE_MEMORY, chip.vmem_capacity_bytes * 3 // 4)


def _refusal(pattern: Pattern, heads: int, operands: Sequence[Any], memory: int, gradients: bool) -> str | None:
    """Why the kernel does not take a call, or None."""
    query, key, value, positions, tables, fixed, mask = operands
    if not all(isinstance(size, int) for size in (*query.shape, *key.shape)):
        return "sizes that are not known yet"
    if query.shape[2] != HEAD * heads:
        return f"heads of {query.shape[2] // heads} channels; it takes those of {HEAD}"
    if min(query.shape[1], key.shape[1]) < 2:
        return "a single query or key"
    batch, tensor = sharding.parts("batch"), sharding.parts("heads")
    if heads % (2 * tensor):
        return f"{heads} heads over {tensor} devices; it takes pairs of heads"
    bias = jax.eval_shape(lambda *arrays: _bias(pattern, query, key, *arrays), tables, fixed)
    groups = [array.shape[0] for array in jax.tree.leaves((positions, bias))]
    if any(count % batch for count in (query.shape[0], *groups) if count > 1) or query.shape[0] < batch:
        return f"{query.shape[0]} images over {batch} devices"
    if any(query.shape[0] % count for count in groups):
        return f"{query.shape[0]} images in {max(groups)} groups"

    def local(array: Any, axis: int) -> Any:
        sizes = list(array.shape)
        sizes[0] = max(sizes[0] // batch, 1)
        sizes[axis] = max(sizes[axis] // tensor, 1)
        return jax.ShapeDtypeStruct(tuple(sizes), array.dtype)

    rows, columns, values, pair = jax.tree.map(lambda array: local(array, 2), (query, key, value, positions))
    arrays = Arrays(rows, columns, values, pair, jax.tree.map(lambda array: local(array, 1), bias), mask)
    for backward in (False, True)[: 1 + gradients]:
        if not fused_attention.fits(arrays, memory=memory, backward=backward):
            return f"{query.shape[1]} queries and {key.shape[1]} keys, for which the core's memory is too small"
    return None


@functools.cache
def _report(reason: str) -> None:
    """Says once that a call goes another way."""
    logging.getLogger(__name__).info("attention without its kernel, which does not take %s", reason)


def _split(
    heads: int, query: jax.Array, key: jax.Array, value: jax.Array, positions: tuple[jax.Array, jax.Array] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of each head, [B, H, n, E]; positions are more channels of queries and keys.

    A 128-lane matrix unit multiplies 64 + 64 channels in the time of 64, and no [H, n, m] array is kept.
    """

    def of_heads(x: jax.Array) -> jax.Array:
        return rearrange(x, "b n (h d) -> b h n d", h=heads)

    def with_position(content: jax.Array, extra: jax.Array) -> jax.Array:
        extra = broadcast_batch(extra.astype(content.dtype), content.shape[0])
        return jnp.concatenate([of_heads(content), of_heads(extra)], axis=-1)

    if positions is None:
        return of_heads(query), of_heads(key), of_heads(value)
    return with_position(query, positions[0]), with_position(key, positions[1]), of_heads(value)


def _plain(pattern: Pattern, heads: int, *operands: Any) -> tuple[jax.Array, jax.Array]:
    """The output [B, n, W], and the logarithm of each row's sum of exponentials, float32 [B, H, n]."""
    *arrays, tables, fixed, mask = operands
    ranges, biases = attention.taken_apart(pattern.blocks(tables, fixed))
    mask = None if mask is None else mask[:, None]
    output, normalizer = attention.outputs(ranges, *_split(heads, *arrays), biases, mask)
    return rearrange(output, "b h n d -> b n (h d)"), normalizer[..., 0]


def _plain_gradients(pattern: Pattern, heads: int, *arguments: Any) -> tuple[Any, ...]:
    """Gradients of query, key, value, positions and tables."""
    *arrays, tables, fixed, mask, output, normalizer, gradient = arguments
    ranges, _ = attention.taken_apart(pattern.blocks(tables, fixed))
    split, pull_arrays = jax.vjp(functools.partial(_split, heads), *arrays)
    biases, pull_tables = jax.vjp(lambda tables: attention.taken_apart(pattern.blocks(tables, fixed))[1], tables)
    mask = None if mask is None else mask[:, None]
    output, gradient = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (output, gradient))
    *slopes, bias_slopes = attention.gradients(ranges, *split, biases, mask, output, normalizer[..., None], gradient)
    return (*pull_arrays(tuple(slopes)), *pull_tables(bias_slopes))


def _bias(pattern: Pattern, query: Any, key: Any, tables: Tree, fixed: Tree) -> Bias:
    """What the kernel adds to scores: of the queries' dtype if it is laid out, so that half as much moves."""
    bias = pattern.fused(tables, fixed, key.shape[1])
    if not isinstance(bias, jax.Array):
        return bias
    if bias.shape[1] == 1 and jax.tree.leaves(tables):
        bias = jnp.broadcast_to(bias, (bias.shape[0], query.shape[2] // HEAD, *bias.shape[2:]))
    return bias.astype(query.dtype)


def _fused(choice: Choice, pattern: Pattern, heads: int, *operands: Any) -> tuple[jax.Array, jax.Array]:
    """As `_plain`; the kernel's gradient does not need the second."""
    query, key, value, positions, tables, fixed, mask = operands
    bias = _bias(pattern, query, key, tables, fixed)
    output = _spread(choice, fused_attention.forward, Arrays(query, key, value, positions, bias, mask))
    return output, jnp.zeros((query.shape[0], heads, query.shape[1]), jnp.float32)


def _fused_gradients(choice: Choice, pattern: Pattern, heads: int, *arguments: Any) -> tuple[Any, ...]:
    """As `_plain_gradients`."""
    query, key, value, positions, tables, fixed, mask, _, _, gradient = arguments
    bias, pull = jax.vjp(lambda tables: _bias(pattern, query, key, tables, fixed), tables)
    arrays = Arrays(query, key, value, positions, bias, mask)
    *slopes, bias_slope = _spread(choice, fused_attention.backward, arrays, gradient)
    return (*slopes, *pull(bias_slope))


def _spread(choice: Choice, kernel: Any, arrays: Arrays, *gradient: jax.Array) -> Any:
    """Calls a kernel for the images and heads of each device, since the compiler cannot divide it.

    What all images share becomes a copy for each part of the batch, so that gradients of it are summed afterwards.
    """
    run = functools.partial(kernel, memory=choice.memory, interpret=choice.interpret)
    positions, bias, mask = arrays.positions, arrays.bias, arrays.mask
    if mask is not None:
        mask = jnp.broadcast_to(mask, (arrays.query.shape[0], *mask.shape[1:]))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(arrays._replace(mask=mask), *gradient)
    batch, heads = sharding.RULES["batch"], sharding.RULES["heads"]
    parts = sharding.parts("batch")

    def copied(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (parts, *x.shape[1:])) if x.shape[0] == 1 else x

    def summed(x: jax.Array, like: jax.Array) -> jax.Array:
        return x.sum(axis=0, keepdims=True).astype(like.dtype) if like.shape[0] < x.shape[0] else x

    of_images: Any = PartitionSpec(batch, None, heads)
    of_mask: Any = None if mask is None else PartitionSpec(batch)
    of_positions = jax.tree.map(lambda _: of_images, positions)
    of_bias = jax.tree.map(lambda x: PartitionSpec(batch, heads if x.shape[1] > 1 else None), bias)
    specs = Arrays(of_images, of_images, of_images, of_positions, of_bias, of_mask)
    results = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(specs, *[of_images] * len(gradient)),
        out_specs=specs[:5] if gradient else of_images,
        check_vma=False,
    )(arrays._replace(positions=jax.tree.map(copied, positions), bias=jax.tree.map(copied, bias), mask=mask), *gradient)
    if not gradient:
        return results
    return (*results[:3], *jax.tree.map(summed, tuple(results[3:]), (positions, bias)))
