"""What the correlation of pixels and words promises."""

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax.encoders.base import normalized
from lseg_jax.lseg import LSegNet
from tests import micro

CONTEXT, VOCABULARY, WIDTH = micro.TEXT.context, micro.TEXT.vocabulary, micro.TEXT.features


def unit_vectors(seed, *shape):
    return normalized(np.random.default_rng(seed).standard_normal((*shape, WIDTH)))


def correlate(pixels, labels):
    return np.asarray(LSegNet(micro.LSEG).apply({}, pixels, labels, method=LSegNet.cell_logits))


def test_logits_are_cosines_over_the_temperature_of_one_label_each():
    pixels, labels = unit_vectors(0, 2, 32, 48), unit_vectors(1, 5)
    found = correlate(pixels, labels)
    assert found.shape == (2, 32, 48, 5) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, pixels @ labels.T / 0.07, rtol=0, atol=1e-4)
    order = np.array([2, 0, 3, 1, 4])
    np.testing.assert_array_equal(correlate(pixels, labels[order]), found[..., order])
    np.testing.assert_allclose(correlate(pixels, labels[:4]), found[..., :4], rtol=0, atol=1e-5)


def test_label_sets_may_differ_by_image():
    pixels, labels = unit_vectors(0, 2, 32, 48), unit_vectors(2, 2, 3)
    together = correlate(pixels, labels)
    for index in range(2):
        alone = correlate(pixels[index : index + 1], labels[index])
        np.testing.assert_allclose(together[index : index + 1], alone, rtol=0, atol=1e-5)


def test_what_comes_after_the_end_of_a_text_does_not_count(micro_model):
    """The end token has the largest id."""
    tokens = np.zeros((2, CONTEXT), np.int32)
    tokens[:, :3] = VOCABULARY - 2, 3, VOCABULARY - 1
    tokens[1, 3:] = 11
    one, other = jax.jit(lambda tokens: LSegNet(micro.LSEG).apply(micro_model.variables, tokens, method="encode_text"))(
        tokens
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(one), 1, rtol=0, atol=1e-5)
