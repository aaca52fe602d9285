"""The image trunk against plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import micro
from tests.vlseg.nn.references import convolution, pool
from vlseg.checkpoints.rules import flatten
from vlseg.nn.resnet import ResNet, trunk_stride

STAGES, WIDTH = (2, 1), 3


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
    return micro.variables({path: leaf.shape for path, leaf in flatten(shapes).items()})


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


def test_bfloat16_computes_in_bfloat16(variables, images):
    outputs = jax.jit(ResNet(STAGES, WIDTH, jnp.bfloat16).apply)(variables, images[:1])
    assert all(output.dtype == jnp.bfloat16 for output in outputs)
    expected = trunk(variables, images[:1])[-1]
    assert 0 < np.abs(np.asarray(outputs[-1], np.float32) - expected).max() < 0.1 * np.abs(expected).max()


def test_strides():
    assert [trunk_stride(stages) for stages in [(1,), (1, 1), (3, 4, 6), (3, 4, 6, 3)]] == [4, 8, 16, 32]
