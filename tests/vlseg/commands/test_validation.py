"""Runs that are validated: what is kept of them, how they are loaded, and that they go on to the same bits."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.buckets import stand_in
from tests.commands import ROOT, logged
from vlseg import packages
from vlseg.checkpoints import directory
from vlseg.checkpoints.directory import WEIGHTS_FILE
from vlseg.checkpoints.rules import flatten
from vlseg.data.sources import open_dataset
from vlseg.errors import CheckpointError
from vlseg.evaluation.scoring import score


def load(*arguments):
    return packages.find("tests.toy").load(*arguments)


@pytest.fixture(scope="module")
def validated(folder, training):
    """The flags of a run that is validated every 20 of its 80 updates."""
    changes = {"validation__source": folder, "validation__every": 20, "evaluation__source": "", "keep_checkpoints": 3}
    return lambda workdir, **more: training(workdir, **{**changes, **more})


@pytest.fixture(scope="module")
def finished(commands, validated, tmp_path_factory):
    """A run and what it printed."""
    workdir = tmp_path_factory.mktemp("validated") / "run"
    return workdir, commands.output("train", *validated(workdir))


def scores_of(workdir):
    lines = (json.loads(line) for line in (workdir / "validation.jsonl").read_text().splitlines())
    return {line.pop("step"): line for line in lines}


def test_the_model_of_a_validated_run_is_its_best_step(finished, folder):
    workdir, output = finished
    scores = scores_of(workdir)
    assert list(scores) == [20, 40, 60, 80]
    best = max(scores, key=lambda step: (scores[step]["mIoU"], step))
    for name, step in (("model", best), ("last", 80)):
        record = json.loads((workdir / name / "config.json").read_text())["training"]
        assert (record["step"], record["of"]) == (step, 80)
        assert f"{name}: step {step}, {record['chosen']}\nwrote {workdir / name}\n" in output
        (found,) = score(load(workdir / name), open_dataset(str(folder)))
        assert {"mIoU": found.miou, "mAcc": found.macc, "aAcc": found.aacc} == scores[step]
    assert f"step 40  validation  mIoU {100 * scores[40]['mIoU']:.2f}" in output
    # Every validated step has a log line, so that curve and scores can be laid side by side.
    assert {line["step"] for line in logged(workdir)} >= set(scores)


def test_what_the_settings_come_to_is_printed_and_stored(finished):
    workdir, output = finished
    assert json.loads((workdir / "summary.json").read_text()) == {"images_per_update": 8, "steps": 80}
    assert "images_per_update 8  steps 80" in output.splitlines()


def test_any_kept_step_of_a_run_is_loaded(commands, finished, folder, photo, tmp_path, monkeypatch):
    """By its folder; frozen parameters, of which this model has none, and trained ones are put together."""
    workdir, _ = finished
    scores = scores_of(workdir)
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    assert set(kept) >= {60, 70, 80}
    for step in (60, 80):
        flags = (f"--checkpoint={workdir}", f"--step={step}", f"--data={folder}", f"--out={tmp_path / str(step)}")
        commands.output("evaluate", *flags)
        report = json.loads((tmp_path / str(step) / "metrics.json").read_text())
        assert report["mIoU"] == scores[step]["mIoU"]
    # A path of a step is a model as well, wherever one is.
    monkeypatch.chdir(workdir)
    assert directory.resolve("checkpoints/60", {}, {}) == Path("checkpoints/60")
    assert directory.read_settings(directory.resolve(".", {}, {}, 60))["format"] == "tests.toy"
    (found,) = score(load(workdir / "checkpoints/60"), open_dataset(str(folder)))
    assert found.miou == scores[60]["mIoU"]
    commands.output("predict", f"--checkpoint={workdir}", f"--images={photo}", f"--out={tmp_path / 'seen'}")
    commands.output("export", f"--checkpoint={workdir}", "--step=70", f"--out={tmp_path / 'exported'}")
    exported, direct = (flatten(load(path).variables) for path in (tmp_path / "exported", workdir / "checkpoints/70"))
    assert exported.keys() == direct.keys()
    assert all(np.array_equal(exported[name], direct[name]) for name in direct)
    assert json.loads((tmp_path / "exported/config.json").read_text())["training"] == {"step": 70}


def test_steps_that_are_not_there(commands, finished, model, photo, tmp_path, capsys):
    workdir, _ = finished
    flags = (f"--images={photo}", f"--out={tmp_path / 'out'}")
    line = commands.refusal(capsys, "predict", f"--checkpoint={workdir}", "--step=30", *flags)
    assert f"{workdir} has not kept step 30; it has kept " in line and line.rstrip().endswith("70, 80")
    line = commands.refusal(capsys, "predict", f"--checkpoint={model}", "--step=30", *flags)
    assert "is not the folder of a training run" in line
    line = commands.refusal(capsys, "predict", f"--checkpoint={workdir / 'frozen'}", *flags)
    assert f"only the frozen part of a run: load {workdir}" in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_step_is_named(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for file in (workdir / "checkpoints/60").rglob("*"):
        if file.is_file() and file.stat().st_size > 500:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoints/60 is damaged"):
        load(workdir / "checkpoints/60")


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_while_it_validates_goes_on_to_the_same_bits(
    commands, validated, finished, tmp_path, sent
):
    """It is stopped right before the scores of step 40 are written, and by a second signal long before that."""
    workdir = tmp_path / "run"
    code = (
        "import os, signal, runpy, sys\n"
        "from vlseg.training import validation\n"
        "whole = validation.History.validate\n"
        "def stopped(history, state, step):\n"
        f"    if step == 40: os.kill(os.getpid(), {int(sent)})\n"
        "    return whole(history, state, step)\n"
        "validation.History.validate = stopped\n"
        "runpy.run_module('vlseg.commands.train', run_name='__main__', alter_sys=True)\n"
    )
    line = [sys.executable, "-c", code, *map(str, validated(workdir))]
    process = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent), process.stderr
    assert 80 not in scores_of(workdir) and not (workdir / "model").exists()
    if sent == signal.SIGKILL:
        assert list(scores_of(workdir)) == [20]
        with pytest.raises(CheckpointError, match="not finished: name a step"):
            directory.resolve(workdir, {}, {})
        shutil.copytree(finished[0] / "last", workdir / "last")  # as if it had ended between the two
        with pytest.raises(CheckpointError, match="not finished: name a step"):
            directory.resolve(workdir, {}, {})
    output = commands.output("train", *validated(workdir))
    assert "step 20 " not in output
    assert scores_of(workdir) == scores_of(finished[0])
    for name in ("model", "last"):
        ours, theirs = ((folder / name / WEIGHTS_FILE).read_bytes() for folder in (workdir, finished[0]))
        assert ours == theirs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation__every": 0}, "config.validation.source needs config.validation.every"),
        ({"validation__source": ""}, "give config.validation.source"),
        ({"validation__epochs": 1}, "leave one out"),
        ({"validation__every": 0, "validation__epochs": 1}, "this run has no images, so no epochs"),
        ({"validation__metric": "accuracy"}, "config.validation.metric 'accuracy' is none of mIoU, mAcc, aAcc"),
        ({"validation__source": "absent"}, "no such folder"),
        ({"validation__every": -1}, "config.validation.every is -1"),
        ({"validation__every": 0, "validation__source": "", "validation__count": 7}, "config.validation.count needs"),
        ({"validation__every": 0, "validation__source": "", "validation__metric": "aAcc"}, "validation.metric needs"),
    ],
)
def test_validation_that_cannot_be(commands, validated, tmp_path, capsys, changes, message):
    line = commands.refusal(capsys, "train", *validated(tmp_path / "run", **changes))
    assert message in line, line
    assert not (tmp_path / "run").exists()


def test_a_run_in_a_bucket_is_loaded_by_its_address(commands, validated, finished, photo, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    shutil.copytree(finished[0], tmp_path / "bucket/run")
    for step in (None, 60, 80):
        found = directory.resolve("gs://bucket/run", {}, {}, step)
        expected = directory.resolve(finished[0], {}, {}, step)
        ours, theirs = flatten(load(found).variables), flatten(load(expected).variables)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    flags = (f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert commands.call("predict", "--checkpoint=gs://bucket/run", "--step=60", *flags) == 0
