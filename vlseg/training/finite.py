"""Whether what training has computed is finite."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlseg.errors import VlsegError


class NonFiniteLossError(VlsegError):
    """The loss, its gradient or the state became NaN or infinite."""


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def not_finite(tree: Any) -> list[str]:
    """The paths of the arrays of a tree, "params/weight", that hold NaN or infinities; integers and keys do not.

    The arrays stay where they are; of several processes all call this together.
    """
    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    found = [(path, leaf) for path, leaf in named if jnp.issubdtype(leaf.dtype, np.inexact)]
    if not found or bool(_all_finite([leaf for _, leaf in found])):
        return []
    flags = jax.device_get(_each_finite([leaf for _, leaf in found]))
    keys = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    return [key for key, flag in zip(keys, flags, strict=True) if not flag]


@jax.jit
def _all_finite(leaves: Sequence[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


@jax.jit
def _each_finite(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]
