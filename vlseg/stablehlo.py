"""One file with a whole segmenter, weights and labels included, that a process with JAX alone can run."""

import os
from collections.abc import Callable, Sequence

import jax
import jax.export
import jax.numpy as jnp

from vlseg import files
from vlseg.errors import ConfigError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_MAX_BYTES = 2_000_000_000  # the file's format counts bytes with 31 bits


def write(
    path: str | os.PathLike[str],
    segment: Callable[[jax.Array], dict[str, jax.Array]],
    weights: int,
    height: int,
    width: int,
    platforms: Sequence[str],
) -> None:
    """Writes a function of images uint8 [B, H, W, 3] for one size and any batch size.

    Args:
        path: a file.
        segment: everything but the images is baked in.
        weights: bytes of what is baked in.
        height, width: of the images, in pixels.
        platforms: of `PLATFORMS`, whatever this machine has.

    Raises:
        ConfigError: an unknown platform, or a model too large for one file.
        StorageError: the file cannot be written.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ConfigError(f"platforms {', '.join(unknown) or 'are missing'}: choose some of {', '.join(PLATFORMS)}")
    if weights > _MAX_BYTES:
        raise ConfigError(f"{weights / 1e9:.1f} GB of weights do not fit one StableHLO file; use --format=directory")
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(segment), platforms=tuple(platforms))(images)
    files.atomic_write_bytes(path, bytes(exported.serialize()))
