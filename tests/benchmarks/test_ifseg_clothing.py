"""Baselines and tables of the comparison on photographs, against brute force."""

import numpy as np
import pytest

from benchmarks import ifseg_clothing
from benchmarks.ifseg_clothing import PLACES, Score
from ifseg_jax.pretrain.boxes import boxes_of
from vlseg.data.examples import Example

NAMES = ("background", "hair", "dress")


class Photographs(list):
    """Label maps as a data set."""

    names, ignore_label = NAMES, 255


@pytest.fixture(scope="module")
def photographs():
    found = Photographs()
    for number in range(5):
        label = np.zeros((32, 16), np.int32)
        label[8 + number : 28, 4:12] = 2
        label[4 : 8 + number, 6:10] = 1
        label[0, :3] = 255
        found.append(Example(np.zeros((32, 16, 3), np.uint8), label, str(number)))
    return found


def test_the_prior_counts_boxes(photographs):
    """At each place the word in whose boxes it lies in most photographs, background where it lies in none."""
    expected = np.zeros((PLACES, PLACES), int)
    boxes = [boxes_of(np.where(example.label == 255, -1, example.label), 3) for example in photographs]
    for row, column in np.ndindex(expected.shape):
        y, x = (row + 0.5) / PLACES, (column + 0.5) / PLACES
        votes = np.zeros(len(NAMES), int)
        for each in boxes:
            inside = {
                int(word)
                for word, (left, top, right, bottom) in zip(*each, strict=True)
                if word and left <= x < right and top <= y < bottom
            }
            votes[list(inside or {0})] += 1
        expected[row, column] = votes.argmax()
    found = ifseg_clothing.prior(photographs)
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {0, 1, 2}


def test_scores_of_a_map_are_those_of_the_pixels(photographs):
    places = ifseg_clothing.prior(photographs)
    truth = np.stack([example.label for example in photographs])
    guess = np.broadcast_to(places[::2, ::4], truth.shape)
    counted = truth != 255
    score = ifseg_clothing.score_map(photographs, places)
    assert score.pixels == pytest.approx(100 * (guess == truth)[counted].mean())
    iou = [
        100 * ((guess == word) & (truth == word)).sum() / (((guess == word) & counted) | (truth == word)).sum()
        for word in range(3)
    ]
    assert list(score.iou.values()) == pytest.approx(iou)
    assert score.miou == pytest.approx(np.mean(iou))


def test_all_background(photographs):
    score = ifseg_clothing.score_map(photographs, np.zeros((1, 1), int))
    truth = np.stack([example.label for example in photographs])
    assert score.pixels == score.iou["background"] == pytest.approx(100 * (truth == 0).sum() / (truth != 255).sum())
    assert score.miou == pytest.approx(score.iou["background"] / 3)


def test_tables():
    def score(value: float) -> Score:
        return Score(value, 90.0, {"hair": value, "dress": 2 * value})

    rows = ("largest share of boxes", "unadapted", "image-free", "supervised")
    results = {row: [score(5.0), score(7.0)] for row in rows}
    results["unadapted"] = [score(4.0)]
    lines = ifseg_clothing.table(results).splitlines()
    assert lines[2] == "| largest share of boxes | 6.0 ± 1.4 | 90.0 ± 0.0 |"
    assert lines[3] == "| unadapted | 4.0 | 90.0 |"
    words = ifseg_clothing.by_word(results).splitlines()
    assert words[2:] == ["| dress | 10.0 | 8.0 | 10.0 | 10.0 |", "| hair | 5.0 | 4.0 | 5.0 | 5.0 |"]
