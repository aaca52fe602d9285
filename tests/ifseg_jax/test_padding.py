"""Images of any size run through a few padded programs, and nothing that is padded can be told from what is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ifseg_jax import inference, knn_average
from ifseg_jax.backbone import grid_size
from ifseg_jax.settings import Inference
from tests import compilations, micro
from vlseg.data.images import rescaled_size, resize_image
from vlseg.nn.resize import resize_bilinear

CATEGORIES = ("grass", "water", "tree", "house", "car")
ORIGINALS = ((40, 40), (60, 96), (82, 58), (40, 51), (80, 94))
"""Short sides become 40 pixels: grids of 5 x 5 to 8 x 5 cells, of which only 5 x 5 looks its positions up directly."""


@pytest.fixture(scope="module")
def model(micro_model):
    """The micro model under settings that no other test compiles, so that programs can be counted."""
    return dataclasses.replace(micro_model, config=dataclasses.replace(micro_model.config, dropout=0.123))


@pytest.fixture(scope="module")
def originals():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ORIGINALS]


@pytest.fixture(scope="module")
def images(model, originals):
    """The images at the sizes at which they are segmented."""
    sizes = [rescaled_size(*image.shape[:2], 40, 64) for image in originals]
    resized = [resize_image(image, size) for image, size in zip(originals, sizes, strict=True)]
    assert len({image.shape for image in resized}) == len(ORIGINALS)
    return resized


@pytest.fixture(scope="module")
def unpadded(model, images):
    """Logits [h, w, M] and features [h, w, C] of every image run at its own size."""
    words = model.embed(CATEGORIES)
    runs = [inference.predict(model.config, model.variables, words, image[None]) for image in images]
    return [(np.asarray(run.logits[0]), np.asarray(run.features[0])) for run in runs]


def assert_same(found, expected):
    """Equal within 1e-5 of the largest value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, rtol=0, atol=1e-5)


