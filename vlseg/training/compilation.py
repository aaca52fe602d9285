"""Compiling a training step once, without keeping the compiler's memory."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from vlseg import sharding


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
            compiled.append(lower(step, mesh, *arguments).compile())
            _release_free_memory()
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


def _release_free_memory() -> None:
    """Drops what tracing has left, and asks glibc to return what it keeps; other C libraries do so unasked."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
