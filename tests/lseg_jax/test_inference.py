"""Whole images through windows, against plain NumPy around `LSeg.logits`; and many labels, chunk by chunk."""

import dataclasses
import math

import numpy as np
import pytest

from lseg_jax import Scheme, inference
from lseg_jax.inference import WindowScores
from lseg_jax.lseg import LOGIT_SCALE
from tests import compilations
from vlseg.errors import VocabularyError
from vlseg.evaluation import sliding_window
from vlseg.evaluation.tiles import TILE

CROP, STRIDE = 64, 42
LABELS = ("cat", "a dog", "grass", "sky", "other")
SEVERAL = Scheme(base_size=64, crop_size=CROP, scales=(0.75, 1.5), flip=True)
BLOCKS = ["micro_model", "micro_depthwise", "micro_bottleneck"]


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


def resized(x, height, width):
    """Bilinear with aligned corners."""

    def weights(source, target):
        places = np.arange(target)[:, None] * ((source - 1) / max(target - 1, 1))
        return np.maximum(0, 1 - np.abs(places - np.arange(source)))

    return np.einsum("yh,xw,hwc->yxc", weights(x.shape[0], height), weights(x.shape[1], width), x, optimize=True)


def expected(model, image, scheme, labels, window=(CROP, CROP)):
    """Mean logits by the official evaluation as it is described, or with other windows: float64 [H, W, N]."""
    mean, deviation = np.array(model.config.mean), np.array(model.config.deviation)
    height, width = image.shape[:2]
    total = np.zeros((height, width, len(labels)))
    for scale in scheme.scales:
        long_side = math.ceil(scheme.base_size * scale)
        rows = long_side if height > width else int(height * long_side / width + 0.5)
        columns = int(width * long_side / height + 0.5) if height > width else long_side
        small = resized((image / 255 - mean) / deviation, rows, columns)
        steps = [math.ceil(max(side - CROP, 0) / STRIDE) + 1 for side in (rows, columns)]
        sides = [side + (step - 1) * STRIDE for side, step in zip(window, steps, strict=True)]
        canvas = np.broadcast_to(-mean / deviation, (*sides, 3)).copy()
        canvas[:rows, :columns] = small
        scores, seen = np.zeros((*canvas.shape[:2], len(labels))), np.zeros((*canvas.shape[:2], 1))
        for top, left in np.ndindex(*steps):
            part = np.s_[top * STRIDE : top * STRIDE + window[0], left * STRIDE : left * STRIDE + window[1]]
            pixels = canvas[part][None].astype(np.float32)
            scores[part] += np.asarray(model.logits(pixels, labels)[0])
            if scheme.flip:
                scores[part] += np.asarray(model.logits(pixels[:, :, ::-1], labels)[0])[:, ::-1]
            seen[part] += 1
        total += resized((scores / seen)[:rows, :columns], height, width)
    return total / (len(scheme.scales) * (2 if scheme.flip else 1))


def all_similarities(result):
    """[H, W, N] by label, of a segmentation with as many top labels as there are."""
    found = np.empty_like(result.top_similarities)
    np.put_along_axis(found, result.top_labels, result.top_similarities, axis=-1)
    return found


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("micro_model", (64, 64), Scheme(64, CROP)),
        ("micro_model", (30, 100), Scheme(64, CROP)),
        ("micro_model", (90, 70), SEVERAL),
        ("micro_depthwise", (70, 90), SEVERAL),
        ("micro_bottleneck", (20, 24), SEVERAL),
        ("micro_resnet", (60, 50), Scheme(64, CROP)),
        ("micro_model", (141, 265), SEVERAL),
    ],
)
def test_official_evaluation(request, name, size, scheme):
    model = dataclasses.replace(request.getfixturevalue(name), inference=scheme)
    image = picture(*size)
    result = model.segment(image, LABELS, top_k=len(LABELS))
    logits = expected(model, image, scheme, LABELS)
    np.testing.assert_allclose(all_similarities(result) * LOGIT_SCALE, logits, rtol=0, atol=2e-4)
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(result.probabilities, softmax / softmax.sum(-1, keepdims=True), rtol=0, atol=1e-4)
    ordered = np.sort(logits, axis=-1)
    clear = ordered[..., -1] - ordered[..., -2] > 1e-3
    assert clear.mean() > 0.5 and len(np.unique(result.label_map)) > 1
    np.testing.assert_array_equal(result.label_map[clear], logits.argmax(-1)[clear])


