"""The dense CRF against its definition, pair by pair, and against recorded outputs of pydensecrf2."""

import math
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.errors import ConfigError, ImageError
from vlseg.evaluation import crf
from vlseg.evaluation.crf import COLUMNS, CRF, refine
from vlseg.evaluation.permutohedral import Lattice
from vlseg.nn.resize import resize_bilinear
from vlseg.scores import RefinedScores, Scores

GOLDEN = sorted((Path(__file__).parent / "golden").glob("crf_*.npz"))
WIDE = CRF(iterations=4, gaussian_deviation=1.5, bilateral_deviation=5.0, colour_deviation=20.0)
"""Kernels that reach far on small pictures, so that every term of the sums counts."""


def drawn(height, width, labels, seed=0):
    """Probabilities, and an image of two noisy halves."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(labels), (height, width)).astype(np.float32)
    image = rng.integers(0, 40, (height, width, 3)) + np.where(np.arange(width) < width // 2, 60, 180)[:, None]
    return probabilities, image.astype(np.uint8)


def kernel(features):
    """Normalised weights of all pairs, one by one."""
    count = len(features)
    weights = [
        [math.exp(-sum((a - b) ** 2 for a, b in zip(features[i], features[j], strict=True)) / 2) for j in range(count)]
        for i in range(count)
    ]
    sums = [sum(row) for row in weights]
    return [[weights[i][j] / math.sqrt(sums[i] * sums[j]) for j in range(count)] for i in range(count)]


def mean_field(probabilities, image, settings):
    """Krähenbühl and Koltun (2011), algorithm 1, with Potts compatibility, in float64 and loops over pixels."""
    height, width, labels = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    near = kernel([(y / settings.gaussian_deviation, x / settings.gaussian_deviation) for y, x in pixels])
    alike = kernel(
        [
            (
                *(at / settings.bilateral_deviation for at in (y, x)),
                *(float(c) / settings.colour_deviation for c in image[y, x]),
            )
            for y, x in pixels
        ]
    )
    unary = [[-math.log(min(max(float(p), 1e-5), 1.0)) for p in probabilities[pixel]] for pixel in pixels]

    def normalised(energies):
        exponentials = [math.exp(-energy) for energy in energies]
        return [value / sum(exponentials) for value in exponentials]

    q = [normalised(energies) for energies in unary]
    for _ in range(settings.iterations):
        new = []
        for i in range(len(pixels)):
            energies = []
            for label in range(labels):
                # What the other labels cost is, up to a constant, what the same label saves.
                saved = sum(
                    (settings.gaussian_weight * near[i][j] + settings.bilateral_weight * alike[i][j]) * q[j][label]
                    for j in range(len(pixels))
                )
                energies.append(unary[i][label] - saved)
            new.append(normalised(energies))
        q = new
    return np.array(q).reshape(probabilities.shape)


@pytest.mark.parametrize(("height", "width", "labels"), [(1, 1, 2), (4, 6, 1), (5, 7, 2), (9, 4, 5)])
def test_exact_kernels_are_the_definition(height, width, labels):
    probabilities, image = drawn(height, width, labels)
    probabilities[0, 0] = np.eye(labels)[0]  # zeros are clipped
    for picture in (image, np.full_like(image, 90)):
        found = refine(probabilities, picture, CRF(**vars(WIDE) | {"exact": True}))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, mean_field(probabilities, picture, WIDE), atol=1e-5, rtol=0)


def test_blocks_of_exact_kernels_add_up(monkeypatch):
    probabilities, image = drawn(7, 8, 3)
    settings = CRF(**vars(WIDE) | {"exact": True})
    whole = refine(probabilities, image, settings)
    monkeypatch.setattr(crf, "BLOCK", 5 * 56)
    np.testing.assert_allclose(refine(probabilities, image, settings), whole, atol=1e-6)


def test_a_constant_image_of_constant_probabilities_stays_constant():
    probabilities = np.tile(np.float32([0.2, 0.5, 0.3]), (6, 5, 1))
    image = np.full((6, 5, 3), 77, np.uint8)
    for exact in (False, True):
        found = refine(probabilities, image, CRF(10, exact=exact))
        assert (found.argmax(-1) == 1).all() and found[..., 1].min() > 0.9


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("labels", [1, 2, COLUMNS + 3])
def test_probabilities_sum_to_one(exact, labels):
    probabilities, image = drawn(13, 11, labels)
    found = refine(probabilities, image, CRF(10, exact=exact))
    assert found.shape == probabilities.shape and found.dtype == np.float32 and found.min() >= 0
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_labels_do_not_depend_on_their_order():
    probabilities, image = drawn(12, 14, COLUMNS + 5)
    order = np.random.default_rng(1).permutation(COLUMNS + 5)
    found = refine(probabilities, image, CRF(5))
    np.testing.assert_allclose(refine(probabilities[..., order], image, CRF(5)), found[..., order], atol=1e-5)


def test_no_iteration_changes_nothing():
    probabilities, image = drawn(5, 6, 3)
    np.testing.assert_array_equal(refine(probabilities, image, CRF()), probabilities)


def test_edges_of_the_image_win():
    """Blurred probabilities of two halves that differ in colour become sharp where the colours meet."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[:, :20] = 200
    left = np.clip((22 - np.arange(32)) / 12, 0.05, 0.95)  # the border is seen at 16, four pixels from the true one
    probabilities = np.tile(np.stack([left, 1 - left], -1).astype(np.float32), (24, 1, 1))
    for exact in (False, True):
        found = refine(probabilities, image, CRF(10, exact=exact)).argmax(-1)
        assert (found[:, :20] == 0).all() and (found[:, 20:] == 1).all()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_lattice_gives_what_pydensecrf_gives(path):
    """Crops of photographs with probabilities of a coarse grid, recorded by golden/record_crf.py."""
    with np.load(path) as recorded:
        image, labels = recorded["image"], recorded["label_map"]
        probabilities = np.asarray(resize_bilinear(jnp.asarray(recorded["grid"])[None], *labels.shape)[0])
        found = refine(probabilities, image, CRF(iterations=10))
        np.testing.assert_allclose(found, recorded["refined"] / 255, atol=0.01)
    changed = probabilities.argmax(-1) != labels
    equal = found.argmax(-1) == labels
    assert changed.mean() > 0.05 and equal.mean() > 0.999 and equal[changed].mean() > 0.995


