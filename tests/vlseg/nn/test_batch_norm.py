"""Batch normalization against NumPy."""

import numpy as np

from vlseg.nn.layers import BatchNorm


def test_batch_norm_normalises_by_the_batch():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 3, 5, 2)).astype(np.float32)
    scale, bias = np.array([2.0, 0.5], np.float32), np.array([1.0, -1.0], np.float32)
    stats = {"mean": np.array([9.0, 9.0], np.float32), "variance": np.array([4.0, 4.0], np.float32)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    found, _ = BatchNorm().apply(variables, x, train=True, mutable="batch_stats")
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5) * scale + bias, rtol=0, atol=1e-4)
    expected = (x - 9) / np.sqrt(4 + 1e-5) * scale + bias
    np.testing.assert_allclose(BatchNorm().apply(variables, x), expected, rtol=0, atol=1e-4)
