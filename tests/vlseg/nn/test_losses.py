"""The loss in row blocks against the plain computation on upsampled logits of full size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.nn.resize import resize_bilinear

IGNORED = 255


def naive(
    logits: jax.Array,
    target: jax.Array,
    ignore_label: int = IGNORED,
    align_corners: bool = False,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Upsample everything, take the softmax of everything, average over what counts."""
    categories = logits.shape[-1]
    upsampled = resize_bilinear(logits, *target.shape[1:], align_corners=align_corners)
    counted = (target >= 0) & (target < categories) & (target != ignore_label)
    chosen = jnp.where(counted, target, 0)
    upsampled -= margin * jax.nn.one_hot(chosen, categories)
    logs = jax.nn.log_softmax(upsampled)
    losses = -(1 - label_smoothing) * jnp.take_along_axis(logs, chosen[..., None], axis=-1)[..., 0]
    losses -= label_smoothing * logs.mean(axis=-1)
    return jnp.where(counted, losses, 0).sum() / jnp.maximum(counted.sum(), 1)


@functools.partial(jax.jit, static_argnames=("row_block", "options"))
def _both(logits, target, row_block, options):
    options = dict(options)
    loss = functools.partial(upsampled_cross_entropy, row_block=row_block, **options)
    plain = functools.partial(naive, **options)
    return jax.value_and_grad(loss)(logits, target), jax.value_and_grad(plain)(logits, target)


def both(logits, target, row_block=16, ignore_label=IGNORED, **options):
    """Values and gradients of the loss and of the plain computation."""
    return _both(logits, target, row_block, tuple({"ignore_label": ignore_label, **options}.items()))


def assert_equal(results):
    (value, gradient), (expected_value, expected_gradient) = results
    np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "pixels", "row_block"),
    [
        ((4, 5), (64, 80), 16),  # the official factor, whole blocks
        ((3, 3), (29, 31), 4),  # odd sizes, a last block of one row
        ((4, 2), (6, 7), 100),  # a block larger than the image
        ((6, 5), (4, 3), 3),  # fewer pixels than cells
        ((1, 1), (5, 1), 1),
    ],
)
def test_sizes_and_blocks(grid, pixels, row_block):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, *grid, 4)).astype(np.float32)
    target = rng.integers(0, 4, (2, *pixels))
    target[rng.random(target.shape) < 0.2] = IGNORED
    assert_equal(both(logits, target, row_block=row_block))