def test_segmenting_compiles_one_program_and_equals_running_unpadded(model, originals, images, unpadded):
    originals = originals[-2:]  # of 5 x 7 tokens and of 5 x 6
    assert {model.batch_key(image.shape, [model.inference]) for image in originals} == {(40, 56)}
    programs = inference.probabilities._cache_size()
    results = model.segment(originals, CATEGORIES)
    assert inference.probabilities._cache_size() == programs + 1
    settings = model.inference
    for original, result, (logits, features) in zip(originals, results, unpadded[-2:], strict=True):
        h, w, _ = logits.shape
        plain = jax.nn.softmax(logits).reshape(1, h * w, -1)
        expected = knn_average(plain, features.reshape(1, h * w, -1), settings.knn_k, settings.knn_iterations)
        np.testing.assert_allclose(result.scores.grid_probabilities, expected.reshape(logits.shape), rtol=0, atol=1e-5)
        pixels = np.asarray(resize_bilinear(expected.reshape(1, h, w, -1), *original.shape[:2])[0])
        assert result.label_map.shape == original.shape[:2] and result.label_map.dtype == np.int32
        chosen = np.take_along_axis(pixels, result.label_map[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(chosen, pixels.max(axis=-1), rtol=0, atol=1e-5)


def test_pictures_of_other_sizes_compile_nothing(model, originals):
    model.segment(originals[-1], CATEGORIES)
    images = [np.resize(originals[0], (*size, 3)) for size in [(40, 51), (81, 95), (150, 200)]]
    with compilations.counted() as programs:
        results = model.segment(images, CATEGORIES)
    assert programs == [] and results[2].label_map.shape == (150, 200)


def test_a_batch_of_different_sizes(model, images, unpadded):
    batch, sizes = inference.pad_images(images, model.config.stride, 64)
    assert batch.shape == (5, 64, 64, 3) and sizes.tolist() == [list(image.shape[:2]) for image in images]
    # What stands in the padding must not matter.
    batch = np.where(batch == 0, np.random.default_rng(1).integers(0, 256, batch.shape, dtype=np.uint8), batch)
    for row, image in enumerate(images):
        batch[row, : image.shape[0], : image.shape[1]] = image
    words = model.embed(CATEGORIES)
    prediction = inference.predict(model.config, model.variables, words, batch, sizes)
    np.testing.assert_array_equal(prediction.cells, [logits.shape[:2] for logits, _ in unpadded])
    for row, (logits, features) in enumerate(unpadded):
        h, w, _ = logits.shape
        assert_same(prediction.logits[row, :h, :w], logits)
        assert_same(prediction.features[row, :h, :w], features)


def test_averaging_on_padded_grids(unpadded):
    rows = columns = 8
    count = len(unpadded)
    cells = np.array([logits.shape[:2] for logits, _ in unpadded])
    rng = np.random.default_rng(2)
    probabilities = rng.random((count, rows, columns, len(CATEGORIES))).astype(np.float32)
    features = rng.normal(0, 100, (count, rows, columns, unpadded[0][1].shape[-1])).astype(np.float32)
    for row, (logits, own) in enumerate(unpadded):
        h, w, _ = logits.shape
        probabilities[row, :h, :w], features[row, :h, :w] = np.asarray(jax.nn.softmax(logits)), own
    mask = inference.cell_mask(jnp.asarray(cells), rows, columns)
    flat = [array.reshape(count, rows * columns, -1) for array in (probabilities, features)]
    averaged = np.asarray(knn_average(*flat, mask=mask)).reshape(probabilities.shape)
    for row, (h, w) in enumerate(cells):
        alone = [array[row, :h, :w].reshape(1, h * w, -1) for array in (probabilities, features)]
        np.testing.assert_allclose(averaged[row, :h, :w].reshape(h * w, -1), knn_average(*alone)[0], rtol=0, atol=1e-5)


@given(st.integers(1, 6000), st.sampled_from([8, 16]), st.sampled_from([64, 100, 512]))
def test_buckets(pixels, stride, short_side):
    side = inference.bucket_side(pixels, stride, short_side)
    assert side >= pixels and side % stride == 0
    assert inference.bucket_side(side, stride, short_side) == side  # a bucket holds its own length
    assert side <= inference.bucket_side(pixels + 1, stride, short_side)
    short, cells = -(-short_side // stride), -(-pixels // stride)
    assert side // stride == short if cells <= short else side // stride < 2 * cells + 1


@pytest.mark.parametrize("size", [(3, 200), pytest.param((1, 1), marks=pytest.mark.slow)])
def test_the_smallest_pictures(model, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = model.segment(Image.fromarray(pixels), CATEGORIES).label_map
    assert found.shape == size and (found >= 0).all()


def test_few_buckets_serve_all_sizes():
    settings = Inference()
    drawn = np.random.default_rng(0).integers(8, 5000, (2000, 2))
    sizes = [rescaled_size(*map(int, size), settings.short_side, settings.long_side) for size in drawn]
    found = {tuple(inference.bucket_side(side, 16, settings.short_side) for side in size) for size in sizes}
    assert len(found) == 9
    # Photographs of 4:3 and 3:2 are not padded at all.
    assert {(512, 688), (512, 768)} < found


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=4, max_size=4))
def test_valid_cells(sizes):
    for stages in (1, 2, 3):
        config, stride = dataclasses.replace(micro.IFSEG, resnet_stages=(1,) * stages), 2 ** (stages + 1)
        expected = [[-(-side // stride) for side in size] for size in sizes]
        np.testing.assert_array_equal(grid_size(np.asarray(sizes), config), expected)
    assert grid_size(None, micro.IFSEG) is None


def test_a_decoder_that_sees_all_and_reads_inputs(model, images):
    """Padded cells are no keys of a decoder without mask, and its inputs are those of the encoder in the same order."""
    options = {"full_context_alignment": True, "decoder_input_type": "encoder_input"}
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, **options))
    image = images[1]
    batch, sizes = inference.pad_images([image], model.config.stride, 64)
    batch = np.where(batch == 0, np.random.default_rng(1).integers(0, 256, batch.shape, dtype=np.uint8), batch)
    batch[0, : image.shape[0], : image.shape[1]] = image
    words = model.embed(CATEGORIES)
    padded = inference.predict(model.config, model.variables, words, batch, sizes).logits[0]
    expected = np.asarray(inference.predict(model.config, model.variables, words, image[None]).logits[0])
    assert_same(padded[: expected.shape[0], : expected.shape[1]], expected)
