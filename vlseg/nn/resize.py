"""Resizing as multiplication by small interpolation matrices.

A bilinear resize is separable, so it is two matrix products. Unlike gathers, these run on the matrix unit of an
accelerator, differentiate into matrix products again, and accept sizes that are only known when the program runs,
which is what lets images of different sizes share one compiled program. On CPUs, where a product costs what it
multiplies, zeros included, a resize of known sizes reads the two cells that it needs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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
    centre = _centres(in_size, out_size, rows, align_corners)[..., None]
    return jnp.maximum(0.0, 1.0 - jnp.abs(centre - jnp.arange(columns, dtype=jnp.float32)))


def resize_bilinear(x: jax.Array, height: int, width: int, *, align_corners: bool = False) -> jax.Array:
    """Bilinear resize without antialiasing, see `interpolation_matrix`: [B, h, w, C] -> [B, height, width, C]."""
    return _resize((x.shape[1], x.shape[2]), (height, width), align_corners, x)


def aligned_taps(targets: np.ndarray, in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The two source cells that a target cell of a linear resize with aligned corners lies between.

    Returns:
        int, the lower cell, and float in [0, 1), the share of the cell after it.
    """
    steps = max(out_size - 1, 1)
    travelled = targets.astype(np.int64) * (in_size - 1)
    lower = travelled // steps
    return lower, (travelled - lower * steps) / steps


def resize_picture(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`resize_bilinear` with aligned corners on the host, where nothing is compiled for the size of a picture.

    uint8 [H, W, C] -> float32 [height, width, C], in [0, 255].
    """
    row, below = aligned_taps(np.arange(height), image.shape[0], height)
    column, after = aligned_taps(np.arange(width), image.shape[1], width)
    below, after = below.astype(np.float32)[:, None, None], after.astype(np.float32)[None, :, None]
    next_row, next_column = (np.minimum(at + 1, side - 1) for at, side in zip((row, column), image.shape, strict=False))

    def line(rows: np.ndarray) -> np.ndarray:
        rows = rows[:, None]
        return image[rows, column] * (1 - after) + image[rows, next_column] * after

    return line(row) * (1 - below) + line(next_row) * below


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


def _centres(in_size: Size, out_size: Size, count: int, align_corners: bool) -> jax.Array:
    """Where the centres of `count` target cells lie among those of the source cells: float32 [..., count]."""
    in_size = jnp.asarray(in_size, jnp.float32)[..., None]
    out_size = jnp.asarray(out_size, jnp.float32)[..., None]
    cells = jnp.arange(count, dtype=jnp.float32)
    if align_corners:
        centre = cells * ((in_size - 1.0) / jnp.maximum(out_size - 1.0, 1.0))
    else:
        centre = (cells + 0.5) * (in_size / out_size) - 0.5
    return jnp.clip(centre, 0.0, in_size - 1.0)


Shape = tuple[int, int]
"""Height and width."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _resize(source: Shape, target: Shape, align_corners: bool, x: jax.Array) -> jax.Array:
    """`x` [B, *source, C] -> [B, *target, C]."""

    def neighbours(x: jax.Array) -> jax.Array:
        return _between_cells(_between_cells(x, 1, target[0], align_corners), 2, target[1], align_corners)

    products = functools.partial(_products, source, target, align_corners)
    return jax.lax.platform_dependent(x, cpu=neighbours, default=products)


def _forward(source: Shape, target: Shape, align_corners: bool, x: jax.Array) -> tuple[jax.Array, None]:
    return _resize(source, target, align_corners, x), None


def _backward(source: Shape, target: Shape, align_corners: bool, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # Of the products on every platform: the gradient of a gather is a scatter, which is slow.
    shape = (gradient.shape[0], *source, gradient.shape[3])
    products = functools.partial(_products, source, target, align_corners)
    return tuple(jax.linear_transpose(products, jax.ShapeDtypeStruct(shape, gradient.dtype))(gradient))


_resize.defvjp(_forward, _backward)


def _products(source: Shape, target: Shape, align_corners: bool, x: jax.Array) -> jax.Array:
    """The resize as two matrix products."""
    rows, columns = (
        interpolation_matrix(*sizes, align_corners=align_corners).astype(x.dtype)
        for sizes in zip(source, target, strict=True)
    )
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, x, precision="highest")


def _between_cells(x: jax.Array, axis: int, target: int, align_corners: bool) -> jax.Array:
    """The resize of one axis of `x` to `target` cells, each a weighted mean of two neighbours; computed in float32."""
    source = x.shape[axis]
    centre = _centres(source, target, target, align_corners)
    low = jnp.floor(centre)
    weight = (centre - low).reshape([-1 if other == axis else 1 for other in range(x.ndim)])
    first = low.astype(jnp.int32)
    second = jnp.minimum(first + 1, source - 1)
    mean = jnp.take(x, first, axis, mode="clip") * (1.0 - weight) + jnp.take(x, second, axis, mode="clip") * weight
    return mean.astype(x.dtype)
