"""What a report counts, pixel by pixel, also as several processes; and its pictures."""

import itertools
import math
import pickle
import threading
import types

import numpy as np
import pytest

from vlseg import distributed, visualize
from vlseg.errors import ConfigError
from vlseg.evaluation import confusion, report_pictures
from vlseg.evaluation.report import MAX_CLASSES, Report

CLASSES = 5


def drawn(count, seed=0):
    """Pairs of prediction and label of many sizes: some without a pixel that counts, some alike."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        size = rng.integers(1, 14, 2)
        kinds = rng.permutation(CLASSES)[: rng.integers(1, CLASSES + 1)]
        label = np.where(rng.random(size) < 0.2, -1, rng.choice(kinds, size)).astype(np.int32)
        label[:] = -1 if number % 7 == 3 else label
        wrong = rng.random(size) < rng.random()
        prediction = np.where(wrong, rng.integers(-1, CLASSES, size), label).astype(np.int32)
        pairs.append((prediction, label))
    pairs[-1] = pairs[0]
    return pairs


def by_hand(prediction, label):
    """A picture's matrix, mIoU and share of right pixels, as they are told in words."""
    matrix = [[0] * (CLASSES + 1) for _ in range(CLASSES)]
    for place in np.ndindex(label.shape):
        if label[place] >= 0:
            matrix[label[place]][prediction[place]] += 1  # -1 is the last
    pixels = sum(map(sum, matrix))
    if not pixels:
        return matrix, math.nan, math.nan, 0
    iou = []
    for one in range(CLASSES):
        either = sum(matrix[one]) + sum(row[one] for row in matrix) - matrix[one][one]
        if either:
            iou.append(matrix[one][one] / either)
    return matrix, sum(iou) / len(iou), sum(matrix[one][one] for one in range(CLASSES)) / pixels, pixels


def check_same(one, other):
    np.testing.assert_array_equal(one.matrix, other.matrix)
    assert repr(one.scores) == repr(other.scores) and len(one.worst) == len(other.worst)
    assert all(np.array_equal(*pair) for pair in zip(one.worst, other.worst, strict=True))


def taken_in(pairs, places, worst=4):
    report = Report(CLASSES, worst)
    for place in places:
        report.add(place, f"n\u00e4me {place}", *pairs[place])
    return report


@pytest.mark.parametrize("seed", range(3))
def test_everything_is_as_counted_by_hand(seed):
    pairs = drawn(30, seed)
    found = taken_in(pairs, range(30)).of_all()
    expected = [by_hand(*pair) for pair in pairs]
    assert found.matrix.tolist() == np.sum([matrix for matrix, *_ in expected], axis=0).tolist()
    ranked = sorted(range(30), key=lambda n: (math.isnan(expected[n][1]), expected[n][1:3], n))
    undefined = sum(math.isnan(miou) for _, miou, _, _ in expected)
    assert 0 < undefined < 20 and found.matrix[:, -1].any()
    assert [score.place for score in found.scores][: 30 - undefined] == ranked[: 30 - undefined]
    assert sorted(score.place for score in found.scores) == list(range(30))
    for score in found.scores:
        _, miou, aacc, pixels = expected[score.place]
        assert score.name == f"n\u00e4me {score.place}" and score.pixels == pixels
        assert (score.miou, score.aacc) == pytest.approx((miou, aacc), rel=1e-12, nan_ok=True)
    assert len(found.worst) == 4
    for place, prediction in zip(ranked, found.worst, strict=False):
        np.testing.assert_array_equal(prediction, np.where(pairs[place][0] < 0, CLASSES, pairs[place][0]))


def test_the_scores_are_those_of_the_counts():
    pairs = drawn(30)
    counts = confusion.zeros(CLASSES)
    for prediction, label in pairs:
        counts = confusion.merge(counts, confusion.count(prediction, label, CLASSES))
    matrix = taken_in(pairs, range(30)).of_all().matrix
    assert confusion.compute(confusion.of_matrix(matrix)) == confusion.compute(counts)


