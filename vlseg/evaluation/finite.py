"""Scores that are not finite never become a label."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vlseg.errors import CheckpointError, ImageError

AT_ONCE = 32
"""Images whose scores may be waited for together."""


class Finite:
    """Watches the scores of images, which may still be on their way to be computed.

    A device works on while its results are waited for, so that images are looked at some at a time.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[object, ArrayLike]] = []

    def watch(self, image: object, scores: ArrayLike) -> None:
        """Adds the scores of an image, by its name; raises as `check` once there are many."""
        self._waiting.append((image, jnp.isfinite(jnp.asarray(scores)).all()))
        if len(self._waiting) >= AT_ONCE:
            self.check()

    def check(self) -> None:
        """Looks at all that were added.

        Raises:
            ImageError: scores hold NaN or infinities; the first image is named.
        """
        waiting, self._waiting = self._waiting, []
        flags = jax.device_get([flag for _, flag in waiting])
        for (image, _), flag in zip(waiting, flags, strict=True):
            if not flag:
                raise ImageError(_message(image))


@contextlib.contextmanager
def naming(image: object) -> Iterator[None]:
    """Puts the name of an image before what an ImageError says that the block raises, as of a CRF."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{image}: {error}") from error


def check_scores(image: object, scores: np.ndarray) -> None:
    """Raises ImageError, which names the image, if its scores hold NaN or infinities."""
    if not np.isfinite(scores).all():
        raise ImageError(_message(image))


def check_embeddings(embeddings: Any) -> None:
    """Raises CheckpointError if embeddings of words, a pytree of arrays, hold NaN or infinities."""
    # On the host: every shape would need a program there, and embeddings are small.
    leaves = jax.device_get([leaf for leaf in jax.tree.leaves(embeddings) if jnp.issubdtype(leaf.dtype, np.inexact)])
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        raise CheckpointError("the embeddings of the labels are not finite (NaN or infinity): a broken text encoder")


def _message(image: object) -> str:
    return (
        f"{image}: the model's scores are not finite (NaN or infinity), which is no label: its weights are broken, or "
        "its numbers too large for their type"
    )
