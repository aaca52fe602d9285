"""Questions and answers about scenes of the tiny world, read back as words and checked against the labels."""

import collections
import functools
import re

import jax
import numpy as np
import pytest

from ifseg_jax.checkpoint import BUNDLED_MODELS
from ifseg_jax.pretrain import tasks
from ifseg_jax.vocabulary import BOS, EOS, PAD
from vlseg.data.tiny_world import NAMES, scene

COUNT, SIZE, BINS = 400, 32, tasks.LOCATION_BINS - 1
PATTERNS = {
    "caption": r"what does the image describe\?",
    "name_region": r"what is in the region(?: <bin_\d+>){4}",
    "name_region_candidates": r"what is in the region(?: <bin_\d+>){4} object: .* unknown",
    "name_places": r"what are the objects in the image\?(?: object: .* unknown)?",
    "yes_no": r"is there a \w+ in the image\?",
    "ground": r"which region does the text \w+ describe\?",
    "infill": r"what is the complete text of .*",
}


@pytest.fixture(scope="module")
def words():
    listed = (BUNDLED_MODELS["tiny"] / "words.txt").read_text().split()
    return dict(enumerate(["<s>", "<pad>", "</s>", "<unk>", *listed]))


@pytest.fixture(scope="module")
def draw(words):
    """Key -> scenes and one question about each, as arrays of NumPy."""
    task_words = tasks.TaskWords.from_ids({word: number for number, word in words.items()})
    ask = jax.jit(lambda key, batch: tasks.questions(key, batch, task_words))
    batch = jax.jit(jax.vmap(functools.partial(scene, size=SIZE)))(jax.random.split(jax.random.key(0), COUNT))
    return lambda key: jax.tree.map(np.asarray, (batch, ask(key, batch)))


@pytest.fixture(scope="module")
def drawn(draw):
    return draw(jax.random.key(1))


@pytest.fixture(scope="module")
def examples(drawn, words):
    """Per task: (question, answer, scene number), the words between the special ones."""
    _, asked = drawn
    found = collections.defaultdict(list)
    for number, (source, target) in enumerate(zip(asked.source, asked.targets, strict=True)):
        question = " ".join(words[i] for i in source[1 : list(source).index(EOS)])
        answer = [words[i] for i in target[: list(target).index(EOS)]]
        (task,) = [name for name, pattern in PATTERNS.items() if re.fullmatch(pattern, question)]
        found[task].append((question, answer, number))
    return found


def places(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"<bin_(\d+)>", text)]


def candidates(question: str) -> list[str]:
    return question.split("object: ")[1].split()


def near(label: np.ndarray, x: float, y: float, reach: float) -> set[str]:
    """Names of the labels within `reach` pixels of a place."""
    size = len(label)
    columns, rows = ([max(round(c - reach), 0), min(round(c + reach) + 1, size)] for c in (x, y))
    return {NAMES[i] for i in label[slice(*rows), slice(*columns)].ravel()}


def objects_of(scene, number: int) -> list[str]:
    return [NAMES[i] for i in scene.object_ids[number] if i >= 0]


def textures_of(scene, number: int) -> list[str]:
    return [NAMES[i] for i in scene.texture_ids[number]]


def test_sequences_are_well_formed(drawn):
    _, asked = drawn
    assert asked.source.shape == (COUNT, tasks.SOURCE_LENGTH)
    assert asked.inputs.shape == asked.targets.shape == asked.weights.shape == (COUNT, tasks.TARGET_LENGTH)
    assert (asked.source[:, 0] == BOS).all() and (asked.inputs[:, 0] == BOS).all()
    np.testing.assert_array_equal(asked.inputs[:, 1:], asked.targets[:, :-1])
    for ids in (*asked.source, *asked.targets):
        end = list(ids).index(EOS)  # nothing is cut off
        assert (ids[end + 1 :] == PAD).all() and PAD not in ids[:end] and 3 not in ids
    assert not asked.weights[asked.targets == PAD].any()


def test_no_question_is_about_segmentation(examples):
    questions = [question for found in examples.values() for question, _, _ in found]
    assert len(questions) == COUNT and not any("segmentation" in question for question in questions)


