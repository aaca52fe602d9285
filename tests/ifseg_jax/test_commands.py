"""What IFSeg adds to the commands: its ways of training, averaging over neighbours, official archives, categories."""

import json
import shutil
from pathlib import Path

import jax.export
import numpy as np
import pytest
from PIL import Image

import ifseg_jax
from ifseg_jax.checkpoint import CATEGORY_TABLES
from ifseg_jax.objective import Supervised
from ifseg_jax.settings import Adaptation
from ifseg_jax.training import supervised_batches
from tests.commands import NAMES, Commands, files_in, logged, train_flags
from vlseg import torch_files
from vlseg.data import images as image_files
from vlseg.data.examples import IGNORED
from vlseg.data.sources import open_dataset

STEPS, EVERY = 90, 15

commands = Commands("ifseg_jax")
call, refusal = commands.call, commands.refusal


def flags_of(model: Path, workdir: Path, **changes: object) -> list[str]:
    """A real configuration, shrunk."""
    settings = {
        "checkpoint": model,
        "categories": ",".join(NAMES),
        "adaptation.steps": STEPS,
        "adaptation.batch_size": 2,
        "adaptation.max_side": 4,
        "adaptation.learning_rate": 1e-3,
        "log_every": EVERY,
        "checkpoint_every": STEPS,
    }
    return train_flags("configs/coco.py", workdir, settings, **changes)


