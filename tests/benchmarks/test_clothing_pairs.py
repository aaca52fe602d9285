"""One word against "others": what is trained, and how held-out words are scored."""

import dataclasses

import numpy as np
import pytest

from benchmarks import clothing_folds
from benchmarks import clothing_training as training
from lseg_jax.settings import Training
from tests.benchmarks.toy_photographs import toy
from vlseg.data.examples import IGNORE_LABEL

NAMES = ("background", "bag", "coat", "hat")
OTHERS = 3
SAMPLING = Training(batch_size=4, seed=5, crop_size=32, class_share=0.5)


@pytest.fixture
def fit(monkeypatch):
    directions = {"background": 0, "bag": 1, "coat": 2, "hat": 3, "others": 4}

    def embeddings(names):
        return np.eye(5, dtype=np.float32)[[directions[name] for name in names]]

    monkeypatch.setattr(clothing_folds.clothing_features, "embeddings", embeddings)
    settings = dataclasses.replace(training.SETTINGS, steps=150, batch_size=2, warmup_steps=2, learning_rate=0.02)
    fit = clothing_folds.in_pairs(("hat",), toy(names=NAMES), settings)
    return dataclasses.replace(fit, features=8, levels=2)


def test_words_held_out_and_background_are_others(fit):
    assert fit.names == ("background", "bag", "coat", "others") and fit.against == OTHERS
    assert fit.classes == (OTHERS, 1, 2, OTHERS)


def test_every_window_has_one_word_that_it_shows_against_others(fit):
    data = toy(names=NAMES)
    data.labels[0, :4] = IGNORE_LABEL
    whole = training.batches(data, fit.classes, SAMPLING, against=None)
    pairs = training.batches(data, fit.classes, SAMPLING, against=OTHERS)
    assert whole(0).sets is None
    words = set()
    for step in range(20):
        batch = pairs(step)
        for level, target, (others, word) in zip(batch.levels[-1], batch.targets, batch.sets.tolist(), strict=True):
            assert others == OTHERS and word in (1, 2)
            unit = target.shape[0] // level.shape[0]
            counted = target[::unit, ::unit] != IGNORE_LABEL
            np.testing.assert_array_equal(level[..., 0][counted] == word, target[::unit, ::unit][counted] == 1)
            assert (target == 1).any()
            words.add(word)
    assert words == {1, 2}


@pytest.mark.slow
def test_a_word_is_told_from_others(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path))
    data, losses = toy(names=NAMES), []
    variables = training.run(fit, data, losses=losses)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    trained = clothing_folds.score_pairs(fit, variables, data, ("bag", "coat"))
    assert trained.miou > 0.45  # a third by calling everything the word


def test_scores_of_pairs_by_brute_force(fit, monkeypatch):
    data = toy(photographs=5, names=NAMES)
    data.labels[:2][data.labels[:2] == 3] = 0  # two photographs without the word
    predicted = np.random.default_rng(1).integers(0, 2, (2, *data.labels.shape)).astype(np.uint8)
    asked = []

    def predictions(fit, variables, data, questions):
        asked.extend(questions)
        return predicted

    monkeypatch.setattr(clothing_folds.clothing_training, "predictions", predictions)
    found = clothing_folds.score_pairs(fit, None, data, ("hat", "bag"))
    np.testing.assert_array_equal(asked, np.eye(5)[[[4, 3], [4, 1]]])
    sides = {0: [0, 0], 1: [0, 0]}
    for place, word in enumerate((3, 1)):
        shown = (data.labels == word).any(axis=(1, 2))
        seen, true = predicted[place][shown] == 1, data.labels[shown] == word
        assert found.iou[place] == pytest.approx((seen & true).sum() / (seen | true).sum())
        for side in sides:
            sides[side][0] += ((seen == side) & (true == side)).sum()
            sides[side][1] += ((seen == side) | (true == side)).sum()
    assert found.fb_iou == pytest.approx(np.mean([part / whole for part, whole in sides.values()]))


def test_the_table_of_pairs():
    scores = [clothing_folds.ForegroundMetrics(0.1 * number, 0.5, ()) for number in range(1, 6)]
    text = clothing_folds.pairs_table([{"held out": scores, "trained": scores[::-1]}] * 2)
    first, mean = text.splitlines()[2], text.splitlines()[-1]
    assert first.startswith("| 0: bag, belt, blazer, blouse, coat | 10.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 |")
    assert mean == "| mean | 30.0 ± 0.0 | 50.0 ± 0.0 | 30.0 ± 0.0 | 50.0 ± 0.0 |"
