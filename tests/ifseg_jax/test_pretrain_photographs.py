"""Questions about photographs, read back as words and checked with boxes; boxes, against label maps by brute force."""

import collections
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ifseg_jax.pretrain.boxes import LEAST, MOST, Boxes, boxes_of
from ifseg_jax.pretrain.regions import (
    ANSWER,
    BINS,
    MIDDLE,
    PLACES,
    TASKS,
    Photograph,
    Questioner,
    cut,
    named_places,
    vocabulary,
)
from ifseg_jax.vocabulary import BOS, EOS, PAD, SPECIALS
from vlseg.errors import ConfigError

NAMES = ("background", "hair", "dress", "bag", "shoes")
GRID = 8
SHARES = dict.fromkeys(TASKS, 1.0)


def scene(seed: int) -> np.ndarray:
    """A label map [48, 32]: rectangles on background."""
    rng = np.random.default_rng(seed)
    label = np.zeros((48, 32), int)
    for word in (2, 3, 4, 1):
        top, left = rng.integers(0, 36), rng.integers(0, 22)
        label[top : top + rng.integers(3, 12), left : left + rng.integers(3, 10)] = word
    return label


def photograph(label: np.ndarray, number: int) -> Photograph:
    """Its features say where they come from: photograph, mirrored, row, column; the label is the fifth channel."""
    rows, columns = np.indices((12, 8))
    seen = label[2::4, 2::4]
    features = np.stack([np.full((12, 8), number), np.zeros((12, 8)), rows, columns, seen], axis=-1)
    mirrored = features[:, ::-1].copy()
    mirrored[..., 1] = 1
    return Photograph(np.stack([features, mirrored]).astype(np.float16), boxes_of(label, len(NAMES)))


