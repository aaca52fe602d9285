"""Comparisons on the clothing data set: words, counts, curves, windows and trainer, without its photographs."""

import csv
import dataclasses
import io
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import (
    clothing_features,
    clothing_folds,
    clothing_heads,
    clothing_metrics,
    clothing_plot,
    clothing_questions,
)
from benchmarks import clothing_training as training
from benchmarks.clothing_features import HEIGHT, LABEL_STRIDE, WIDTH, Features
from benchmarks.clothing_questions import BINS, MARGIN_EDGES, SIMILARITY_EDGES, Questions
from benchmarks.clothing_words import HYPERNYMS, PAIRS, SYNONYMS, WORDS, Word
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.model import load
from lseg_jax.settings import Training
from vlseg.data.tiny_world import TinyWorldDataset
from vlseg.errors import ConfigError
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.foreground import ForegroundMetrics
from vlseg.nn.resize import resize_picture

NAMES = (
    *("background", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra", "bracelet"),
    *("cape", "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses", "gloves", "hair"),
    *("hat", "heels", "hoodie", "intimate", "jacket", "jeans", "jumper", "leggings", "loafers", "necklace"),
    *("panties", "pants", "pumps", "purse", "ring", "romper", "sandals", "scarf", "shirt", "shoes"),
    *("shorts", "skin", "skirt", "sneakers", "socks", "stockings", "suit", "sunglasses", "sweater", "sweatshirt"),
    *("swimwear", "t-shirt", "tie", "tights", "top", "vest", "wallet", "watch", "wedges"),
)
"""Of the data set, in the order of its ids."""


def test_words():
    texts = [word.text for word in WORDS]
    assert len(NAMES) == 59
    assert len(texts) == len(set(texts)) == 30
    assert not set(texts) & set(NAMES)
    assert all(len(word.names) == 1 for word in SYNONYMS)
    assert len({word.names for word in SYNONYMS}) == len(SYNONYMS)
    for word in WORDS:
        assert len(set(word.names)) == len(word.names)
        assert set(word.names) <= set(NAMES) - {"background"}, word
    asked = {"trousers", "handbag", "gown", "spectacles", "ponytail", "footwear", "headwear", "outerwear"}
    assert asked <= set(texts)
    covered = {word.text: word.names for word in HYPERNYMS}
    assert len(set(PAIRS)) == 10
    assert all(name in covered[hypernym] for name, hypernym in PAIRS)


def test_folds():
    assert [len(fold) for fold in clothing_folds.FOLDS] == [5] * 5
    words = [word for fold in clothing_folds.FOLDS for word in fold]
    assert words == sorted(set(words))
    assert set(words) <= set(NAMES) - {"background", "accessories"}


SMALL = Questions(
    ("background", "coat", "shoes", "boots", "hat"),
    (Word("overcoat", ("coat",)), Word("footwear", ("boots", "shoes")), Word("headwear", ("hat",))),
    (("boots", "footwear"), ("hat", "headwear")),
)


def brute_force(questions, similarities, label):
    """`Questions.count`, pixel by pixel as the words of its docstring say."""
    names, words = questions.names, questions.words
    texts = [word.text for word in words]
    found = {
        "words": np.zeros((3, len(words)), int),
        "names": np.zeros((3, len(words)), int),
        "background": np.zeros(3, int),
        "best": np.zeros((2, BINS), int),
        "margin": np.zeros((2, BINS), int),
        "own": np.zeros((len(names), BINS), int),
        "other": np.zeros((len(names), BINS), int),
        "both": np.zeros((len(questions.pairs), BINS), int),
        "hypernym": np.zeros((3, len(questions.pairs), BINS), int),
    }

    def place(edges, value):
        return int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, BINS - 1))

    for scores, target in zip(similarities, label, strict=True):
        if not 0 <= target < len(names):
            continue
        by_name = dict(zip(names, scores, strict=False))
        chosen = max(by_name, key=by_name.get)
        for n, word in enumerate(words):
            score = scores[len(names) + n]
            replaced = {name: value for name, value in by_name.items() if name not in word.names}
            true = names[target] in word.names
            for key, given in (("words", score > max(replaced.values())), ("names", chosen in word.names)):
                found[key][:, n] += np.array([given, true, given and true])
        found["background"] += np.array([chosen == "background", target == 0, chosen == "background" and target == 0])
        second, first = sorted(value for name, value in by_name.items() if name != "background")[-2:]
        side = 0 if target == 0 else 1
        found["best"][side, place(SIMILARITY_EDGES, first)] += 1
        found["margin"][side, place(MARGIN_EDGES, first - second)] += 1
        for n, name in enumerate(names):
            found["own" if n == target else "other"][n, place(SIMILARITY_EDGES, by_name[name])] += 1
        for n, (name, hypernym) in enumerate(questions.pairs):
            word = words[texts.index(hypernym)]
            score = scores[len(names) + texts.index(hypernym)]
            if names[target] == name:
                found["both"][n, place(SIMILARITY_EDGES, min(score, by_name[name]))] += 1
                found["hypernym"][0, n, place(SIMILARITY_EDGES, score)] += 1
            group = 1 if names[target] in word.names else 2
            found["hypernym"][group, n, place(SIMILARITY_EDGES, score)] += 1
    return found


