"""What the speed benchmarks share: random weights, wall times, the machine's matrix-multiplication rate, the report."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MATMUL_SHAPE = (3072, 3072)
"""Of the matrix whose product with itself is timed."""


def random_arrays(shapes: Any) -> Any:
    """A tree of float32 arrays with small random values, made one at a time, from a tree of shapes.

    Running variances ("variance") are positive.
    """
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32) * np.float32(0.02)
        return jnp.asarray(np.abs(values) + 1 if path[-1].key == "variance" else values)

    arrays = jax.tree_util.tree_map_with_path(fill, shapes)
    jax.clear_caches()  # weights that are read from a file leave no traces of their initialisation in memory
    return arrays


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `repeats` runs after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def matmul_rate(square: Any, repeats: int = 5) -> float:
    """Median float32 FLOP/s of a square matrix of either framework times itself."""
    return 2 * len(square) ** 3 / statistics.median(seconds(lambda: square @ square, repeats))


def peak_memory() -> int:
    """Peak resident memory of this process until now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(run: Callable[[], Any], repeats: int, work: int, ones: Callable[[tuple[int, int]], Any]) -> dict[str, float]:
    """Times a function; the figures that a benchmark prints.

    Args:
        work: FLOPs of the definition. ones: makes a matrix of a shape in the framework whose products are measured.
    """
    times = seconds(run, repeats)
    median, peak = statistics.median(times), peak_memory()
    rate = matmul_rate(ones(MATMUL_SHAPE))
    return {
        "seconds_median": round(median, 3),
        "seconds_min": round(min(times), 3),
        "seconds_max": round(max(times), 3),
        "definition_gflop": round(work / 1e9, 1),
        "gflop_per_second": round(work / median / 1e9, 1),
        "matmul_gflop_per_second": round(rate / 1e9, 1),
        "share_of_matmul_rate": round(work / median / rate, 3),
        "peak_memory_gb": round(peak / 1e9, 3),
    }
