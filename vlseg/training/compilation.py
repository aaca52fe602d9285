"""Compiling a training step once, without keeping the compiler's memory."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

import jax


def compile_once(function: Callable[..., Any], *, donate_argnums: int | tuple[int, ...] = ()) -> Callable[..., Any]:
    """`jax.jit` for a function whose arguments have the same shapes and types in every call.

    The first call compiles, and then gives the memory that the compiler has freed back to the system: hundreds of MB
    that the C library would keep beside the training state.

    Args:
        function: of arrays and pytrees of them.
        donate_argnums: arguments whose buffers the results may take over.

    Returns:
        The compiled function. A call with other shapes or types than the first raises TypeError.
    """
    compiled: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not compiled:
            # JAX keeps a function's trace as long as the function: that of a wrapper goes with it.
            jitted = jax.jit(lambda *arguments: function(*arguments), donate_argnums=donate_argnums)
            compiled.append(jitted.lower(*arguments).compile())
            del jitted
            _release_free_memory()
        return compiled[0](*arguments)

    return call


def _release_free_memory() -> None:
    """Drops what tracing has left, and asks glibc to return what it keeps; other C libraries do so unasked."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