def drawn(pixels=500, seed=0):
    """Similarities in the middles of bins, so that rounding decides nothing, and labels, some of which do not count."""
    rng = np.random.default_rng(seed)
    width = len(SMALL.labels)
    places = np.stack([rng.permutation(BINS)[:width] for _ in range(pixels)])
    label = rng.integers(-1, len(SMALL.names) + 1, pixels).astype(np.int32)
    return ((places + 0.5) / (BINS / 2) - 1).astype(np.float32), label


counted_by = jax.jit(SMALL.count)
PIXELS = 600
"""Of every call of it, so that it is compiled once."""


def counts_of(similarities, label):
    """`Questions.count`, int64, of at most `PIXELS` pixels."""
    missing = PIXELS - len(label)
    counts = counted_by(np.pad(similarities, ((0, missing), (0, 0))), np.pad(label, (0, missing), constant_values=-1))
    return {key: np.asarray(value, np.int64) for key, value in counts.items()}


def test_counts_by_brute_force():
    similarities, label = drawn()
    counted = counts_of(similarities, label)
    expected = brute_force(SMALL, similarities.astype(np.float64), label)
    assert counted.keys() == expected.keys()
    for key, value in expected.items():
        if key == "margin":  # differences of middles of bins lie on edges
            np.testing.assert_array_equal(counted[key].sum(axis=1), value.sum(axis=1))
        else:
            np.testing.assert_array_equal(counted[key], value, err_msg=key)


def test_margins():
    scores = np.array([[0.9, 0.5013, 0.1213, -0.5, 0.3, 0, 0, 0], [0.1, -0.3, -0.4, 0.5987, -0.2, 0, 0, 0]], np.float32)
    counted = counts_of(scores, np.array([0, 3], np.int32))["margin"]
    # 0.5013 - 0.3 of background, and 0.6 + 0.2 - 0.0013 of a boot.
    assert [np.flatnonzero(row).tolist() for row in counted] == [[int(0.2013 * BINS)], [int(0.7987 * BINS)]]


def test_tables_say_what_was_counted():
    similarities, label = drawn(PIXELS, seed=1)
    counts = counts_of(similarities, label)
    text, scores = clothing_questions.words_table(counts, SMALL)
    given, true, both = counts["words"][:, 1]
    assert scores["IoU"]["footwear"][0] == pytest.approx(100 * both / (given + true - both))
    assert f"| footwear | boots, shoes | {true:,} |" in text
    at = clothing_questions.threshold(counts, SMALL)
    counted = (label >= 0) & (label < 5)
    accuracies = []
    for edge in SIMILARITY_EDGES[:-1]:
        passed = similarities[counted][:, 1:5] >= edge
        own = label[counted][:, None] == np.arange(1, 5)
        accuracies.append(np.mean([(passed[o, n].mean() + 1 - passed[~o, n].mean()) / 2 for n, o in enumerate(own.T)]))
    assert at == pytest.approx(SIMILARITY_EDGES[int(np.argmax(accuracies))])
    text, means = clothing_questions.pairs_table(counts, SMALL)
    boots = similarities[label == 3]
    passing = 100 * np.mean((boots[:, 3] >= at) & (boots[:, 6] >= at))
    elsewhere = similarities[counted & ~np.isin(label, (2, 3))]
    false = 100 * np.mean(elsewhere[:, 6] >= at)
    row = next(line.split(" | ") for line in text.splitlines() if line.startswith("| boots"))
    assert (row[4], row[6]) == (f"{passing:.1f}", f"{false:.1f}")
    assert means["threshold"] == at


def test_curves_by_brute_force():
    rng = np.random.default_rng(3)
    edges = np.linspace(-1, 1, 21)
    wanted, others = rng.normal(-0.3, 0.2, 500).clip(-0.99, 0.99), rng.normal(0.2, 0.3, 900).clip(-0.99, 0.99)
    counts = np.array([np.histogram(values, edges)[0] for values in (wanted, others)])
    found = clothing_metrics.curve(counts, edges)
    for threshold, precision, recall in zip(found.thresholds, found.precision, found.recall, strict=True):
        below, wrong = int((wanted < threshold).sum()), int((others < threshold).sum())
        assert recall == below / 500
        assert math.isnan(precision) if not below + wrong else precision == below / (below + wrong)
    assert found.base == 500 / 1400
    assert found.f1[found.best] == np.nanmax(found.f1)
    steps = zip(np.diff(found.recall, prepend=0.0), found.precision, strict=True)
    assert found.area == pytest.approx(sum(gain * precision for gain, precision in steps if gain))
    assert clothing_metrics.passing(counts[0], edges, 0.1) == np.mean(wanted >= 0.1)
    assert math.isnan(clothing_metrics.passing(np.zeros(20), edges, 0.1))


