"""Comparisons on the clothing data set: its words and folds, curves, means and tables."""

import math

import numpy as np
import pytest

from benchmarks import (
    clothing_folds,
    clothing_heads,
    clothing_metrics,
)
from benchmarks.clothing_words import HYPERNYMS, PAIRS, SYNONYMS, WORDS
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.foreground import ForegroundMetrics

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
