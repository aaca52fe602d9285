"""Training runs: what they leave behind, how they go on, and where they cannot."""

import dataclasses
import json
import shutil
import signal
import types

import fsspec
import numpy as np
import pytest
from PIL import Image

from tests.buckets import stand_in
from tests.commands import NAMES, ROOT, ending, files_in, logged, room_for
from tests.toy.model import Seen
from vlseg import packages, settings, sharding, visualize
from vlseg.checkpoints.directory import WEIGHTS_FILE
from vlseg.commands import train
from vlseg.data.sources import open_dataset
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.scoring import choose, score
from vlseg.training import workdir
from vlseg.training.program import Prepared


def assert_same_model(found, expected):
    """To the last bit."""
    assert (found / "model" / WEIGHTS_FILE).read_bytes() == (expected / "model" / WEIGHTS_FILE).read_bytes()


def test_training_leaves_a_model_and_its_history(run):
    workdir, output = run
    assert f"wrote {workdir / 'model'}\n" in output and "mIoU" in output
    assert {"config.json", "metrics.jsonl", "examples.png", "model/model.safetensors"} <= files_in(workdir)
    assert any(name.startswith("events.out.tfevents") for name in files_in(workdir))
    assert Image.open(workdir / "examples.png").width > 200
    assert json.loads((workdir / "config.json").read_text())["training"]["steps"] == 80
    assert "asked for" not in output  # the classes have their own names
    lines = logged(workdir)
    assert [line["step"] for line in lines] == list(range(10, 81, 10))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    settings = json.loads((workdir / "model/config.json").read_text())
    assert settings["labels"] == list(NAMES)
    assert packages.find(settings["format"]).load(workdir / "model").labels == NAMES


WORDS = ("green grass", *NAMES[1:])


@pytest.fixture
def config(folder):
    """A configuration that scores a run on the folder twice, on two of its classes."""
    config = settings.load(str(ROOT / "tests/toy/config.py"))
    for name, scored in (("evaluation", "tree, car"), ("validation", "car,tree")):
        config[name].source, config[name].score_labels = str(folder), scored
    config.validation.every = 5
    return config


def prepared(model, words):
    """What the commands make no use of is left out."""
    task = types.SimpleNamespace(batch_size=8, summary=dict)
    return Prepared(task, {}, None, None, 10, lambda state: model, words)


def opened(config, words):
    return [train.open_scored(config[name], f"config.{name}", words) for name in ("evaluation", "validation")]


def test_validation_is_without_a_crf_and_on_the_classes_named(config, loaded, folder, monkeypatch):
    """And by the words that the run is asked for."""
    refined = dataclasses.replace(loaded, inference=Seen(0.4, CRF(2)))
    assert refined.validation_settings() == Seen(0.4)
    (expected,) = score(
        dataclasses.replace(loaded, inference=Seen(0.4)),
        open_dataset(str(folder)),
        labels=WORDS,
        score_labels=NAMES[2:],
    )
    monkeypatch.setattr("vlseg.scores.refine", None)
    mesh = sharding.make_mesh("")
    validation = train.open_validation(config.validation, opened(config, WORDS)[1], prepared(refined, WORDS), mesh)
    found = validation.score({}, 5)
    assert (found["mIoU"], found["aAcc"]) == (pytest.approx(expected.miou), expected.aacc) and 0 < found["mIoU"] < 1


def test_the_report_is_on_the_classes_named(config, loaded, folder, tmp_path, capsys):
    train.evaluate(loaded, opened(config, None)[0], tmp_path)
    (expected,) = score(loaded, open_dataset(str(folder)), score_labels=NAMES[2:])
    assert capsys.readouterr().out == f"{expected.table(NAMES[2:])}\n" and (tmp_path / "examples.png").exists()


