"""Resizing as multiplication by small interpolation matrices.

A bilinear resize is separable, so it is two matrix products. Unlike gathers, these run on the matrix unit of an
accelerator, differentiate into matrix products again, and accept sizes that are only known when the program runs,
which is what lets images of different sizes share one compiled program.
"""

import jax
import jax.numpy as jnp

Size = int | jax.Array


def interpolation_matrix(
    in_size: Size,
    out_size: Size,
    max_in: int | None = None,
    max_out: int | None = None,
    *,
    align_corners: bool = False,
) -> jax.Array:
    """Weights of a 1-D linear resize without antialiasing.

    This is what `torch.nn.functional.interpolate(mode="bilinear")` applies along each side.

    Args:
        in_size: number of source cells: an int, or an int array of shape [...] for a batch of sizes.
        out_size: number of target cells, likewise. Broadcasts against `in_size`.
        max_in: rows to allocate for the source; defaults to `in_size`, needed when that is an array.
        max_out: the same for the target.
        align_corners: the centres of the first and last cells of source and target coincide; otherwise their outer
            edges do (half-pixel centres).

    Returns:
        float32 [..., max_out, max_in]. Rows sum to 1; rows at and beyond `out_size` repeat the last cell.
    """
    columns = _static(in_size, max_in)
    rows = _static(out_size, max_out)
    in_size = jnp.asarray(in_size, jnp.float32)[..., None]
    out_size = jnp.asarray(out_size, jnp.float32)[..., None]
    cells = jnp.arange(rows, dtype=jnp.float32)
    if align_corners:
        centre = cells * ((in_size - 1.0) / jnp.maximum(out_size - 1.0, 1.0))
    else:
        centre = (cells + 0.5) * (in_size / out_size) - 0.5
    centre = jnp.clip(centre, 0.0, in_size - 1.0)[..., None]
    return jnp.maximum(0.0, 1.0 - jnp.abs(centre - jnp.arange(columns, dtype=jnp.float32)))


def resize_bilinear(x: jax.Array, height: int, width: int, *, align_corners: bool = False) -> jax.Array:
    """Bilinear resize without antialiasing, see `interpolation_matrix`: [B, h, w, C] -> [B, height, width, C]."""
    rows = interpolation_matrix(x.shape[1], height, align_corners=align_corners).astype(x.dtype)
    columns = interpolation_matrix(x.shape[2], width, align_corners=align_corners).astype(x.dtype)
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, x, precision="highest")


def resize_nearest_indices(in_size: Size, out_size: int) -> jax.Array:
    """Source index of every target cell of a nearest resize: int32 [..., out_size], floor(i * in / out).

    The rule of `torch.nn.functional.interpolate(mode="nearest")`, in integers so that it is exact.
    """
    in_size = jnp.asarray(in_size, jnp.int32)[..., None]
    return (jnp.arange(out_size, dtype=jnp.int32) * in_size) // out_size


def _static(size: Size, maximum: int | None) -> int:
    if maximum is not None:
        return maximum
    if not isinstance(size, int):
        raise TypeError("a size that is an array needs its static maximum")
    return size
