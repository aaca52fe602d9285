"""What networks take."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from vlseg.errors import ImageError


def check_pixels(images: jax.Array, low: Collection[float], high: Collection[float], unit: int = 1) -> jax.Array:
    """Images as a network takes them: unchanged.

    Values are looked at where there are any, not while a function is being traced.

    Args:
        images: [B, H, W, 3], uint8 or floats between `low` and `high`.
        low, high: of each of the 3 channels, or of all.
        unit: what H and W must be multiples of.

    Raises:
        ImageError: another shape or dtype, or floats that are out of range or not numbers.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ImageError(f"images of shape {list(images.shape)} are not [B, H, W, 3]")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ImageError(f"images of dtype {images.dtype} are neither uint8 nor normalised floats; convert them")
    if images.shape[1] % unit or images.shape[2] % unit:
        raise ImageError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels: both sides must be multiples of {unit}; resize "
            "or pad them, or use segment, which takes any size"
        )
    if images.dtype != jnp.uint8 and not isinstance(images, jax.core.Tracer):
        # On the host: nothing is compiled for the shape.
        values = np.asarray(images)
        least, most = (extreme(values, axis=(0, 1, 2)).astype(np.float32) for extreme in (np.min, np.max))
        # For rounding, and bfloat16.
        slack = 0.01 * (np.asarray(high) - np.asarray(low))
        if not ((least >= np.asarray(low) - slack).all() and (most <= np.asarray(high) + slack).all()):
            raise ImageError(
                f"images have values from {least.min():.4g} to {most.max():.4g}; floats must be normalised, from "
                f"{min(low):.4g} to {max(high):.4g}: give pixels in [0, 255] as uint8"
            )
    return images
