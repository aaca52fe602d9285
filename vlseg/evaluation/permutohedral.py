"""Gaussian filtering of many points in a few dimensions on the permutohedral lattice (Adams, Baek and Davis 2010).

Every point spreads its values to the corners of the simplex that it lies in, the lattice is blurred along its axes, and
every point reads its result from the same corners. Only corners of points are in the lattice: a blur does not reach
beyond them, as in the code of Krähenbühl and Koltun (2011), whose results depend on it.
"""

import numpy as np
from scipy import sparse

from vlseg.errors import ConfigError

COLUMNS = 16
"""Values of a point that are filtered at once, so that many labels need little memory."""


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
        corners, weights, steps = _simplices(np.asarray(points, np.float32).T)
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
        return np.concatenate([self._filter(values[:, k : k + COLUMNS]) for k in range(0, values.shape[1], COLUMNS)], 1)

    def _filter(self, values: np.ndarray) -> np.ndarray:
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


def _simplices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The corners of the simplices that points [d, N] lie in.

    Returns:
        Keys of the corners int64 [N, d + 1], barycentric weights float32 [N, d + 1], and for each of the d + 1 axes by
        what the key of a neighbour along it is greater.
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
    # The rank of each coordinate by its distance to it, the greatest first.
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

    # A key numbers the first d coordinates in a mixed radix, with room for neighbours; the last follows from their sum.
    low = multiples[:dimensions].min(1).astype(np.int64) * size - 2 * size
    extents = [int(extent) for extent in multiples[:dimensions].max(1).astype(np.int64) * size + 2 * size - low + 1]
    radix = [1]
    for extent in extents:
        radix.append(radix[-1] * extent)
    if radix[-1] >= 2**63:
        raise ConfigError("the points of a Gaussian filter lie too many deviations apart: use greater deviations")
    base = sum((multiples[axis] * np.int64(size) - low[axis]) * radix[axis] for axis in range(dimensions))
    corners = np.empty((points.shape[1], size), np.int64)
    for corner in range(size):
        # Corner k is k away in every coordinate, but k - (d + 1) in the k coordinates of the highest ranks.
        far = sum((ranks[axis] > dimensions - corner) * np.int64(radix[axis] * size) for axis in range(dimensions))
        corners[:, corner] = base + corner * sum(radix[:dimensions]) - far
    ones = sum(radix[:dimensions])
    steps = [radix[axis] * size - ones for axis in range(dimensions)] + [-ones]
    return corners, weights, steps
