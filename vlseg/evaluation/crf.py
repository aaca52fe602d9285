"""Dense CRF: probabilities of labels made to follow the edges of the image (Krähenbühl and Koltun 2011).

Every two pixels that are near, or near and alike in colour, are drawn to the same label. Mean field inference:

    Q_i(l) is proportional to p_i(l) exp(sum over kernels m of weight_m sum over j of k_m(i, j) Q_j(l)),
    k(i, j) = exp(-|f_i - f_j|² / 2) / sqrt(n_i n_j),   n_i = sum over j of exp(-|f_i - f_j|² / 2),

with the pixel itself among the j; f is the position over its deviation, and for the bilateral kernel also the colour.
This is what pydensecrf computes with a number as compatibility (Potts) and its own normalisation. IFSeg's figure of web
images is made with it (alinlab/ifseg), from channels in the order BGR; the definition does not depend on their order,
and the lattice hardly (0.3 % of the pixels of a photograph), so that here they are RGB.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

import numpy as np

from vlseg import fields
from vlseg.errors import ConfigError, ImageError
from vlseg.evaluation.permutohedral import Lattice
from vlseg.fields import Positive, Range

LEAST_PROBABILITY = 1e-5
"""Smaller probabilities are taken for this one, as in pydensecrf's `unary_from_softmax`."""

EXACT_PIXELS = 2**14
"""The largest image for exact kernels, whose cost is quadratic: half a minute for ten iterations at this size."""

BLOCK = 2**18
"""Entries of an exact kernel that are in memory at once, few enough for a processor's cache."""

COLUMNS = 16
"""Labels that the lattice filters at once, so that many labels need little memory."""

Deviation = Annotated[float, Range(0.1, 1e6)]

Kernel = Callable[[np.ndarray], np.ndarray]
"""Weighted sums over all pixels of values [H * W, M], in the dtype of the values."""


@dataclasses.dataclass(frozen=True)
class CRF:
    """Settings of a dense CRF. The defaults are those of IFSeg's figure of web images, but for the iterations.

    Attributes:
        iterations: of mean field inference; 0 for no CRF, 10 in that figure.
        gaussian_deviation: of the kernel of positions, in pixels. gaussian_weight: of the kernel of positions.
        bilateral_deviation: of positions in the kernel of positions and colours, in pixels. colour_deviation: of
            colours in that kernel, of 0 to 255. bilateral_weight: of the kernel of positions and colours.
        exact: whether the kernels are computed as they are defined, at a cost quadratic in the number of pixels;
            otherwise on the permutohedral lattice, as pydensecrf does.

    Raises:
        ConfigError: a number is out of its range.
    """

    iterations: Annotated[int, Range(0, 10_000)] = 0
    gaussian_deviation: Deviation = 1.0
    gaussian_weight: Positive = 3.0
    bilateral_deviation: Deviation = 67.0
    colour_deviation: Deviation = 3.0
    bilateral_weight: Positive = 4.0
    exact: bool = False

    needs: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            *("gaussian_deviation", "gaussian_weight", "bilateral_deviation"),
            *("colour_deviation", "bilateral_weight", "exact"),
        ),
        "iterations",
    )
    """See `vlseg.overrides`."""

    def __post_init__(self) -> None:
        fields.check(self)


def refine(probabilities: np.ndarray, image: np.ndarray, settings: CRF) -> np.ndarray:
    """Probabilities after mean field inference; the given ones where `settings.iterations` is 0.

    Args:
        probabilities: float32 [H, W, M], of M labels. image: uint8 [H, W, 3].

    Returns:
        float32 [H, W, M] whose sum over labels is 1.

    Raises:
        ImageError: the shapes do not fit, or a probability is not finite.
        ConfigError: an image of more than `EXACT_PIXELS` pixels for exact kernels, or deviations that are too small for
            the lattice.
    """
    if probabilities.ndim != 3 or image.shape != (*probabilities.shape[:2], 3) or image.dtype != np.uint8:
        raise ImageError(
            f"a CRF needs probabilities [H, W, M] and an image uint8 [H, W, 3], not {list(probabilities.shape)} and "
            f"{image.dtype} {list(image.shape)}"
        )
    if not settings.iterations:
        return probabilities
    if not np.isfinite(probabilities).all():
        raise ImageError("the probabilities given to the CRF are not all finite")
    height, width, labels = probabilities.shape
    if settings.exact and height * width > EXACT_PIXELS:
        raise ConfigError(
            f"an image of {height} x {width} pixels is too large for an exact CRF, which takes {EXACT_PIXELS}: set "
            "crf.exact to False"
        )
    kernels = _kernels(image, settings)
    given: np.ndarray = probabilities.reshape(-1, labels).astype(np.float64 if settings.exact else np.float32)
    np.log(np.clip(given, LEAST_PROBABILITY, 1, out=given), out=given)
    columns = labels if settings.exact else COLUMNS  # exact kernels are computed anew at each call
    refined = _softmax(given.copy())
    for _ in range(settings.iterations):
        logits = given.copy()
        for weight, kernel in kernels:
            for start in range(0, labels, columns):
                some = slice(start, start + columns)
                logits[:, some] += weight * kernel(refined[:, some])
        refined = _softmax(logits)
    return refined.reshape(height, width, labels).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in place."""
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    return logits


def _points(image: np.ndarray, settings: CRF, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as points where each kernel has deviation 1: [H * W, 2] and [H * W, 5]."""
    rows, columns = np.indices(image.shape[:2], dtype=dtype)
    positions = np.stack([columns, rows], -1).reshape(-1, 2)
    colours = image.reshape(-1, 3).astype(dtype) / settings.colour_deviation
    near: np.ndarray = (positions / settings.gaussian_deviation).astype(dtype)
    alike: np.ndarray = np.concatenate([positions / settings.bilateral_deviation, colours], 1).astype(dtype)
    return near, alike


def _kernels(image: np.ndarray, settings: CRF) -> list[tuple[float, Kernel]]:
    """The kernels with their weights; in float64 where they are exact."""
    make: Callable[[np.ndarray], Kernel] = _exact if settings.exact else lambda points: Lattice(points).filter
    near, alike = _points(image, settings, np.float64 if settings.exact else np.float32)
    return [
        (settings.gaussian_weight, _normalised(make(near), near)),
        (settings.bilateral_weight, _normalised(make(alike), alike)),
    ]


def _normalised(kernel: Kernel, points: np.ndarray) -> Kernel:
    """The kernel with weights 1 / sqrt(n_i n_j), n_i being the sum of row i."""
    norm = 1 / np.sqrt(kernel(np.ones_like(points[:, :1])))
    return lambda values: kernel(values * norm) * norm


def _exact(points: np.ndarray) -> Kernel:
    """Sums over all of the points [N, d], each weighted by exp(-distance² / 2), a block of rows at a time."""
    # A product of these two is -distance² / 2.
    halves = (points**2).sum(1, keepdims=True) / 2
    ones = np.ones_like(halves)
    left, right = np.concatenate([points, halves, ones], 1), np.concatenate([points, -ones, -halves], 1)
    block = max(1, BLOCK // len(points))

    def rows(values: np.ndarray, start: int) -> np.ndarray:
        weights = left[start : start + block] @ right.T
        np.exp(np.minimum(weights, 0, out=weights), out=weights)  # rounding makes some distances negative
        return weights @ values

    return lambda values: np.concatenate([rows(values, start) for start in range(0, len(points), block)])