def test_the_examples_name_what_they_show(config, loaded, folder, tmp_path, monkeypatch):
    """Also pixels that get a word which stands for no class of the data set."""
    drawn = {}

    def comparison(rows, titles, labels, ignore):
        drawn.update(rows=rows, labels=labels, ignore=ignore)
        return visualize.comparison(rows, titles, labels, ignore=ignore)

    monkeypatch.setattr(train, "visualize", types.SimpleNamespace(**{**vars(visualize), "comparison": comparison}))
    dataset = open_dataset(str(folder))
    words = ("lawn", *NAMES[1:])
    asked = {"labels": words, "score_labels": NAMES[1:]}
    scored = opened(config, None)[0]._replace(asked=asked, candidates=choose(dataset.names, **asked))
    train.evaluate(loaded, scored, tmp_path)
    assert drawn["labels"] == (*NAMES, "another word") and drawn["ignore"] == dataset.ignore_label
    assert any((prediction == 4).any() for _, (_, prediction) in drawn["rows"])
    for example, (image, (label, prediction)) in zip(dataset, drawn["rows"], strict=False):
        np.testing.assert_array_equal(image, example.image)
        np.testing.assert_array_equal(label, example.label)
        np.testing.assert_array_equal(prediction, np.array([4, 1, 2, 3])[loaded.segment(image, words).label_map])


