"""Layers as plain NumPy loops."""

import numpy as np


def convolution(x, kernel, stride):
    """[B, H, W, C] with [k, k, C, D], zero padded by k // 2: every output cell on its own, in double precision."""
    side = kernel.shape[0]
    pad = side // 2
    batch, height, width, _ = x.shape
    padded = np.zeros((batch, height + 2 * pad, width + 2 * pad, x.shape[-1]))
    padded[:, pad : pad + height, pad : pad + width] = x
    result = np.zeros((batch, -(-height // stride), -(-width // stride), kernel.shape[-1]))
    for row, column in np.ndindex(result.shape[1:3]):
        window = padded[:, row * stride : row * stride + side, column * stride : column * stride + side]
        result[:, row, column] = np.einsum("bijc,ijcd->bd", window, kernel.astype(float))
    return result


def pool(x):
    """3 x 3 maxima at every second cell, -inf outside."""
    batch, height, width, channels = x.shape
    padded = np.full((batch, height + 2, width + 2, channels), -np.inf)
    padded[:, 1:-1, 1:-1] = x
    result = np.empty((batch, -(-height // 2), -(-width // 2), channels))
    for row, column in np.ndindex(result.shape[1:3]):
        result[:, row, column] = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].max(axis=(1, 2))
    return result