def test_there_are_three_recorded_photographs():
    assert len(GOLDEN) == 3


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_the_lattice_filters_like_a_gaussian(dimensions):
    """Values of a dense cloud of points: sums follow the true ones, weighted means agree within some percent."""
    rng = np.random.default_rng(dimensions)
    points = rng.uniform(0, 4, (1500, dimensions)).astype(np.float32)
    values = np.stack([np.ones(1500), np.sin(points.sum(1)), points[:, 0] / 4], 1).astype(np.float32)
    weights = np.exp(-((points[:, None].astype(float) - points) ** 2).sum(-1) / 2)
    expected = weights @ values
    found = Lattice(points).filter(values)
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.98
    differences = np.abs(found[:, 1:] / found[:, :1] - expected[:, 1:] / expected[:, :1])
    assert differences.mean() < 0.025 and differences.max() < 0.2


class Drawn(Scores):
    def __init__(self):
        self.asked = 0

    def probabilities(self):
        self.asked += 1
        return drawn(6, 9, 4)[0]


def test_all_follows_from_refined_probabilities():
    """Of the best labels, once as many are found, without computing them again."""
    scores, image = Drawn(), drawn(6, 9, 4)[1]
    refined = RefinedScores(scores, image, WIDE)
    assert scores.asked == 0
    expected = refine(scores.probabilities(), image, WIDE)
    scores.asked = 0
    for count, asked in ((1, 1), (3, 2), (2, 2)):
        labels, values = refined.top(count)
        np.testing.assert_array_equal(labels, np.argsort(-expected, axis=-1, kind="stable")[..., :count])
        np.testing.assert_array_equal(values, np.take_along_axis(expected, labels, axis=-1))
        np.testing.assert_array_equal(refined.label_map(), expected.argmax(-1))
        np.testing.assert_array_equal(refined.most_probable(), (expected.argmax(-1), expected.max(-1)))
        assert scores.asked == asked
    np.testing.assert_array_equal(refined.probabilities(), expected)
    assert scores.asked == 3


def test_refined_scores_need_little_memory():
    """A list of results does not hold the probabilities of all labels."""

    class Many(Scores):
        def probabilities(self):
            return drawn(16, 16, 100)[0]

    settings, image, size = CRF(1, exact=True), drawn(16, 16, 1)[1], 16 * 16 * 100 * 4
    kept = [RefinedScores(Many(), image, settings) for _ in range(9)]
    kept[0].top(2)  # what is compiled and imported stays
    tracemalloc.start()
    try:
        found = [(one.probabilities(), one.label_map()) and one.top(2) for one in kept[1:]]
        assert len(found) == 8 and tracemalloc.get_traced_memory()[0] < 3 * size
    finally:
        tracemalloc.stop()


def test_what_does_not_fit_is_refused_in_one_line():
    probabilities, image = drawn(5, 6, 3)
    for bad in (image[:4], image.astype(np.float32), image[..., 0]):
        with pytest.raises(ImageError, match=r"^a CRF needs probabilities \[H, W, M\] and an image uint8.*$"):
            refine(probabilities, bad, CRF(1))
    probabilities[2, 3, 1] = np.nan
    with pytest.raises(ImageError, match="not all finite"):
        refine(probabilities, image, CRF(1))
    with pytest.raises(ConfigError, match="129 x 128 pixels is too large for an exact CRF, which takes 16384"):
        refine(np.ones((129, 128, 1), np.float32), np.zeros((129, 128, 3), np.uint8), CRF(1, exact=True))
    with pytest.raises(ConfigError, match="too many deviations apart"):
        Lattice(np.float32([[0] * 5, [1e5] * 5]))


@pytest.mark.parametrize(
    "wrong", [{"iterations": -1}, {"iterations": 1.5}, {"colour_deviation": 0.0}, {"bilateral_weight": -1.0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        CRF(**wrong)