@pytest.mark.parametrize(
    ("name", "size", "scales", "window"),
    [("micro_model", (60, 30), (1.0,), (64, 32)), ("micro_depthwise", (25, 90), (0.5, 1.5), (32, 64))],
)
def test_trimmed_windows(request, monkeypatch, name, size, scales, window):
    monkeypatch.setattr(sliding_window, "TRIM_STEP", 32)
    scheme = Scheme(64, CROP, scales=scales, flip=True, trim=True)
    model = dataclasses.replace(request.getfixturevalue(name), inference=scheme)
    image = picture(*size)
    result = model.segment(image, LABELS, top_k=len(LABELS))
    logits = expected(model, image, scheme, LABELS, window)
    np.testing.assert_allclose(all_similarities(result) * LOGIT_SCALE, logits, rtol=0, atol=2e-4)
    squares = dataclasses.replace(model, inference=dataclasses.replace(scheme, trim=False))
    squares = squares.segment(image, LABELS, top_k=len(LABELS))
    assert np.abs(all_similarities(result) - all_similarities(squares)).max() > 0


def test_several_windows_at_a_time(micro_model):
    image = picture(100, 70)
    one = WindowScores(micro_model.config, SEVERAL, micro_model.variables, image, embeddings(5))
    many = dataclasses.replace(one, batch_size=4)
    np.testing.assert_allclose(one.top(5)[1], many.top(5)[1], rtol=0, atol=1e-5)


def test_pictures_of_other_sizes_compile_nothing(micro_model):
    model = dataclasses.replace(micro_model, inference=Scheme(64, CROP))
    model.segment(picture(60, 50), LABELS)
    with compilations.counted() as programs:
        results = [model.segment(picture(*size), LABELS) for size in [(30, 64), (61, 50), (200, 90), (130, 300)]]
    assert programs == [] and [result.label_map.shape for result in results][2:] == [(200, 90), (130, 300)]


def test_what_is_not_a_number_is_no_label(micro_model):
    labels = embeddings(5)
    labels[:] = np.nan
    scores = scores_of(micro_model, labels)
    assert (scores.label_map() == -1).all() and (scores.top(2)[0] == -1).all()


# Many labels


def embeddings(count, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, 24)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def scores_of(model, labels, size=(60, 50)):
    return WindowScores(model.config, Scheme(64, CROP), model.variables, picture(*size), labels)


def ranked(model, labels, top_k, size=(60, 50)):
    found, similarities = scores_of(model, labels, size).top(top_k)
    return similarities, found


@pytest.mark.parametrize(
    ("name", "summed"), [("micro_model", True), ("micro_model", False), ("micro_depthwise", False), (BLOCKS[2], False)]
)
def test_chunks_are_as_one_piece(request, monkeypatch, name, summed):
    model, labels = request.getfixturevalue(name), embeddings(75)
    # Of a large picture there are fewer cells than pixels.
    size = (60, 50) if summed else (150, 140)
    values, best = ranked(model, labels, 5, size)
    assert best.max() > 64 and (np.diff(values, axis=-1) <= 0).all()
    monkeypatch.setattr(inference, "SCORES", TILE**2 * 33)
    chunks = [(tile, start, scores.shape) for tile, start, scores in scores_of(model, labels, size).chunks()]
    tiles = [(0, 0)] if summed else [(0, 0), (0, TILE), (TILE, 0), (TILE, TILE)]
    assert {shape for _, _, shape in chunks} == {(TILE, TILE, 32)}
    assert sorted((tile, start) for tile, start, _ in chunks) == [(t, n) for t in tiles for n in (0, 32, 64)]
    chunked, found = ranked(model, labels, 5, size)
    np.testing.assert_allclose(chunked, values, rtol=0, atol=1e-5)
    gaps = -np.diff(ranked(model, labels, 6, size)[0], axis=-1)
    clear = (gaps > 1e-5).all(-1)
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found[clear], best[clear])