def test_aligned_corners():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (2, 4, 5, 4)).astype(np.float32)
    target = rng.integers(0, 4, (2, 8, 10))
    assert_equal(both(logits, target, align_corners=True))


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_label_smoothing(margin):
    """Also of pixels that are cells, as the loss of tokens takes them; ignored pixels count nothing."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, (2, 4, 5, 6)).astype(np.float32)
    for scale in (1, 2):
        target = rng.integers(0, 6, (2, 4 * scale, 5 * scale))
        target[rng.random(target.shape) < 0.2] = IGNORED
        smooth = both(logits, target, margin=margin, label_smoothing=0.2)
        assert_equal(smooth)
        assert abs(smooth[0][0] - both(logits, target, margin=margin)[0][0]) > 1e-3


def test_a_margin_lowers_the_target_alone():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (2, 4, 5, 4)).astype(np.float32)
    target = rng.integers(0, 4, (2, 8, 10))
    target[rng.random(target.shape) < 0.2] = IGNORED
    results = both(logits, target, row_block=3, margin=5.0)
    assert_equal(results)
    assert results[0][0] > both(logits, target)[0][0] + 1


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 80), st.floats(0, 1), st.sampled_from([-1, 5, IGNORED, 10**6]))
def test_labels_that_do_not_count(seed, scale, rate, outside):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (2, 3, 2, 5)).astype(np.float32)
    target = rng.integers(0, 5, (2, 10, 9))
    target[rng.random(target.shape) < rate] = outside
    results = both(logits, target, row_block=4)
    assert_equal(results)
    # What an example's pixels do not say cannot move its logits.
    silent = (target == outside).all(axis=(1, 2))
    assert (np.asarray(results[0][1])[silent] == 0).all()


def test_an_ignored_label_below_the_number_of_categories():
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((1, 2, 2, 3)).astype(np.float32), rng.integers(0, 3, (1, 8, 8))
    assert_equal(both(logits, target, ignore_label=1))
    changed = both(logits + np.array([0, 9, 0], np.float32), np.where(target == 1, IGNORED, target), ignore_label=1)
    assert changed[0][0] > both(logits, target, ignore_label=1)[0][0]  # it still stands in the softmax


def test_a_count_for_each_image():
    """The sum of the images' own means; one without a pixel that counts adds nothing."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (3, 4, 5, 4)).astype(np.float32)
    target = rng.integers(0, 4, (3, 8, 10))
    target[1], target[2, :5] = IGNORED, IGNORED
    count = counted_pixels(target, 4, axis=(1, 2))
    np.testing.assert_array_equal(count, [80, 0, 30])
    value, gradient = jax.value_and_grad(functools.partial(upsampled_cross_entropy, count=count))(logits, target)
    expected = [jax.value_and_grad(naive)(logits[one : one + 1], target[one : one + 1]) for one in range(3)]
    np.testing.assert_allclose(value, sum(float(loss) for loss, _ in expected), rtol=1e-5)
    slopes = np.concatenate([slope for _, slope in expected])
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]))
def test_weights_of_categories_and_pixels_that_are_left_out(seed, every):
    """As the plain losses of the middle pixels of squares, each times its category's weight."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, 4, 5, 4)).astype(np.float32)
    target = rng.integers(0, 4, (2, 9, 10))
    target[rng.random(target.shape) < 0.2] = IGNORED
    weights = rng.exponential(size=(2, 4)).astype(np.float32)
    seen = (slice(None), slice(every // 2, None, every), slice(every // 2, None, every))
    kept = np.full_like(target, IGNORED)
    kept[seen] = target[seen]

    def plain(logits):
        logs = jax.nn.log_softmax(resize_bilinear(logits, 9, 10, align_corners=False))
        total, count = 0.0, 0.0
        for image in range(2):
            for category in range(4):
                hit = kept[image] == category
                total -= weights[image, category] * jnp.sum(jnp.where(hit, logs[image, ..., category], 0))
                count += weights[image, category] * hit.sum()
        return total / count

    def ours(logits):
        return upsampled_cross_entropy(logits, target, row_block=4, weights=weights, every=every)

    assert_equal((jax.value_and_grad(ours)(logits), jax.value_and_grad(plain)(logits)))
    parts = counted_pixels(target, 4, axis=(1, 2), weights=weights, every=every)
    counted = [sum(weights[image, c] * (kept[image] == c).sum() for c in range(4)) for image in range(2)]
    np.testing.assert_allclose(parts, counted, rtol=1e-5)


def test_nothing_counts():
    value, gradient = jax.value_and_grad(upsampled_cross_entropy)(jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), IGNORED))
    assert value == 0 and (gradient == 0).all()


def test_uniform_logits_cost_the_logarithm_of_the_categories():
    loss = upsampled_cross_entropy(jnp.full((1, 2, 2, 7), 3.0), jnp.zeros((1, 8, 8), jnp.int32))
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_the_gradient_scales_with_what_follows():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 2, 3)), jnp.float32)
    target = jnp.zeros((1, 6, 6), jnp.int32)
    single = jax.grad(upsampled_cross_entropy)(logits, target)
    scaled = jax.grad(lambda logits: 5 * upsampled_cross_entropy(logits, target) ** 2)(logits)
    expected = 10 * upsampled_cross_entropy(logits, target) * single
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_logits():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 2, 3)), jnp.bfloat16)
    target = jnp.zeros((1, 6, 6), jnp.int32)
    value, gradient = jax.value_and_grad(upsampled_cross_entropy)(logits, target)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, naive(logits.astype(jnp.float32), target), rtol=1e-5)