def test_words_in_the_places_of_names_are_printed_once(config, loaded, tmp_path, capsys):
    config.evaluation.score_labels = config.validation.score_labels = "grass,tree"
    train.describe(prepared(loaded, WORDS), tmp_path, opened(config, WORDS))
    assert capsys.readouterr().out.splitlines()[1:] == ["asked for: grass as green grass"]
    train.describe(prepared(loaded, NAMES), tmp_path, [*opened(config, NAMES), None])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_words_of_the_training_data_are_bound_by_name_to_what_is_scored(config, loaded, folder, tmp_path):
    """And the pairs are written down: the scored folder has the classes in another order."""
    replaced = (("car", "van"), ("grass", "lawn"))
    words = ("van", *NAMES[2:0:-1], "lawn")
    (evaluation, _) = (
        train.open_scored(config[name], f"config.{name}", words, replaced) for name in ("evaluation", "validation")
    )
    classes = {
        NAMES[i]: word for word, i in zip(evaluation.candidates.words, evaluation.candidates.classes, strict=True)
    }
    assert classes == {"grass": "lawn", "house": "house", "tree": "tree", "car": "van"}
    train.describe(prepared(loaded, words)._replace(replaced=replaced), tmp_path, [evaluation])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["replaced"] == {"training": dict(replaced), "evaluation": {"car": "van"}}


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_resumes_to_the_same_weights(commands, training, run, tmp_path, sent):
    """Settings that do not change the run may change."""
    workdir = tmp_path / "stopped"
    process = commands.spawn("train", *training(workdir), JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    assert process.stdout is not None
    # A checkpoint is complete when the next one is begun, and that is before the line after it.
    for line in process.stdout:
        if line.startswith("step 30 "):
            process.send_signal(sent)
            break
    code, _, errors = ending(process)
    assert code == (-sent if sent == signal.SIGKILL else 128 + sent) and errors == ""
    assert not (workdir / "model").exists()

    output = commands.output("train", *training(workdir, evaluation__source=""))
    assert "step 10 " not in output and "step 80 " in output and "mIoU" not in output
    assert_same_model(workdir, run[0])
    ours, theirs = logged(workdir), logged(run[0])
    assert {line["step"] for line in theirs} <= {line["step"] for line in ours}
    assert ours[-1]["loss"] == theirs[-1]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation__source": "absent"}, "no such folder"),
        ({"evaluation__source": "tiny_world,tiny_world"}, "names 2 data sets"),
        ({"evaluation__score_labels": "tree,moon"}, "score_labels are classes of the data set, which has no moon"),
        ({"evaluation__score_labels": "absent.txt"}, "absent.txt: no such file of category names"),
        ({"validation__score_labels": "tree"}, "are classes of config.validation.source: give that"),
        ({"log_every": 0}, "config.log_every is 0"),
        ({"speed": 3}, "no such setting: speed"),
        ({"training__steps": "many"}, "many"),
        ({"mesh": "data=3"}, "mesh"),
    ],
)
def test_settings_that_cannot_be(commands, training, tmp_path, capsys, changes, message):
    line = commands.refusal(capsys, "train", *training(tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []


def test_working_directories_that_cannot_be(commands, training, run, tmp_path, capsys):
    before = files_in(run[0])
    line = commands.refusal(capsys, "train", *training(run[0], training__steps=90))
    assert "other settings (training.steps)" in line
    assert files_in(run[0]) == before
    (tmp_path / "file").write_text("")
    assert "cannot make the working directory" in commands.refusal(capsys, "train", *training(tmp_path / "file"))
    line = commands.refusal(capsys, "train", training("")[0], "--workdir=")
    assert "--workdir is empty, as a shell variable without a value" in line
    assert "--config is required" in commands.refusal(capsys, "train", f"--workdir={tmp_path / 'run'}")
    assert files_in(tmp_path) == {"file"}


def test_a_run_goes_on_with_moved_data_and_not_with_changed_ones(commands, training, run, folder, tmp_path, capsys):
    moved, other = tmp_path / "moved" / "photos", tmp_path / "other"
    shutil.copytree(folder, moved)
    shutil.copytree(folder, other)
    assert "wrote " in commands.output("train", *training(run[0], data__source=moved, evaluation__source=""))
    before = files_in(run[0])

    def line(**changes):
        return commands.refusal(capsys, "train", *training(run[0], data__source=other, **changes))

    (other / "names.txt").write_text("\n".join((*NAMES[:3], "lorry")))
    found = line()
    assert "holds a run with other data (data.source): data.source name 3 was 'car' and is 'lorry' now" in found
    (other / "names.txt").write_text("\n".join(NAMES))
    (other / "images/0.jpg").write_bytes((other / "images/1.jpg").read_bytes())
    found = line(training__steps=90)
    assert "other settings and data (training.steps, data.source): training.steps was 80 and is 90 now" in found
    assert "files of other names or sizes" in found and "choose another --workdir" in found
    assert files_in(run[0]) == before


def test_config_json_is_what_ran(run, folder):
    found = json.loads((run[0] / "config.json").read_text())
    assert found["data"] == {
        "source": str(folder),
        "strict": False,
        "folder": {"ignore_label": 255, "label_offset": 0, "ignore_zero": False, "label_orientation": ""},
    }
    assert "tiny_world" not in found["validation"] and found["training"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__tfds__split": "x"}, "config.data.tfds.split=x has no effect because config.data.source="),
        ({"validation__tiny_world__count": 3}, "config.validation.tiny_world.count=3 has no effect without config.v"),
        ({"keep_period": 81}, "config.keep_period=81 has no effect, because the run ends after step 80: leave it out"),
        ({"profile": "81:90"}, "config.profile=81:90 has no effect, because the run ends after step 80"),
    ],
)
def test_settings_without_effect(commands, training, tmp_path, capsys, changes, message):
    """Of a package that says nothing of them itself."""
    assert message in commands.refusal(capsys, "train", *training(tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []


def test_the_working_directory_is_named_after_the_file(commands, training, tmp_path, monkeypatch, capsys):
    assert str(workdir.default("configs/coco.py")) == "runs/coco"
    assert str(workdir.default("/a/b/ade20k.py:supervised")) == "runs/ade20k_supervised"
    assert str(workdir.default("my file.py:../a b:c")) == "runs/my_file_.._a_b_c"
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag in training("", training__steps=1, evaluation__source="") if "--workdir" not in flag]
    assert "wrote runs/config/model\n" in commands.output("train", *flags)
    assert (tmp_path / "runs/config/config.json").exists()
    for one in ("--distributed", "--coordinator=host:1", "--num_processes=2", "--process_id=0"):
        assert "--workdir is required with several processes" in commands.refusal(capsys, "train", *flags, one)


def test_training_into_a_bucket(commands, training, run, photo, tmp_path, monkeypatch, capsys):
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    assert "wrote gs://bucket/run/model\n" in commands.output("train", *training("gs://bucket/run"))
    assert {"config.json", "model/config.json"} <= files_in(tmp_path / "bucket/run")
    assert_same_model(tmp_path / "bucket/run", run[0])
    flags = (f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert commands.call("predict", "--checkpoint=gs://bucket/run/model", *flags) == 0
    line = commands.refusal(capsys, "predict", "--checkpoint=gs://bucket/x", *flags)
    assert "gs://bucket/x: there is no such bucket or object" in line

    def absent(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    line = commands.refusal(capsys, "train", *training("gs://bucket/run"))
    assert 'pip install "vlseg-jax[gcs]"' in line


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(commands, training, tmp_path):
    """The run ends with our line, among what the threads that write checkpoints say, and goes on when there is room."""
    workdir, large = tmp_path / "run", {"model__features": 1024}
    with room_for(20_000):
        limited = commands.spawn("train", *training(workdir, **large), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1e9")
    code, _, errors = ending(limited)
    assert code == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"cannot write checkpoints to {workdir}" in line
    assert not (workdir / "model").exists()
    assert f"wrote {workdir / 'model'}\n" in commands.output("train", *training(workdir, **large))