def test_tasks_come_as_often_as_their_weights_say(examples):
    np.testing.assert_allclose(sum(tasks.TASK_WEIGHTS), 1)
    for task, weight in zip(tasks.TASKS, tasks.TASK_WEIGHTS, strict=True):
        deviation = (COUNT * weight * (1 - weight)) ** 0.5
        assert abs(len(examples[task]) - COUNT * weight) < 4 * deviation, task


def test_every_word_of_an_answer_counts_but_what_is_given(drawn, examples):
    _, asked = drawn
    for task, found in examples.items():
        for _, answer, number in found:
            expected = np.zeros(tasks.TARGET_LENGTH)
            expected[: len(answer) + 1] = 1
            if task == "name_places":
                expected[[i for i in range(len(answer) + 1) if i % 3 < 2]] = 0
            np.testing.assert_array_equal(asked.weights[number], expected)


def caption_of(scene, number: int) -> list[str]:
    """Objects from left to right, then the textures."""
    boxes = scene.object_boxes[number][scene.object_ids[number] >= 0]
    objects = [objects_of(scene, number)[index] for index in np.argsort(boxes[:, 0], kind="stable")]
    on = ["on"] if objects else []
    return " and ".join(objects).split() + on + " and ".join(textures_of(scene, number)).split()


def test_captions(drawn, examples):
    assert examples["caption"]
    for _, answer, number in examples["caption"]:
        assert answer == caption_of(drawn[0], number)


def test_infilling(drawn, examples):
    hidden = total = 0
    for question, answer, number in examples["infill"]:
        shown = question.removeprefix("what is the complete text of ").split()
        assert answer == caption_of(drawn[0], number)
        assert all(word in (whole, "<mask>") for word, whole in zip(shown, answer, strict=True))
        hidden, total = hidden + shown.count("<mask>"), total + len(shown)
    assert abs(hidden / total - 0.5) < 0.15


def test_naming_a_region(drawn, examples):
    scene, _ = drawn
    for question, answer, number in examples["name_region"] + examples["name_region_candidates"]:
        x0, y0, x1, y1 = (place * SIZE / BINS for place in places(question))
        assert x0 <= x1 and y0 <= y1
        (name,) = answer
        # Corners are rounded to a sixteenth, and boxes at the border are cut.
        assert name in near(scene.label[number], (x0 + x1) / 2, (y0 + y1) / 2, 1.5 * SIZE / BINS)
    for question, answer, _ in examples["name_region_candidates"]:
        *listed, last = candidates(question)
        assert last == "unknown" and answer[0] in listed
        assert len(set(listed)) == len(listed) and set(listed) <= set(NAMES)


def test_naming_places(drawn, examples):
    scene, _ = drawn
    exact = listed_at_all = 0
    for question, answer, number in examples["name_places"]:
        assert len(answer) == 3 * tasks.PLACES
        for x, y, name in zip(answer[0::3], answer[1::3], answer[2::3], strict=True):
            column, row = (place * SIZE / BINS for place in places(f"{x} {y}"))
            assert name in near(scene.label[number], column, row, SIZE / BINS / 2 + 0.5)
            row, column = (min(int(place), SIZE - 1) for place in (row, column))
            exact += NAMES[scene.label[number][row, column]] == name
        if "object:" in question:
            listed_at_all += 1
            *listed, last = candidates(question)
            assert last == "unknown" and set(answer[2::3]) <= set(listed) <= set(NAMES)
    count = len(examples["name_places"])
    assert exact > 0.9 * count * tasks.PLACES  # x before y: the other way round would miss about half
    assert 0.55 < listed_at_all / count < 0.85


def test_yes_and_no(drawn, examples):
    answers = set()
    for question, answer, number in examples["yes_no"]:
        asked = question.split()[3]
        present = asked in objects_of(drawn[0], number) + textures_of(drawn[0], number)
        assert answer == ["yes" if present else "no"]
        answers.add(answer[0])
    assert answers == {"yes", "no"}


def test_grounding(drawn, examples):
    scene, _ = drawn
    for question, answer, number in examples["ground"]:
        rows, columns = np.nonzero(scene.label[number] == NAMES.index(question.split()[5]))
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIZE * BINS
        found = np.array(places(" ".join(answer)))
        assert len(answer) == 4 and (np.abs(found - box) <= 0.5).all()


def test_questions_depend_on_their_key_alone(draw, drawn):
    jax.tree.map(np.testing.assert_array_equal, draw(jax.random.key(1)), drawn)
    assert (draw(jax.random.key(2))[1].source != drawn[1].source).any()
