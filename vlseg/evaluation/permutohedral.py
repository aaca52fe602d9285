"""Gaussian filtering of many points in a few dimensions on the permutohedral lattice (Adams, Baek and Davis 2010).

Every point spreads its values to the corners of the simplex that it lies in, the lattice is blurred along its axes, and
every point reads its result from the same corners. Only corners of points are in the lattice: a blur does not reach
beyond them, as in the code of Krähenbühl and Koltun (2011), whose results depend on it.
"""

import numpy as np
from scipy import sparse

from vlseg.errors import ConfigError


class Lattice:
    """The lattice of N points: where they are is worked out once, then any values of them are filtered.

    Attributes:
        vertices: number of lattice points.
    """

    def __init__(self, points: np.ndarray) -> None:
        """Builds the lattice.

        Args:
            points: float [N, d]; the Gaussian has deviation 1.

        Raises:
            ConfigError: the points lie too far apart for the lattice to be indexed by 64 bits.
        """
        multiples, ranks, weights = _simplices(np.asarray(points, np.float32).T)
        corners, steps = _keys(multiples, ranks)
        count, size = weights.shape
        keys, numbers = np.unique(corners, return_inverse=True)
        self.vertices = len(keys)
        rows = np.arange(count + 1, dtype=np.int32) * size
        self._corners = sparse.csr_array(
            (weights.reshape(-1), numbers.reshape(-1).astype(np.int32), rows), shape=(count, self.vertices)
        )
        self._blurs = [_blur(keys, step) for step in steps]
        self._scale = np.float32(1 / (1 + 2.0 ** (1 - size)))

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Sums over all points, each weighted by about exp(-distance² / 2): float32 [N, M] of float32 [N, M]."""
        spread = self._corners.T @ values
        for blur in self._blurs:
            spread = blur @ spread
        return (self._corners @ spread) * self._scale


def _blur(keys: np.ndarray, step: int) -> sparse.csr_array:
    """The blur (1/2, 1, 1/2) along an axis whose neighbours' keys differ by `step`; keys int64 [V] ascending."""
    place = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
    here = np.flatnonzero(keys[place] == keys + step)
    there = place[here]
    each = np.arange(len(keys))
    rows, columns = np.concatenate([each, here, there]), np.concatenate([each, there, here])
    data = np.full(len(rows), 0.5, np.float32)
    data[: len(keys)] = 1
    return sparse.csr_array((data, (rows, columns)), shape=(len(keys), len(keys)))


def _simplices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The simplices of the lattice that points [d, N] lie in.

    Returns:
        The simplex's corner whose coordinates are all multiples of d + 1, divided by it: int32 [d + 1, N]. The rank of
        each coordinate by the point's distance to that corner, the greatest first: int32 [d + 1, N]. The barycentric
        weights of the corners: float32 [N, d + 1].
    """
    dimensions = len(points)
    size = dimensions + 1
    # The points on the plane of d + 1 coordinates whose sum is 0, scaled so that the blur has deviation 1.
    index = np.arange(1, size)
    scales = (np.sqrt(2 / 3) * size / np.sqrt(index * (index + 1))).astype(np.float32)
    scaled = points * scales[:, None]
    elevated = np.zeros((size, points.shape[1]), np.float32)
    for axis in range(dimensions - 1, -1, -1):
        elevated[axis + 1] = elevated[0] - (axis + 1) * scaled[axis]
        elevated[0] += scaled[axis]
    # The nearest point all of whose coordinates are multiples of d + 1.
    multiples = np.rint(elevated * np.float32(1 / size)).astype(np.int32)
    distances = elevated - multiples * size
    ranks = np.zeros(elevated.shape, np.int32)
    for one in range(dimensions):
        for other in range(one + 1, size):
            less = distances[one] < distances[other]
            ranks[one] += less
            ranks[other] += ~less
    # Rounding may leave the plane: the coordinates that were rounded most go back.
    ranks += multiples.sum(0)
    wrapped = (ranks < 0).astype(np.int32) - (ranks >= size)
    ranks += wrapped * size
    multiples += wrapped
    distances = (elevated - multiples * size) * np.float32(1 / size)
    ordered = np.empty_like(distances)
    np.put_along_axis(ordered, ranks.astype(np.intp), distances, 0)
    weights = np.empty((points.shape[1], size), np.float32)
    weights[:, 0] = 1 + ordered[dimensions] - ordered[0]
    for corner in range(1, size):
        weights[:, corner] = ordered[dimensions - corner] - ordered[size - corner]
    return multiples, ranks, weights


def _keys(multiples: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Names the corners of simplices by one integer each.

    A key counts the first d coordinates in a mixed radix with room for neighbours; the last follows from their sum, 0.

    Args:
        multiples, ranks: as from `_simplices`.

    Returns:
        Keys of the corners int64 [N, d + 1], and for each of the d + 1 axes by what the key of a neighbour is greater.

    Raises:
        ConfigError: 64 bits are too few.
    """
    dimensions, count = len(multiples) - 1, multiples.shape[1]
    size = dimensions + 1
    low = [(int(axis.min()) - 2) * size for axis in multiples[:dimensions]]
    high = [(int(axis.max()) + 2) * size for axis in multiples[:dimensions]]
    radix = [1]
    for least, greatest in zip(low, high, strict=True):
        radix.append(radix[-1] * (greatest - least + 1))
    if radix.pop() >= 2**63:
        raise ConfigError("the points of a Gaussian filter lie too many deviations apart: use greater deviations")
    first, ones = np.zeros(count, np.int64), sum(radix)
    for axis in range(dimensions):
        first += (multiples[axis] * np.int64(size) - low[axis]) * radix[axis]
    keys = np.empty((count, size), np.int64)
    for corner in range(size):
        # Corner k is k away in every coordinate, but k - (d + 1) in those of the k highest ranks.
        keys[:, corner] = first + corner * ones
        for axis in range(dimensions):
            keys[:, corner] -= (ranks[axis] > dimensions - corner) * np.int64(radix[axis] * size)
    return keys, [one * size - ones for one in radix] + [-ones]