@pytest.fixture(scope="module")
def labels():
    return [scene(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def questioner(labels):
    return Questioner(NAMES, [photograph(label, i) for i, label in enumerate(labels)], GRID, SHARES, 0.3, 22)


@pytest.fixture(scope="module")
def examples(questioner):
    """Per kind of question: (question, answer, weights, features, shown, boxed)."""
    words = [*SPECIALS, *vocabulary(NAMES)]
    found = collections.defaultdict(list)
    for number in range(6):
        for features, shown, boxed, source, inputs, targets, weights in zip(
            *questioner.batch(0, number, 40), strict=True
        ):
            assert source[0] == BOS and (source[list(source).index(EOS) + 1 :] == PAD).all()
            assert inputs[0] == BOS and (inputs[1:] == targets[:-1]).all()
            assert (weights[targets == PAD] == 0).all()
            question = " ".join(words[i] for i in source[1 : list(source).index(EOS)])
            answer = [words[i] for i in targets[: list(targets).index(EOS)]]
            found[re.sub(r"(object:|text of|is there a|the text) .*", r"\1", question)].append(
                (question, answer, weights, features, shown, boxed)
            )
    return found


def test_boxes_are_tight(labels):
    for label in labels:
        boxes = boxes_of(label, len(NAMES))
        assert set(boxes.words) == set(np.unique(label))
        for word, corners in zip(*boxes, strict=True):
            left, top, right, bottom = np.round(corners * [32, 48, 32, 48]).astype(int)
            inside = label[top:bottom, left:right] == word
            assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        hair = boxes.corners[boxes.words == 1]
        rows, columns = np.nonzero(label == 1)
        tight = [columns.min() / 32, rows.min() / 48, (columns.max() + 1) / 32, (rows.max() + 1) / 48]
        assert [*hair[:, :2].min(axis=0), *hair[:, 2:].max(axis=0)] == pytest.approx(tight)


def test_small_parts_have_no_box_but_the_largest_of_a_word():
    label = np.zeros((100, 100), int)
    label[10, 10:13] = 1  # 3 pixels, as many as count
    label[20, 20:22] = 1
    label[30, 30] = 2
    for row in range(MOST + 2):
        label[50 + 3 * row, 50 : 54 + row] = 3
    assert LEAST * label.size == pytest.approx(3)
    boxes = boxes_of(label, 4)
    assert [int((boxes.words == word).sum()) for word in range(4)] == [1, 1, 1, MOST]
    widths = boxes.corners[boxes.words == 3] @ [-100, 0, 100, 0]
    assert widths == pytest.approx([11, 10, 9, 8, 7, 6])


def test_labels_that_do_not_count_have_no_box():
    label = np.full((8, 8), 255)
    label[2:4, 2:4] = 1
    assert boxes_of(label, 3).words.tolist() == [1]
    assert boxes_of(np.full((8, 8), 255), 3).corners.shape == (0, 4)


def test_a_mirror_turns_boxes(labels):
    boxes, other = boxes_of(labels[0], 5), boxes_of(labels[0][:, ::-1], 5)
    for word in range(5):
        mine, theirs = (np.sort(b.corners[b.words == word], axis=0) for b in (boxes.mirrored(), other))
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_every_kind_of_question_is_asked(examples):
    assert set(examples) == {
        "what are the objects in the image? object:",
        "what does the image describe?",
        "is there a",
        "which region does the text",
        "what is the complete text of",
    }


def test_collages_name_what_was_cut_out(examples, labels, questioner):
    """Words stand where they are the answer; a region lies in a box of its word in the photograph that it came from."""
    seen = 0
    for question, answer, weights, features, shown, _ in examples["what are the objects in the image? object:"]:
        listed = question.split("object: ")[1].split()
        assert listed[-1] == "unknown" and len(listed) == len(set(listed))
        named = np.asarray([NAMES.index(word) for word in answer]).reshape(PLACES, PLACES)
        counted = weights[:-1].reshape(PLACES, PLACES) > 0
        assert {NAMES[i] for i in named[counted]} <= set(listed)
        wide = np.repeat(np.repeat(named, GRID // PLACES, axis=0), GRID // PLACES, axis=1)
        assert (shown[shown >= 0] == wide[shown >= 0]).all()
        if len(np.unique(features[..., 0])) < 2 and not (shown >= 0).any():
            continue
        seen += 1
        for row, column in np.argwhere(shown < 0):
            number, mirrored, y, x, _ = features[row, column]
            boxes = questioner.photographs[int(number)].seen(bool(mirrored))[1]
            x = 7 - x if mirrored else x
            left, top, right, bottom = boxes.among(boxes.words == wide[row, column]).corners.T
            inside = (left * 8 < x + 1) & (right * 8 > x) & (top * 12 < y + 1) & (bottom * 12 > y)
            assert inside.any()
    assert seen > 20


def test_background_is_cut_from_outside_all_boxes(questioner):
    rng = np.random.default_rng(1)
    for photo in questioner.photographs:
        corners = questioner._outside(rng, photo.boxes)
        if corners is None:
            continue
        left, top, right, bottom = photo.boxes.among(photo.boxes.words > 0).corners.T
        apart = (corners[0] >= right) | (corners[2] <= left) | (corners[1] >= bottom) | (corners[3] <= top)
        assert apart.all()


def test_windows_name_the_smallest_box():
    boxes = Boxes(np.asarray([0, 2, 1]), np.asarray([[0, 0, 1, 1], [0.1, 0.2, 0.9, 1.0], [0.3, 0.3, 0.6, 0.6]]))
    named, counts = named_places(boxes, np.asarray([0.0, 0.0, 1.0, 1.0]), 4, 4, 0)
    # Places are at 1/8, 3/8, 5/8 and 7/8.
    assert named.tolist() == [[0, 0, 0, 0], [2, 1, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert counts.tolist() == [[1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 4), *[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2), max_size=6),
    st.tuples(*[st.integers(0, 15)] * 2, *[st.integers(5, 16)] * 2),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_names_of_places_by_brute_force(rectangles, window, rows, columns):
    """Rectangles of all sizes are told apart by their area, whose ties hypothesis may draw: any of them is right."""
    corners = [(x / 32, y / 32, (x + w) / 32, (y + h) / 32) for _, x, y, w, h in rectangles]
    boxes = Boxes(np.asarray([word for word, *_ in rectangles], int), np.asarray(corners, np.float64).reshape(-1, 4))
    left, top, width, height = window
    found = named_places(boxes, np.asarray([left, top, left + width, top + height]) / 32, rows, columns, 0)
    for row, column in np.ndindex(rows, columns):
        y, x = top + height * (row + 0.5) / rows, left + width * (column + 0.5) / columns
        inside = [r for r in rectangles if r[0] and r[1] <= x < r[1] + r[3] and r[2] <= y < r[2] + r[4]]
        least = min((w * h for *_, w, h in inside), default=0)
        expected = {
            (word, abs(y - y0 - h / 2) < MIDDLE * h and abs(x - x0 - w / 2) < MIDDLE * w)
            for word, x0, y0, w, h in inside
            if w * h == least
        }
        assert (found[0][row, column], found[1][row, column]) in (expected or {(0, True)})


def test_image_tokens_are_named_by_boxes_and_words_by_nothing(examples, questioner):
    counted = 0
    for each in (each for kind in examples.values() for each in kind):
        *_, features, shown, boxed = each
        assert (boxed[shown >= 0] == -1).all()
        for row, column in np.argwhere(boxed > 0):
            number, mirrored, y, x, _ = features[row, column]
            boxes = questioner.photographs[int(number)].seen(bool(mirrored))[1]
            x = 7 - x if mirrored else x
            left, top, right, bottom = boxes.among(boxes.words == boxed[row, column]).corners.T
            assert ((left * 8 < x + 1) & (right * 8 > x) & (top * 12 < y + 1) & (bottom * 12 > y)).any()
            counted += 1
    assert counted > 1000


def test_answers_about_whole_photographs(examples, labels):
    present = [{NAMES[i] for i in np.unique(label)} for label in labels]
    for kind, each in examples.items():
        for question, answer, _, features, _, _ in each:
            words = present[int(features[0, 0, 0])]
            if kind == "what does the image describe?":
                assert set(answer) == words
            elif kind == "is there a":
                assert answer == ["yes" if question.split()[3] in words else "no"]
            elif kind == "what is the complete text of":
                masked = question.split(" of ")[1].split()
                assert all(given in ("<mask>", word) for given, word in zip(masked, answer, strict=True))
            elif kind == "which region does the text":
                assert len(answer) == 4 and all(re.fullmatch(r"<bin_\d+>", word) for word in answer)


def test_where_a_word_is(examples, questioner):
    for question, answer, _, features, _, _ in examples["which region does the text"]:
        boxes = questioner.photographs[int(features[0, 0, 0])].seen(bool(features[0, 0, 1]))[1]
        corners = boxes.corners[boxes.words == NAMES.index(question.split()[5])][0]
        assert [int(word[5:-1]) for word in answer] == np.round(corners * (BINS - 1)).astype(int).tolist()


def test_batches_follow_from_seed_and_step(questioner):
    one, same, other = (questioner.batch(seed, 5, 6) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.source, other.source)
    assert one.targets.shape == (6, ANSWER) and one.source.shape == (6, questioner.source_length)


def test_cutting_is_nearest():
    features = np.arange(12 * 8).reshape(12, 8, 1)
    np.testing.assert_array_equal(cut(features, np.asarray([0, 0, 1, 1]), 12, 8), features)
    np.testing.assert_array_equal(cut(features, np.asarray([0.5, 0.5, 1, 1]), 6, 4), features[6:, 4:])
    assert cut(features, np.asarray([0.3, 0.3, 0.31, 0.31]), 3, 3).tolist() == [[[26]] * 3] * 3


@pytest.mark.parametrize(
    ("names", "shares", "grid", "message"),
    [
        (("hair", "dress"), SHARES, 8, "needs the name 'background'"),
        ((*NAMES, "tank top"), SHARES, 8, "not 'tank top'"),
        ((*NAMES, "Hat"), SHARES, 8, "not 'Hat'"),
        ((*NAMES, "image?"), SHARES, 8, r"not 'image\?'"),
        (NAMES, {"collage": 1.0}, 8, "shares must be numbers"),
        (NAMES, SHARES | {"where": -1.0}, 8, "shares must be numbers"),
        (NAMES, SHARES, 10, "image_grid is 10; pre-training needs a multiple of 4"),
    ],
)
def test_what_cannot_be_asked(labels, names, shares, grid, message):
    with pytest.raises(ConfigError, match=message):
        Questioner(names, [photograph(labels[0], 0)], grid, shares, 0.3, 22)


def test_too_few_candidates(labels):
    with pytest.raises(ConfigError, match="candidates is 15; a question names up to 16 places"):
        Questioner(NAMES, [photograph(labels[0], 0)], GRID, SHARES, 0.3, 15)
