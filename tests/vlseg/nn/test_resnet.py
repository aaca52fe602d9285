"""The image trunk against plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.nn import ResNet
from vlseg.nn.resnet import BatchNorm, Convolution, halve, max_pool, trunk_stride, zero_outside

STAGES, WIDTH = (2, 1), 3


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


def trunk(variables, x):
    """The whole network in evaluation mode."""
    params, stats = variables["params"], variables["batch_stats"]

    def layer(x, block, number, stride=1, names=("conv", "bn")):
        conv, norm = (f"{name}{number}" for name in names)
        kernel, scale = params[block][conv]["kernel"], params[block][norm]
        x = convolution(x, np.asarray(kernel), stride)
        mean, variance = stats[block][norm]["mean"], stats[block][norm]["variance"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale["scale"] + scale["bias"]

    params, stats = params | {"": params}, stats | {"": stats}
    x = pool(np.maximum(layer(x, "", 1, 2), 0))
    outputs = []
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            name = f"layer{stage + 1}_{block}"
            stride = 2 if stage and not block else 1
            y = np.maximum(layer(x, name, 1), 0)
            y = np.maximum(layer(y, name, 2, stride), 0)
            y = layer(y, name, 3)
            if not block:
                x = layer(x, name, "", stride, ("downsample_conv", "downsample_bn"))
            x = np.maximum(x + y, 0)
        outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def model():
    return ResNet(STAGES, WIDTH)


@pytest.fixture(scope="module")
def variables(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "variance"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.standard_normal(leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (3, 29, 38, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def evaluate(model):
    return jax.jit(model.apply)


def test_the_whole_trunk(evaluate, variables, images):
    outputs, expected = evaluate(variables, images), trunk(variables, images)
    assert [output.shape for output in outputs] == [(3, 8, 10, 12), (3, 4, 5, 24)]
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-4)


def test_padded_images_equal_unpadded_ones(evaluate, variables, images):
    sizes = np.array([[29, 38], [17, 22], [20, 9]])
    for example, size in enumerate(sizes):
        images = images.copy()
        images[example, size[0] :], images[example, :, size[1] :] = 5.0, -7.0  # must not be seen
    outputs = evaluate(variables, images, sizes)
    for example, (height, width) in enumerate(sizes):
        alone = trunk(variables, images[example : example + 1, :height, :width])
        for output, reference in zip(outputs, alone, strict=True):
            _, h, w, _ = reference.shape
            np.testing.assert_allclose(output[example : example + 1, :h, :w], reference, rtol=1e-4, atol=1e-4)


def test_training_mode(model, variables, images):
    """Patches instead of a convolution in the stem, batch statistics, and new running ones."""
    outputs, changed = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable="batch_stats"))(variables, images)
    kernel, norm = variables["params"]["conv1"]["kernel"], variables["batch_stats"]["bn1"]
    stem = convolution(images, kernel, 2)
    np.testing.assert_allclose(
        changed["batch_stats"]["bn1"]["mean"],
        0.9 * norm["mean"] + 0.1 * stem.mean(axis=(0, 1, 2)),
        rtol=1e-4,
        atol=1e-6,
    )
    unbiased = stem.reshape(-1, WIDTH).var(axis=0, ddof=1)
    np.testing.assert_allclose(
        changed["batch_stats"]["bn1"]["variance"], 0.9 * norm["variance"] + 0.1 * unbiased, rtol=1e-4
    )
    assert np.abs(outputs[-1] - trunk(variables, images)[-1]).max() > 0.1
    paths = jax.tree.leaves(
        jax.tree.map(lambda a, b: bool((a != b).all()), changed["batch_stats"], variables["batch_stats"])
    )
    assert all(paths)


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 1, (5, 4)), (3, 2, (5, 6)), (1, 2, (5, 4)), (7, 2, (9, 10))]
)
@pytest.mark.parametrize("as_patches", [False, True])
def test_convolutions(kernel, stride, size, as_patches):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, 3, 4)).astype(np.float32)
    layer = Convolution(4, kernel, stride, as_patches=as_patches)
    found = jax.jit(layer.apply)({"params": {"kernel": weight}}, x)
    np.testing.assert_allclose(found, convolution(x, weight, stride), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_pooling(size):
    x = np.random.default_rng(0).exponential(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), pool(x).astype(np.float32))


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


def test_bfloat16_computes_in_bfloat16(variables, images):
    outputs = jax.jit(ResNet(STAGES, WIDTH, jnp.bfloat16).apply)(variables, images[:1])
    assert all(output.dtype == jnp.bfloat16 for output in outputs)
    expected = trunk(variables, images[:1])[-1]
    assert 0 < np.abs(np.asarray(outputs[-1], np.float32) - expected).max() < 0.1 * np.abs(expected).max()


def test_sizes():
    assert [trunk_stride(stages) for stages in [(1,), (1, 1), (3, 4, 6), (3, 4, 6, 3)]] == [4, 8, 16, 32]
    assert halve(None) is None
    np.testing.assert_array_equal(halve(jnp.asarray([[1, 2], [7, 8]])), [[1, 1], [4, 4]])
    x = jnp.ones((2, 2, 3, 1))
    np.testing.assert_array_equal(zero_outside(x, None), x)
    masked = zero_outside(x, jnp.asarray([[1, 2], [2, 0]]))[..., 0]
    np.testing.assert_array_equal(masked, [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