def test_rejection_files():
    similarities, label = drawn(500, seed=2)
    counts = counts_of(similarities, label)
    rows = list(csv.DictReader(io.StringIO(clothing_questions.rejection_csv(counts))))
    assert {row["kind"] for row in rows} == {"min_similarity", "min_margin"}
    row = rows[len(rows) // 4]
    counted = (label >= 0) & (label < 5)
    rejected = similarities[counted][:, 1:5].max(axis=1) < float(row["threshold"])
    background = label[counted] == 0
    assert float(row["precision"]) == pytest.approx(background[rejected].mean(), abs=1e-6)
    assert float(row["recall"]) == pytest.approx(rejected[background].mean(), abs=1e-6)
    drawing = clothing_plot.svg({"a": (np.array([0, math.nan, 1]), np.array([1, 0.5, 0]))}, "recall", "precision")
    assert 'points="48.0,48.0 448.0,448.0"' in drawing


@pytest.mark.slow
def test_questions_of_a_model_agree_with_its_segmentation():
    questions = Questions(("background", "grass", "water", "car"), (Word("lawn", ("grass",)),), (("grass", "lawn"),))
    model, world = load("tiny"), list(TinyWorldDataset("test", count=2))
    examples = [example._replace(label=example.label % 5) for example in world]
    counts = clothing_questions.count(model, examples, questions)
    given = {"names": 0, "words": 0}
    for example in examples:
        for key, labels in (("names", questions.names), ("words", ("background", "lawn", "water", "car"))):
            seen = model.segment(example.image, labels).label_map
            given[key] += int(((seen == 1) & (example.label < 4)).sum())
    assert {key: int(counts[key][0, 0]) for key in given} == given
    assert counts["background"][1] == sum(int((example.label == 0).sum()) for example in examples)
    blocked = dataclasses.replace(model, config=dataclasses.replace(model.config, block="bottleneck", block_depth=1))
    with pytest.raises(ConfigError, match="bottleneck"):
        clothing_questions.count(blocked, examples, questions)


def toy(photographs=3, seed=0):
    """Features whose finest level has the label of each of its cells in one channel and noise in another."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (photographs, HEIGHT // 32, WIDTH // 32)).astype(np.uint8)
    labels = coarse.repeat(32 // LABEL_STRIDE, axis=1).repeat(32 // LABEL_STRIDE, axis=2)
    levels = []
    for stride in (4, 8, 16, 32):
        cells = coarse.repeat(32 // stride, axis=1).repeat(32 // stride, axis=2)
        level = np.stack([cells, rng.normal(size=cells.shape)], axis=-1).astype(np.float16)
        levels.append(np.stack([level, level[:, :, ::-1]], axis=1))
    return Features(("a", "b", "c", "d"), tuple(levels), labels, "toy")


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


def scored(*iou):
    return SegmentationMetrics(0.0, 0.0, 0.8, iou, iou, tuple(10 if value else 0 for value in iou))


def test_tables_of_heads_and_folds():
    heads = {"words": [scored(0.5, 0.0, 0.3)], "learned": [scored(0.5, 0.0, 0.5)], "linear": [scored(0.4, 0.0, 0.2)]}
    lines = clothing_heads.table(heads).splitlines()
    # The second class has no pixel, and counts nowhere.
    assert [line.split(" | ")[1:3] for line in lines[2:]] == [["40.0", ""], ["50.0", "10.0"], ["30.0", "-10.0"]]
    results = [
        clothing_folds.Result(ForegroundMetrics(0.1 * number, 0.5, ()), (0.2, 0.4), 0.7) for number in range(1, 6)
    ]
    text = clothing_folds.table([{"held out": results, "others": results, "trained": results[::-1]}])
    first, mean = text.splitlines()[2], text.splitlines()[-1]
    assert (
        first == "| 0: bag, belt, blazer, blouse, coat | 10.0 | 50.0 | 30.0 | 30.0 | 70.0 | 50.0 | 50.0 | 30.0 | 70.0 |"
    )
    assert mean == "| mean | 30.0 | 50.0 | 30.0 | 30.0 | 70.0 | 30.0 | 50.0 | 30.0 | 70.0 |"


def test_means_over_seeds():
    assert clothing_metrics.spread([1.0, 3.0]) == "2.0 ± 1.4"
    assert clothing_metrics.spread([math.nan, 2.0]) == "2.0"
    assert clothing_metrics.spread([math.nan]) == "-"
    assert clothing_metrics.markdown(["a", "b"], [("x", 1.25)]) == "| a | b |\n| --- | --- |\n| x | 1.2 |"