@pytest.fixture(scope="module")
def trained(micro_directory, tmp_path_factory) -> Path:
    """The working directory of an image-free run."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert commands.output("train", *flags_of(micro_directory, workdir)).endswith(f"wrote {workdir / 'model'}\n")
    return workdir


def test_image_free_training(trained, micro_model):
    assert {"config.json", "metrics.jsonl", "model/model.safetensors", "model/words.txt"} <= files_in(trained)
    lines = logged(trained)
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert lines[-1]["loss"] < lines[0]["loss"]
    model = ifseg_jax.load(trained / "model")
    assert model.categories == NAMES
    assert model.inference == micro_model.inference


def test_supervised_training_and_its_report(micro_directory, folder, tmp_path):
    changes = {"mode": "supervised", "adaptation__steps": 2, "data__source": folder, "evaluation__source": folder}
    output = commands.output("train", *flags_of(micro_directory, tmp_path / "run", **changes))
    assert "without kNN averaging" in output and "with kNN averaging (3 neighbours, 5 rounds)" in output
    before, after = ifseg_jax.load(micro_directory), ifseg_jax.load(tmp_path / "run" / "model")
    a, b = (model.variables["params"]["encoder"]["norm"]["scale"] for model in (before, after))
    assert not np.array_equal(a, b)


def test_ignored_pixels_are_marked_whatever_their_label(folder, micro_config, tmp_path):
    shifted = shutil.copytree(folder, tmp_path / "shifted")
    for path in (shifted / "labels").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 255, 7, label).astype(np.uint8)).save(path)
    task = Supervised(micro_config, Adaptation(batch_size=2, image_size=32), len(NAMES), 10)
    drawn = []
    for root, ignored in ((folder, 255), (shifted, 7)):
        batches = supervised_batches(open_dataset(str(root), ignore_label=ignored), task)
        drawn.append(np.stack([batches(step)[1] for step in range(6)]))
    np.testing.assert_array_equal(*drawn)
    assert set(np.unique(drawn)) == {IGNORED, 0, 1, 2, 3}


def test_evaluation_and_prediction_with_and_without_averaging(trained, folder, tmp_path):
    checkpoint, out = f"--checkpoint={trained / 'model'}", tmp_path / "scores"
    output = commands.output("evaluate", checkpoint, f"--data={folder}", f"--out={out}")
    assert "without kNN averaging" in output and "with kNN averaging (3 neighbours, 5 rounds)" in output
    report = json.loads((out / "metrics.json").read_text())
    assert report["images"] == 4 and report["mIoU"] == report["knn"]["mIoU"]
    assert {path.name for path in out.iterdir()} == {"metrics.json", "metrics.csv", "plain.csv", "knn.csv"}
    model = ifseg_jax.load(trained / "model")
    for key, knn in (("plain", False), ("knn", True)):
        images = (checkpoint, f"--images={folder / 'images'}", f"--out={tmp_path / key}")
        commands.output("predict", *images, *([] if knn else ["--noknn"]))
        right = total = 0
        for number in range(4):
            label = image_files.read_label(folder / f"labels/{number}.png")
            predicted = model.segment(folder / f"images/{number}.jpg", knn=knn).label_map
            right += (predicted == label).sum()
            total += (label != 255).sum()
            written = image_files.read_label(tmp_path / key / f"labels/{number}.png")
            assert np.mean(written == predicted) > 0.99
        # A pixel on the edge between two categories may fall to either.
        assert report[key]["aAcc"] == pytest.approx(right / total, abs=2e-3)
        assert set(report[key]["IoU"]) == set(NAMES)


def test_export_formats(micro_directory, tmp_path, capsys):
    arguments = (f"--checkpoint={micro_directory}", "--labels=car,fish")
    assert call("export", *arguments, f"--out={tmp_path / 'directory'}") == 0
    assert ifseg_jax.load(tmp_path / "directory").categories == ("car", "fish")
    assert call("export", *arguments, "--format=official", f"--out={tmp_path / 'official.pt'}") == 0
    assert set(CATEGORY_TABLES) < set(torch_files.load_state_dict(tmp_path / "official.pt"))
    target = tmp_path / "model.jax"
    arguments = (*arguments, "--format=stablehlo", "--height=40", "--platforms=cpu,tpu", "--noknn")
    assert call("export", *arguments, f"--out={target}") == 0
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    assert exported.platforms == ("cpu", "tpu")
    assert exported.in_avals[0].shape[1:] == (40, 40, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "convert", "export", "pseudo_label"])
def test_help_shows_how_the_command_is_run(command):
    output = commands.output(command, "--help")
    assert f"python -m ifseg_jax.{command} --" in output
    assert ("\n  --[no]knn: " in output) == (command not in ("train", "convert"))


# Bad input


def test_bad_checkpoints(golden_square, folder, tmp_path, capsys):
    """What is wrong with an archive or a directory is told by `ifseg_jax.load`, and tested with it."""
    torch_files.save(tmp_path / "whole.pt", {"model": dict(golden_square.state)})
    torch_files.save(tmp_path / "other.pt", {"model": {"conv.weight": np.zeros((3, 3), np.float32)}})
    (tmp_path / "bare").mkdir()

    def line(name: str, *flags: str) -> str:
        given = (f"--checkpoint={tmp_path / name}", f"--images={folder / 'images'}", f"--out={tmp_path / 'out'}")
        return refusal(capsys, "predict", *given, "--labels=tree", *flags)

    assert "absent.pt is neither a file, a directory nor one of tiny, ofa_tiny" in line("absent.pt")
    assert "other.pt: not an OFA or IFSeg checkpoint" in line("other.pt")
    assert "tokenizer" in line("whole.pt") and "encoder.json" in line("whole.pt")
    assert "holds no tokenizer" in line("whole.pt", f"--tokenizer={tmp_path / 'bare'}")
    assert "no tokenizer directory absent" in line("whole.pt", "--tokenizer=absent")
    assert files_in(tmp_path) == {"whole.pt", "other.pt"} and not (tmp_path / "out").exists()


def test_words_that_the_model_cannot_read(micro_directory, folder, tmp_path, capsys):
    common = (f"--checkpoint={micro_directory}", f"--out={tmp_path / 'out'}")
    images, data = f"--images={folder / 'images'}", shutil.copytree(folder, tmp_path / "data")
    assert "'xylophone' is unknown" in refusal(capsys, "predict", *common, images, "--labels=tree,xylophone")
    assert "not adapted to categories" in refusal(capsys, "predict", *common, images)
    assert "not adapted to categories" in refusal(capsys, "export", *common, "--format=stablehlo")
    (data / "names.txt").write_text("grass\nhouse\ntree\nxylophone\n")
    assert "'xylophone' is unknown" in refusal(capsys, "evaluate", *common, f"--data={data}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": ""}, "config.categories is empty"),
        ({"mode": "sleeping"}, "none of image_free, supervised"),
        ({"mode": "supervised"}, "--config.data.source"),
        ({"mode": "supervised", "data__source": "FOLDER", "categories": "tree,car"}, "2 categories do not fit the 4"),
        ({"checkpoint": "absent.pt"}, "no such checkpoint"),
        ({"adaptation__steps": 0}, "config.adaptation.steps is 0"),
        ({"adaptation__seed": -1}, "config.adaptation.seed is -1"),
        ({"evaluation__source": "tiny_world"}, "4 labels do not fit the 18 classes of tiny_world"),
    ],
)
def test_bad_training_settings(micro_directory, folder, tmp_path, capsys, changes, message):
    changes = {name: folder if value == "FOLDER" else value for name, value in changes.items()}
    line = refusal(capsys, "train", *flags_of(micro_directory, tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []
