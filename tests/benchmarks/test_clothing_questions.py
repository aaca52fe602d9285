"""Questions to a model of clothing, without photographs: counts, margins and tables, by brute force."""

import csv
import dataclasses
import io
import math

import jax
import numpy as np
import pytest

from benchmarks import (
    clothing_plot,
    clothing_questions,
)
from benchmarks.clothing_questions import BINS, MARGIN_EDGES, SIMILARITY_EDGES, Questions
from benchmarks.clothing_words import Word
from lseg_jax.model import load
from vlseg.data.tiny_world import TinyWorldDataset
from vlseg.errors import ConfigError

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
