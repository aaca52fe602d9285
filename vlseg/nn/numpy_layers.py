"""Layers from their definitions in NumPy and float64, for one image or text at a time.

`verify` compares the compiled layers with them. They are written to be read, and share no code with what they check.
Parameters are the nested dicts of our variables, see `float64`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy import special

Parameters = Any


def float64(parameters: Parameters) -> Parameters:
    """The same tree with arrays of float64."""
    return jax.tree.map(lambda value: np.asarray(value, np.float64), parameters)


def layer_of(parameters: Parameters, layer: int | slice) -> Parameters:
    """The parameters of one of several stacked layers; of a slice, some of them, still stacked."""
    return jax.tree.map(lambda value: value[layer], parameters)


def linear(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    """[..., C] -> [..., D]."""
    return x @ parameters["kernel"] + parameters["bias"]


def layer_norm(x: np.ndarray, parameters: Parameters, epsilon: float) -> np.ndarray:
    """Over the last axis (Ba et al. 2016)."""
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation * parameters["scale"] + parameters["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016)."""
    return x * (1 + special.erf(x / np.sqrt(2))) / 2


def relu(x: np.ndarray) -> np.ndarray:
    """The positive part."""
    return np.maximum(x, 0)


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[n, heads * d] -> [heads, n, d]."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def attention(scores: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Softmax of scores [H, n, m] over the last axis, times values [H, m, d]: [H, n, d]."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Zero padded by half the kernel: [H, W, C] and [k, k, C, D] -> [ceil(H / stride), ceil(W / stride), D]."""
    side, (height, width) = len(kernel), x.shape[:2]
    padded = np.pad(x, [(side // 2, side // 2)] * 2 + [(0, 0)])
    offsets = [(i, j) for i in range(side) for j in range(side)]
    return sum(padded[i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i, j in offsets)


def batch_norm(x: np.ndarray, parameters: Parameters, statistics: Parameters, epsilon: float) -> np.ndarray:
    """By running statistics."""
    normal = (x - statistics["mean"]) / np.sqrt(statistics["variance"] + epsilon)
    return normal * parameters["scale"] + parameters["bias"]


def max_pool(x: np.ndarray) -> np.ndarray:
    """3 x 3 of stride 2, padded by one: [H, W, C] -> [ceil(H / 2), ceil(W / 2), C]."""
    height, width = x.shape[:2]
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    return np.max([padded[i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)], axis=0)


def resnet_beginning(image: np.ndarray, parameters: Parameters, statistics: Parameters, epsilon: float) -> np.ndarray:
    """Stem and first bottleneck of a ResNet (He et al. 2016): [H, W, 3] -> [H / 4, W / 4, C]."""

    def unit(x: np.ndarray, block: tuple[Parameters, Parameters], conv: str, norm: str, stride: int = 1) -> np.ndarray:
        weights, running = block
        return batch_norm(convolution(x, weights[conv]["kernel"], stride), weights[norm], running[norm], epsilon)

    x = max_pool(relu(unit(image, (parameters, statistics), "conv1", "bn1", 2)))
    block = parameters["layer1_0"], statistics["layer1_0"]
    y = relu(unit(x, block, "conv1", "bn1"))
    y = relu(unit(y, block, "conv2", "bn2"))
    return relu(unit(y, block, "conv3", "bn3") + unit(x, block, "downsample_conv", "downsample_bn"))


def same_convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Padded as TensorFlow does: [H, W, C] and [k, k, C, D] -> [ceil(H / stride), ceil(W / stride), D].

    A kernel [k, k, 1, C] of C > 1 channels convolves each with its own.
    """
    side, counts = len(kernel), [-(-length // stride) for length in x.shape[:2]]
    missing = [max((n - 1) * stride + side - length, 0) for n, length in zip(counts, x.shape[:2], strict=True)]
    padded = np.pad(x, [(total // 2, total - total // 2) for total in missing] + [(0, 0)])
    depthwise = kernel.shape[2] == 1 < x.shape[-1]
    result = 0.0
    for i, j in np.ndindex(side, side):
        ends = i + (counts[0] - 1) * stride + 1, j + (counts[1] - 1) * stride + 1
        view = padded[i : ends[0] : stride, j : ends[1] : stride]
        result = result + (view * kernel[i, j, 0] if depthwise else view @ kernel[i, j])
    return np.asarray(result)


def efficientnet_beginning(
    image: np.ndarray, strides: Sequence[int], parameters: Parameters, statistics: Parameters, epsilon: float
) -> np.ndarray:
    """Stem and first blocks of an EfficientNet-Lite (Tan and Le 2019), as many as there are strides of theirs."""

    def normal(x: np.ndarray, weights: Parameters, running: Parameters, name: str) -> np.ndarray:
        return batch_norm(x, weights[name], running[name], epsilon)

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = relu6(normal(same_convolution(image, parameters["stem"], 2), parameters, statistics, "stem_bn"))
    for number, stride in enumerate(strides):
        weights, running = parameters[f"block{number}"], statistics[f"block{number}"]
        y = x
        if "expand" in weights:
            y = relu6(normal(y @ weights["expand"]["kernel"], weights, running, "expand_bn"))
        y = relu6(normal(same_convolution(y, weights["depthwise"]["kernel"], stride), weights, running, "depthwise_bn"))
        y = normal(y @ weights["project"]["kernel"], weights, running, "project_bn")
        x = x + y if x.shape == y.shape else y
    return x
