"""Cross entropy of upsampled logits, in row blocks."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from vlseg.nn.resize import interpolation_matrix

Pair = tuple[jax.Array, jax.Array]


def upsampled_cross_entropy(
    logits: jax.Array,
    target: jax.Array,
    *,
    ignore_label: int = 255,
    row_block: int = 16,
    align_corners: bool = False,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    count: jax.Array | None = None,
    weights: jax.Array | None = None,
    every: int = 1,
) -> jax.Array:
    """Mean cross entropy of bilinearly upsampled logits against a label map (IFSeg, Eq. 15; alinlab/ifseg).

    The upsampled logits [B, H, W, M] never exist: blocks of `row_block` rows are made, used and dropped. When the loss
    is differentiated, the gradient of each block is formed while the block is at hand, so its logits and exponentials
    are computed once; this is possible because nothing but a scalar factor comes between the loss and its gradient.

    Args:
        logits: float [B, h, w, M] on the token grid.
        target: int32 [B, H, W], category ids in [0, M); `ignore_label` and anything outside do not count.
        ignore_label: an id that is ignored even if it is below M.
        row_block: rows of pixels at a time; any number, the last block may be shorter.
        align_corners: how cells and pixels correspond, see `interpolation_matrix`.
        margin: what the logit of the target is lowered by, so that it has to win by so much (additive margin softmax,
            Wang et al. 2018, "CosFace").
        label_smoothing: share e of the target distribution that is spread over all M categories, the target's own
            among them; the rest 1 - e stays with it (Szegedy et al. 2016, as PyTorch's cross entropy has it).
        count: what the sum over pixels is divided by, if not by their number: a scalar, for a part of a batch the
            `counted_pixels` of all of it; or [B], for the sum over each image.
        weights: float32 [B, M], what a pixel of each category counts; by default 1.
        every: pixels of every so-many-th row and column count, the middle ones of squares of this side; 1 for all.

    Returns:
        float32 scalar, the mean over counted pixels by their weights; 0 if there are none.
    """
    if count is None:
        count = counted_pixels(target, logits.shape[-1], ignore_label, weights=weights, every=every)
    options = _Options(ignore_label, row_block, align_corners, margin, label_smoothing, every)
    totals = _sums(logits.astype(jnp.float32), target, weights, options)
    return jnp.sum(totals / jnp.where(count > 0, count, 1.0))


def counted_pixels(
    target: jax.Array,
    categories: int,
    ignore_label: int = 255,
    axis: tuple[int, ...] | None = None,
    weights: jax.Array | None = None,
    every: int = 1,
) -> jax.Array:
    """Pixels that count in `upsampled_cross_entropy`, or the sum of their weights: float32, along all or some axes.

    `target` is a label map int32 [B, H, W]; `weights` and `every` are as there.
    """
    target = target[:, every // 2 :: every, every // 2 :: every]
    counted = _counted(target, categories, ignore_label)
    if weights is None:
        return jnp.sum(counted, axis, dtype=jnp.float32)
    known = jnp.where(counted, target, 0)
    found = jnp.take_along_axis(weights[:, None, None], known[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(counted, found, 0.0), axis)


def _counted(target: jax.Array, categories: int, ignore_label: int) -> jax.Array:
    return (target >= 0) & (target < categories) & (target != ignore_label)


class _Options(NamedTuple):
    """The arguments of `upsampled_cross_entropy` that are no arrays."""

    ignore_label: int
    row_block: int
    align_corners: bool
    margin: float
    label_smoothing: float
    every: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sums(logits: jax.Array, target: jax.Array, weights: jax.Array | None, options: _Options) -> jax.Array:
    return _accumulate(logits, target, weights, options, with_gradient=False)[0]


def _forward(
    logits: jax.Array, target: jax.Array, weights: jax.Array | None, options: _Options
) -> tuple[jax.Array, tuple[jax.Array]]:
    total, gradient = _accumulate(logits, target, weights, options, with_gradient=True)
    return total, (gradient,)


def _backward(options: _Options, saved: tuple[jax.Array], cotangent: jax.Array) -> tuple:
    return cotangent[:, None, None, None] * saved[0], None, None


_sums.defvjp(_forward, _backward)


def _accumulate(
    logits: jax.Array, target: jax.Array, weights: jax.Array | None, options: _Options, *, with_gradient: bool
) -> Pair:
    """Sums over the pixels of each image: loss [B] and gradient [B, h, w, M] (0 if not wanted)."""
    images, h, w, categories = logits.shape
    rows, columns = (
        interpolation_matrix(cells, pixels, align_corners=options.align_corners)[options.every // 2 :: options.every]
        for cells, pixels in zip((h, w), target.shape[1:], strict=True)
    )
    target = target[:, options.every // 2 :: options.every, options.every // 2 :: options.every]
    _, height, _ = target.shape
    row_block = min(options.row_block, height)
    blocks = -(-height // row_block)
    padding = blocks * row_block - height
    target = jnp.pad(target, ((0, 0), (0, padding), (0, 0)), constant_values=-1)
    rows = rearrange(jnp.pad(rows, ((0, padding), (0, 0))), "(blocks y) h -> blocks y h", blocks=blocks)
    target = rearrange(target, "b (blocks y) w -> blocks b y w", blocks=blocks)

    def step(sums: Pair, block: Pair) -> tuple[Pair, None]:
        total, gradient = sums
        rows, target = block
        tall = jnp.einsum("yh,bhwm->bywm", rows, logits, precision="highest")
        pixels = jnp.einsum("xw,bywm->byxm", columns, tall, precision="highest")
        counted = _counted(target, categories, options.ignore_label)
        hit = (jnp.arange(categories) == target[..., None]).astype(jnp.float32)
        pixels = pixels - options.margin * hit
        peak = jnp.max(pixels, axis=-1, keepdims=True)
        exponentials = jnp.exp(pixels - peak)
        partition = jnp.sum(exponentials, axis=-1, keepdims=True)
        desired: jax.Array = hit
        if options.label_smoothing:
            desired = (1 - options.label_smoothing) * hit + options.label_smoothing / categories
        chosen = jnp.sum(jnp.where(desired != 0, desired * pixels, 0.0), axis=-1)
        losses = (jnp.log(partition) + peak)[..., 0] - chosen
        weight = counted.astype(jnp.float32)
        if weights is not None:
            weight *= jnp.einsum("byxm,bm->byx", hit, weights)
        total += jnp.sum(jnp.where(counted, weight * losses, 0.0), axis=(1, 2))
        if with_gradient:
            slope = weight[..., None] * (exponentials / partition - desired)
            slope = jnp.einsum("xw,byxm->bywm", columns, slope, precision="highest")
            gradient += jnp.einsum("yh,bywm->bhwm", rows, slope, precision="highest")
        return (total, gradient), None

    gradient = jnp.zeros(logits.shape if with_gradient else (), jnp.float32)
    sums, _ = jax.lax.scan(step, (jnp.zeros(images, jnp.float32), gradient), (rows, target))
    return sums
