"""What the correlation of pixels and words promises, on micro models of both patch sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lseg_jax.config import LSegConfig, TextConfig, ViTConfig
from lseg_jax.lseg import LSegNet, normalized

TEXT = TextConfig(width=64, heads=2, layers=2, features=24, context=6, vocabulary=50)
TOKENS = np.array([[48, 3, 49, 0, 0, 0], [48, 7, 8, 9, 49, 0], [48, 5, 49, 0, 0, 0], [48, 6, 2, 49, 0, 0]])
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=[16, 32], ids=["patch 16", "patch 32"])
def config(request):
    image = ViTConfig(patch=request.param, width=64, heads=2, layers=4, grid=3, reassembled=(8, 12, 16, 20))
    return LSegConfig(TEXT, image, features=16)


@pytest.fixture(scope="module")
def variables(config):
    return jax.jit(LSegNet(config).init)(jax.random.key(0), IMAGES, TOKENS)


@pytest.fixture(scope="module")
def pixels(config, variables):
    return jax.jit(lambda images: LSegNet(config).apply(variables, images, method=LSegNet.encode_pixels))(IMAGES)


def test_embeddings_have_unit_length(config, variables, pixels):
    labels = LSegNet(config).apply(variables, TOKENS, method=LSegNet.encode_text)
    assert pixels.shape == (2, 32, 48, 24) and labels.shape == (4, 24)
    for embeddings in (pixels, labels):
        np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1.0, rtol=0, atol=1e-5)


def test_logits_have_the_size_of_the_image(config, variables):
    logits = jax.jit(LSegNet(config).apply)(variables, IMAGES, TOKENS)
    assert logits.shape == (2, 64, 96, 4) and logits.dtype == jnp.float32
    assert np.abs(logits).max() <= 1 / 0.07 + 1e-4  # cosines over the temperature


def correlate(config, pixels, labels):
    return np.asarray(LSegNet(config).apply({}, pixels, labels, method=LSegNet.correlate))


def test_the_order_of_labels_is_the_order_of_logits(config, pixels):
    labels = normalized(np.random.default_rng(1).standard_normal((4, 24)))
    order = np.array([2, 0, 3, 1])
    found = correlate(config, pixels, labels[order])
    np.testing.assert_array_equal(found, correlate(config, pixels, labels)[..., order])


def test_another_label_leaves_the_others_alone(config, pixels):
    labels = normalized(np.random.default_rng(1).standard_normal((5, 24)))
    np.testing.assert_allclose(
        correlate(config, pixels, labels)[..., :4], correlate(config, pixels, labels[:4]), rtol=0, atol=1e-5
    )


def test_label_sets_may_differ_by_image(config, pixels):
    labels = normalized(np.random.default_rng(2).standard_normal((2, 3, 24)))
    together = correlate(config, pixels, labels)
    for index in range(2):
        alone = correlate(config, pixels[index : index + 1], labels[index])
        np.testing.assert_allclose(together[index : index + 1], alone, rtol=0, atol=1e-5)


def test_what_comes_after_the_end_of_a_text_does_not_count(config, variables):
    model = LSegNet(config)
    changed = TOKENS.copy()
    changed[0, 3:] = 11
    one, other = (model.apply(variables, tokens, method=LSegNet.encode_text) for tokens in (TOKENS, changed))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_training_updates_the_statistics_of_the_decoder(config, variables):
    model = LSegNet(config)
    _, updated = model.apply(variables, IMAGES, train=True, method=LSegNet.encode_pixels, mutable=["batch_stats"])
    before, after = (jax.tree.leaves(tree["batch_stats"]) for tree in (variables, updated))
    assert len(before) == len(after) == 7 * 2 * 2  # residual units, norms, mean and variance
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
