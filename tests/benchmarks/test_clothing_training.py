"""Heads on cached features of toy photographs: the features, windows, the trainer, and words held out."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import (
    clothing_features,
    clothing_folds,
    clothing_heads,
)
from benchmarks import clothing_training as training
from benchmarks.clothing_features import HEIGHT, WIDTH
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.settings import Training
from tests.benchmarks.toy_photographs import toy
from vlseg.data.tiny_world import TinyWorldDataset
from vlseg.nn.resize import resize_picture


class Pooling(nn.Module):
    """An image encoder whose levels are the means over squares, and as many more channels of zeros."""

    def __call__(self, images):
        means = [nn.avg_pool(images, (stride, stride), (stride, stride)) for stride in (4, 8, 16, 32)]
        return [jax.numpy.pad(mean, ((0, 0),) * 3 + ((0, number),)) for number, mean in enumerate(means)]


@dataclasses.dataclass(frozen=True)
class PoolingConfig(EfficientNetConfig):
    def module(self, dtype="float32", remat="none"):
        return Pooling()


@pytest.mark.slow
def test_features_are_those_of_views_and_mirrored_views(tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    world = TinyWorldDataset("test", count=5)  # two batches, of which the second is not full
    monkeypatch.setattr(clothing_features, "open_dataset", lambda source: world)
    monkeypatch.setattr(
        clothing_features.encoders, "read_image", lambda path: (PoolingConfig(), {"params": {"image": {}}})
    )
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    found = clothing_features.features("anywhere", str(file))
    assert found.names == world.names
    assert [level.dtype for level in found.levels] == [np.float16] * 4
    assert [level.shape[1:] for level in found.levels] == [
        (2, 96, 64, 3),
        (2, 48, 32, 4),
        (2, 24, 16, 5),
        (2, 12, 8, 6),
    ]
    for index, example in enumerate(world):
        view = resize_picture(example.image, HEIGHT, WIDTH).round()
        normal = (view / 255 - np.array(EfficientNetConfig.mean)) / np.array(EfficientNetConfig.deviation)
        for mirrored, seen in enumerate((normal, normal[:, ::-1])):
            expected = seen.reshape(HEIGHT // 8, 8, WIDTH // 8, 8, 3).mean(axis=(1, 3))
            np.testing.assert_allclose(found.levels[1][index, mirrored, ..., :3], expected, atol=5e-3)
        rows, columns = (np.arange(side) * len(example.label) // side for side in (HEIGHT // 2, WIDTH // 2))
        assert np.mean(found.labels[index] == example.label[rows[:, None], columns]) > 0.99
    monkeypatch.setattr(clothing_features, "_compute", None)
    np.testing.assert_array_equal(clothing_features.features("anywhere", str(file)).levels[0], found.levels[0])
    file.write_bytes(b"two")  # other weights, other features
    with pytest.raises(TypeError):
        clothing_features.features("anywhere", str(file))


def test_windows_and_their_targets_belong_together():
    data = toy()
    settings = Training(batch_size=4, seed=5, crop_size=32)
    draw = training.batches(data, (3, 2, 1, 0), settings)
    for step in range(10):
        batch = draw(step)
        assert batch.targets.shape == (4, 96, 64)
        for level in batch.levels:
            unit = batch.targets.shape[1] // level.shape[1]
            np.testing.assert_array_equal(3 - level[..., 0], batch.targets[:, ::unit, ::unit])
    again = training.batches(data, (3, 2, 1, 0), settings)(9)
    np.testing.assert_array_equal(again.targets, batch.targets)


def test_rare_classes_are_drawn():
    data = toy(photographs=8)
    labels = np.minimum(data.labels, 2)
    labels[5, 100:102, 60:62] = 3
    draw = training.batches(
        data._replace(labels=labels), range(4), Training(batch_size=8, seed=1, crop_size=32, class_share=0.5)
    )
    shown = [(draw(step).targets == 3).any(axis=(1, 2)).mean() for step in range(20)]
    assert 0.12 < np.mean(shown) < 0.3  # an eighth by class, and windows of that photograph that happen to show it


@pytest.mark.parametrize(
    "kind", ["words", *(pytest.param(kind, marks=pytest.mark.slow) for kind in training.HEADS if kind != "words")]
)
def test_the_trainer_learns_a_toy(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path))
    data = toy()
    words = np.eye(4, 6, dtype=np.float32)
    settings = dataclasses.replace(training.SETTINGS, steps=40, batch_size=2, warmup_steps=2, learning_rate=0.02)
    fit = training.Fit(kind, data.names, words, (0, 1, 2, 3), settings, features=8, levels=2)
    losses = []
    variables = training.run(fit, data, losses=losses)
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    asked = [words, words[[1, 0, 2, 3]]] if kind == "words" else [None]
    found = training.predictions(fit, variables, data, asked)
    assert clothing_heads.metrics(found[0], data).aacc > 0.5
    if kind == "words":
        np.testing.assert_array_equal(found[1], np.array([1, 0, 2, 3])[found[0]])
        kept = training.trained(fit, data)
        np.testing.assert_array_equal(training.predictions(fit, kept, data, asked), found)
        monkeypatch.setattr(training, "run", None)
        training.trained(fit, data)  # from the cache


def test_words_held_out(monkeypatch):
    asked = []
    monkeypatch.setattr(
        clothing_folds.clothing_features, "embeddings", lambda names: asked.append(names) or np.zeros((len(names), 2))
    )
    fit = clothing_folds.held_out(("b", "d"), toy(), training.SETTINGS)
    assert fit.names == ("a", "c", "others") == asked[0]
    assert fit.classes == (0, 2, 1, 2)


def test_scores_of_a_fold_by_brute_force():
    data = toy(photographs=5)
    labels = data.labels.copy()
    labels[:2][labels[:2] == 3] = 0  # two photographs without the word
    data = data._replace(labels=labels)
    predicted = np.random.default_rng(1).integers(0, 5, labels.shape).astype(np.uint8)
    among = np.random.default_rng(2).integers(0, 2, labels.shape).astype(np.uint8)
    found = clothing_folds.result(predicted, among, data, ("d", "b"))
    assert found.told_apart == pytest.approx((np.mean(among[labels == 3] == 0) + np.mean(among[labels == 1] == 1)) / 2)
    sides = {0: [0, 0], 1: [0, 0]}
    for place, word in enumerate((3, 1)):
        seen, true = predicted == word, labels == word
        assert found.everywhere[place] == pytest.approx((seen & true).sum() / (seen | true).sum())
        shown = true.any(axis=(1, 2))
        seen, true = seen[shown], true[shown]
        assert found.episodes.iou[place] == pytest.approx((seen & true).sum() / (seen | true).sum())
        for side in sides:
            sides[side][0] += ((seen == side) & (true == side)).sum()
            sides[side][1] += ((seen == side) | (true == side)).sum()
    assert found.episodes.fb_iou == pytest.approx(np.mean([part / whole for part, whole in sides.values()]))
