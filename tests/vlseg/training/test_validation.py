"""When a run is validated, which step is the best, and which checkpoints stay; with scores that a test gives."""

import json
import math

import numpy as np
import pytest

from vlseg.checkpoints import runs
from vlseg.errors import StorageError
from vlseg.training.loop import Schedule, train
from vlseg.training.validation import History, Validation


def step(state, number):
    return {"params": {"params/weight": state["params"]["params/weight"] + number}}, {"loss": np.float32(1)}


def fresh():
    return {"params": {"params/weight": np.zeros(3)}}


def score_by(scores, asked=None):
    """A function of the state that gives these scores by step, and notes what it was asked."""

    def score(state, number):
        if asked is not None:
            asked.append((number, float(np.asarray(state["params"]["params/weight"])[0])))
        return {"mIoU": scores[number]}

    return score


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({2: 0.5, 4: 0.9, 6: 0.1, 8: 0.2, 9: 0.3}, 4),
        ({2: 0.5, 4: 0.5, 6: 0.4, 8: 0.3, 9: 0.1}, 4),
        ({2: math.nan, 4: math.nan, 6: 0.0, 8: math.nan, 9: math.nan}, 6),
        ({2: 0.1, 4: 0.2, 6: 0.3, 8: 0.4, 9: 0.5}, 9),
    ],
    ids=["earlier", "ties", "nan", "last"],
)
def test_the_best_step_stays_among_the_last(tmp_path, scores, best):
    asked = []
    validation = Validation(2, "mIoU", score_by(scores, asked))
    train(fresh(), step, tmp_path, Schedule(9, keep=1, checkpoint_every=100), validation=validation)
    assert asked == [(number, sum(range(number))) for number in (2, 4, 6, 8, 9)]
    assert History(tmp_path, validation).best(runs.kept_steps(tmp_path)) == best
    # When step 9 is saved, it is not known yet to be better than step 8.
    assert runs.kept_steps(tmp_path) == ([8, 9] if best == 9 else [best, 9])
    saved = runs.read(tmp_path / f"checkpoints/{best}")
    np.testing.assert_array_equal(saved["params/weight"], np.full(3, sum(range(best))))
    json.loads((tmp_path / "validation.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_a_step_that_was_saved_but_not_scored_is_scored_when_the_run_goes_on(tmp_path):
    def interrupted(state, number):
        if number == 4:
            raise InterruptedError
        return {"mIoU": 0.1 * number}

    schedule = Schedule(6, checkpoint_every=100)
    with pytest.raises(InterruptedError):
        train(fresh(), step, tmp_path, schedule, validation=Validation(2, "mIoU", interrupted))
    asked = []
    validation = Validation(2, "mIoU", score_by({4: 0.9, 6: 0.2}, asked))
    train(fresh(), step, tmp_path, schedule, validation=validation)
    assert [number for number, _ in asked] == [4, 6]
    assert History(tmp_path, validation).scores == {2: {"mIoU": 0.2}, 4: {"mIoU": 0.9}, 6: {"mIoU": 0.2}}
    # A run that is finished asks nothing.
    train(fresh(), step, tmp_path, schedule, validation=Validation(2, "mIoU", lambda *_: pytest.fail("asked")))


def test_scores_of_steps_that_are_lost_are_forgotten(tmp_path):
    """A folder of an earlier step was restored: what came after is scored anew."""
    validation = Validation(2, "mIoU", score_by({2: 0.1, 4: 0.2}))
    train(fresh(), step, tmp_path, Schedule(4, checkpoint_every=1, keep=9), validation=validation)
    runs_of_steps = tmp_path / "checkpoints"
    for name in ("3", "4"):
        (runs_of_steps / name).rename(tmp_path / f"gone{name}")
    validation = Validation(2, "mIoU", score_by({4: 0.05}))
    train(fresh(), step, tmp_path, Schedule(4, checkpoint_every=1, keep=9), validation=validation)
    assert History(tmp_path, validation).scores == {2: {"mIoU": 0.1}, 4: {"mIoU": 0.05}}


def test_scores_of_steps_that_are_lost_leave_the_file_at_once(tmp_path):
    """A run that is killed before it scores again does not leave them to whoever reads the file."""
    history = History(tmp_path, Validation(2, "mIoU", lambda state, number: {"mIoU": 0.1}))
    for number in (2, 4, 6):
        history.validate(None, number)
    history.forget_after(4)
    lines = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


@pytest.mark.parametrize(
    "text",
    [
        *('{"step": 2, "mIoU"', '{"step": 2, "aAcc": 0.5}', '{"mIoU": 0.5}', "[]", "\xff", "[" * 9000),
        *('{"step": 2, "mIoU": "high"}', '{"step": "2", "mIoU": 0.5}', '{"step": 1e999, "mIoU": 0.5}'),
        '{"step": 2, "mIoU": [0.5]}',
    ],
)
def test_scores_that_cannot_be_read(tmp_path, text):
    (tmp_path / "validation.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(StorageError, match=r"validation\.jsonl cannot be used: .*; put it right, or start another run"):
        History(tmp_path, Validation(2, "mIoU", score_by({})))


def test_the_best_step_is_one_that_was_kept(tmp_path):
    """Of a step whose checkpoint is gone, as after damage, only the score is left."""
    validation = Validation(2, "mIoU", score_by({2: 0.5, 4: 0.3, 6: 0.2, 8: 0.9}))
    train(fresh(), step, tmp_path, Schedule(8, checkpoint_every=100, keep=3), validation=validation)
    history = History(tmp_path, validation)
    assert [history.best(steps) for steps in ([2, 4, 6, 8], [4, 6], [5], [])] == [8, 4, None, None]
    nothing = Validation(2, "mIoU", score_by(dict.fromkeys((2, 4), math.nan)))
    train(fresh(), step, tmp_path / "nan", Schedule(4, checkpoint_every=100), validation=nothing)
    assert History(tmp_path / "nan", nothing).best([2, 4]) is None