def test_large_pictures_are_counted_in_parts(monkeypatch):
    (pair,) = drawn(1)
    whole = confusion.matrix(*pair, CLASSES)
    monkeypatch.setattr(confusion, "_PIXELS", 1)
    np.testing.assert_array_equal(confusion.matrix(*pair, CLASSES), whole)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_find_the_same_together(processes, monkeypatch):
    """As threads that exchange what processes would."""
    pairs = drawn(31)
    alone = taken_in(pairs, range(31)).of_all()
    here, meet, given = threading.local(), threading.Barrier(processes), {}

    def exchanged(value):
        meet.wait()
        given[here.process] = value
        meet.wait()
        return [given[process] for process in range(processes)]

    def merged(state, merge):
        first, *others = exchanged(state)
        for other in others:
            first = merge(first, other)
        return first

    monkeypatch.setattr(distributed, "merged", merged)
    monkeypatch.setattr(distributed, "of_all", lambda texts: list(itertools.chain(*exchanged(list(texts)))))
    found = {}

    def run(process):
        here.process = process
        found[process] = taken_in(pairs, range(process, 31, processes)).of_all()

    threads = [threading.Thread(target=run, args=[process]) for process in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == processes
    for one in found.values():
        check_same(one, alone)


def test_pixels_beyond_32_bits():
    report = Report(2)
    report._matrix[:] = [[2**40 + 3, 5, 0], [0, 2**32, 2**33 + 1]]
    assert report.of_all().matrix.tolist() == [[2**40 + 3, 5, 0], [0, 2**32, 2**33 + 1]]


def test_no_picture():
    found = Report(3).of_all()
    assert not found.matrix.any() and found.scores == found.worst == ()


def test_memory_does_not_grow_with_the_pictures():
    rng, size, sizes = np.random.default_rng(0), (90, 100), []
    report = Report(50)
    for place in range(120):
        report.add(place, str(place), rng.integers(0, 50, size, np.int32), rng.integers(0, 50, size, np.int32))
        sizes.append(len(pickle.dumps(vars(report))))
    assert sizes[-1] - sizes[20] < 100 * 300 and sizes[20] > 10 * 90 * 100 / 2


def test_too_many_classes():
    with pytest.raises(ConfigError, match=r"at most 2,000 classes, and 2,001 are scored: .* --score_labels"):
        Report(MAX_CLASSES + 1)


# Pictures


@pytest.fixture
def table(monkeypatch):
    """What is drawn as a table: what `_table` is given, while it draws too."""
    seen, drawn_table = {}, report_pictures._table

    def recorded(shares, said, rows, heads):
        seen.update(shares=shares, said=said, rows=rows, heads=heads)
        return drawn_table(shares, said, rows, heads)

    monkeypatch.setattr(report_pictures, "_table", recorded)
    return seen


def colours(picture, shares):
    """Of each cell of a table, beside its number: the sum of its channels, int [rows, columns]."""
    pixels, cell, edge = np.asarray(picture).sum(axis=-1), report_pictures._CELL, report_pictures._EDGE
    rows, columns = shares.shape
    top = picture.height - edge - rows * cell
    # The right edge of the last column is where the grid's line is.
    line = np.flatnonzero((pixels[top : top + rows * cell] == sum(report_pictures._GRID)).mean(axis=0) > 0.9)
    start = int(line.max()) - columns * cell
    return pixels[top + 3 :: cell, start + 3 :: cell][:rows, :columns]


def test_a_confusion_matrix_is_drawn_sorted_and_by_rows(table):
    """Class 2 is the most frequent, then 0; 1 and 29 have no pixel, and of these 29 is predicted."""
    names = [
        "a rather long name of a class that is cut",
        "never",
        "most",
        *(f"class {n}" for n in range(3, 30)),
        "other",
    ]
    matrix = np.zeros((30, 31), int)
    matrix[0, 0], matrix[2, 0], matrix[2, 30], matrix[3, 29] = 10, 60, 40, 2
    for label in range(4, 29):
        matrix[label, 2] = 1
    picture = report_pictures.confusion(matrix, names)
    shares = table["shares"]
    assert table["heads"] == ["most", "a rather long name of a c...", *names[3:29], "class 29", "other"]
    assert table["rows"][:3] == ["most  73.0 %", "a rather long name of a c...  7.3 %", "class 3  1.5 %"]
    assert "28 of 30 labels are shown; 2 have no pixel" in table["said"] and shares.shape == (28, 30)
    expected = np.zeros((28, 30))
    expected[0, 1], expected[0, 29], expected[1, 1], expected[2, 28], expected[3:, 0] = 0.6, 0.4, 1, 1, 1
    np.testing.assert_array_equal(shares, expected)
    shown = colours(picture, shares)
    dark = [shown[shares == share] for share in (1, 0.6, 0.4, 0)]
    assert all(len({*found}) == 1 for found in dark)
    assert dark[0][0] < dark[1][0] < dark[2][0] < dark[3][0] == 3 * 255


def test_of_many_classes_the_most_frequent_are_drawn(table, monkeypatch):
    monkeypatch.setattr(report_pictures, "MOST", 25)
    matrix = np.diag(np.arange(1, 41))
    matrix[39, 0] = 40
    report_pictures.confusion(matrix, [f"class {n}" for n in range(40)])
    assert table["heads"] == [*(f"class {n}" for n in range(39, 14, -1)), report_pictures.REST]
    expected = np.eye(25, 26)
    expected[0, [0, 25]] = 0.5
    np.testing.assert_array_equal(table["shares"], expected)


def test_a_matrix_of_nothing(table):
    picture = report_pictures.confusion(np.zeros((3, 4), int), list("abcd"))
    assert picture.width > 100 and table["rows"] == [] and "0 of 3 labels are shown; 3 have no pixel" in table["said"]


@pytest.mark.parametrize(
    ("size", "drawn_size"),
    [
        ((3000, 2000), (512, 341)),
        ((20, 10), (320, 160)),
        ((1, 1), (320, 320)),
        ((300, 150), (600, 300)),
        ((300, 400), None),
    ],
)
def test_a_picture_beside_its_label_and_prediction(size, drawn_size, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        report_pictures,
        "visualize",
        types.SimpleNamespace(
            SMALL=visualize.SMALL,
            overlay=lambda image, ids, names, alpha: seen.setdefault(ids.max(), (image, ids))[0],
            panel=lambda rows, titles: report_pictures.Image.fromarray(np.concatenate(rows[0], axis=1)),
        ),
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    label, prediction = np.full(size, 1), np.full(size, 2)
    label[: size[0] // 2] = -1
    picture = report_pictures.comparison(image, label, prediction, ["a", "b", "c"], "name: mIoU 3.0")
    height, width = drawn_size or size
    for ids in (label, prediction):
        photograph, found = seen[ids.max()]
        assert photograph.shape == (height, width, 3) and found.shape == (height, width)
        assert (found == -1).mean() == pytest.approx((ids == -1).mean(), abs=0.01)
    assert picture.height > height and picture.width >= 3 * width