@pytest.mark.parametrize("name", BLOCKS)
def test_of_equal_labels_the_first_is_best(request, monkeypatch, name):
    model = request.getfixturevalue(name)
    labels = np.eye(24, dtype=np.float32)[np.arange(75) % 7]  # products with them are exact
    values, best = ranked(model, labels, 5)
    assert best[..., 0].max() < 7 and len(np.unique(best[..., 0])) > 1
    np.testing.assert_array_equal(np.diff(best, axis=-1), 7)
    monkeypatch.setattr(inference, "SCORES", TILE**2 * 33)
    chunked, found = ranked(model, labels, 5)
    np.testing.assert_array_equal(found, best)
    np.testing.assert_allclose(chunked, values, rtol=0, atol=1e-5)


def test_more_labels_to_rank_than_a_chunk_has(micro_model, monkeypatch):
    monkeypatch.setattr(inference, "SCORES", 1)
    _, best = ranked(micro_model, embeddings(40), 34)
    assert (np.sort(best, axis=-1)[..., 1:] > np.sort(best, axis=-1)[..., :-1]).all() and best.min() == 0


@pytest.mark.parametrize(
    ("labels", "cells", "expected"),
    [(150, 2 * 240**2, 150), (512, 18 * 240**2, 512), (10_000, 2 * 240**2, 288), (10_000, 10**9, 32), (10_000, 1, 512)],
)
def test_size_of_chunks(labels, cells, expected):
    assert inference.chunk_size(labels, 512, cells) == expected


def test_probabilities_of_many_labels(micro_model, monkeypatch):
    scores = scores_of(micro_model, embeddings(75))
    whole = scores.probabilities()
    monkeypatch.setattr(inference, "SCORES", TILE**2 * 33)
    chunked = scores.probabilities()
    assert chunked.shape == (60, 50, 75) and chunked.dtype == np.float32
    np.testing.assert_allclose(chunked, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(chunked.sum(-1), 1, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_five_thousand_labels(micro_model):
    labels = [f"label {i}" for i in range(5000)]
    model = dataclasses.replace(micro_model, known=dict(zip(labels, embeddings(5000), strict=True)))
    result = model.segment(picture(60, 50), labels)
    assert result.labels == tuple(labels) and result.label_map.max() > 4096


def test_a_bottleneck_has_a_limit(micro_bottleneck):
    with pytest.raises(VocabularyError, match=r"2049 labels .* at most 2048"):
        ranked(micro_bottleneck, embeddings(2049), 1)


def test_the_most_probable_label_chunk_by_chunk(micro_bottleneck, monkeypatch):
    model = micro_bottleneck
    image, embeddings = picture(50, 70), model.encode_text([f"label {number}" for number in range(70)])
    found = WindowScores(model.config, model.inference, model.variables, image, embeddings)
    probabilities = found.probabilities()
    assert probabilities.shape == (50, 70, 70)
    for scores in (inference.SCORES, 1):
        monkeypatch.setattr(inference, "SCORES", scores)  # one chunk, and three of which the last is not full
        labels, highest = map(np.asarray, found.most_probable())
        assert labels.dtype == np.int32 and labels.shape == highest.shape == (50, 70)
        assert len(np.unique(labels)) > 3 and np.unique(labels).max() > 32
        np.testing.assert_allclose(highest, probabilities.max(axis=-1), rtol=1e-4)
        chosen = np.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(chosen, highest, rtol=1e-4)
    among = np.array([2, 35, 36, 69])
    labels, share = found.most_probable(among)
    allowed = probabilities[..., among]
    np.testing.assert_allclose(share, allowed.max(axis=-1) / allowed.sum(axis=-1), rtol=1e-4)
    chosen = np.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, allowed.max(axis=-1), rtol=1e-4)
