"""Whole commands: what they leave behind, and how they refuse what they cannot use."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import ifseg_jax
from ifseg_jax import export, storage
from ifseg_jax.adaptation import IGNORED, Adaptation
from ifseg_jax.train import supervised_batches
from tests.buckets import stand_in
from tests.commands import Commands, ending, files_in, finish
from vlseg import torch_files
from vlseg.data import images as image_files
from vlseg.data.sources import open_dataset

NAMES = ("grass", "house", "tree")
LABELS = ",".join(NAMES)
COMMANDS = ("train", "evaluate", "predict", "convert", "export")
STEPS, EVERY = 90, 15

commands = Commands("ifseg_jax")
spawn, call, refusal = commands.spawn, commands.call, commands.refusal

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


def train_flags(model: Path, workdir: Path, **changes: object) -> list[str]:
    """A real configuration, shrunk."""
    settings = {
        "checkpoint": model,
        "categories": LABELS,
        "adaptation.steps": STEPS,
        "adaptation.batch_size": 2,
        "adaptation.max_side": 4,
        "adaptation.learning_rate": 1e-3,
        "log_every": EVERY,
        "checkpoint_every": EVERY,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["--config=configs/coco.py", f"--workdir={workdir}", *overrides]


def picture(height: int, width: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def labelled_folder(root: Path) -> Path:
    """Four pictures with labels, as `--data` takes them."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(4):
        label = np.random.default_rng(number).integers(0, 3, (5, 5), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        label[:3] = 255
        picture(50, 50, number).save(root / "images" / f"{number}.jpg")
        Image.fromarray(label).save(root / "labels" / f"{number}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(50, 50, 0).save(path)
    return path


# Training


@pytest.fixture(scope="module")
def trained(micro_directory, tmp_path_factory) -> Path:
    """The working directory of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    output = finish(spawn("train", *train_flags(micro_directory, workdir)))
    assert output.endswith(f"wrote {workdir / 'model'}\n")
    return workdir


def logged(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_training_leaves_a_model_and_its_history(trained, micro_model):
    assert {"config.json", "metrics.jsonl", "model/model.safetensors", "model/words.txt"} <= files_in(trained)
    assert any(name.startswith("events.out.tfevents") for name in files_in(trained))
    assert json.loads((trained / "config.json").read_text())["adaptation"]["steps"] == STEPS
    lines = logged(trained)
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert lines[-1]["loss"] < lines[0]["loss"]
    model = ifseg_jax.load(trained / "model")
    assert model.categories == NAMES
    assert model.inference == micro_model.inference


def test_a_killed_run_resumes_to_the_same_weights(trained, micro_directory, tmp_path):
    workdir = tmp_path / "disturbed"
    process = spawn("train", *train_flags(micro_directory, workdir))
    assert process.stdout is not None
    # A checkpoint is complete when the next one is begun, and that is before the line after it.
    for line in process.stdout:
        if line.startswith(f"step {3 * EVERY} "):
            process.kill()
            break
    assert ending(process)[0] == -9
    assert not (workdir / "model").exists()

    output = finish(spawn("train", *train_flags(micro_directory, workdir)))
    assert f"step {EVERY} " not in output and f"step {STEPS} " in output
    ours, theirs = (load_file(path / "model" / storage.WEIGHTS_FILE) for path in (workdir, trained))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert [line["step"] for line in logged(workdir)] == [line["step"] for line in logged(trained)]
    assert [line["loss"] for line in logged(workdir)][-1] == logged(trained)[-1]["loss"]


def test_supervised_training_and_its_report(micro_directory, folder, tmp_path):
    changes = {"mode": "supervised", "adaptation__steps": 2, "data__source": folder, "evaluation__source": folder}
    output = finish(spawn("train", *train_flags(micro_directory, tmp_path / "run", **changes)))
    assert "kNN averaging rounds: 0" in output and "kNN averaging rounds: 5" in output and "mIoU" in output
    assert Image.open(tmp_path / "run" / "examples.png").width > 100
    before, after = ifseg_jax.load(micro_directory), ifseg_jax.load(tmp_path / "run" / "model")
    a, b = (model.variables["params"]["encoder"]["norm"]["scale"] for model in (before, after))
    assert not np.array_equal(a, b)


# Evaluation and prediction


def test_ignored_pixels_are_marked_whatever_their_label(folder, tmp_path):
    shifted = shutil.copytree(folder, tmp_path / "shifted")
    for path in (shifted / "labels").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 255, 7, label).astype(np.uint8)).save(path)
    drawn = [
        supervised_batches(open_dataset(str(root), ignore_label=ignored), Adaptation(batch_size=2), 32)(5)[1]
        for root, ignored in ((folder, 255), (shifted, 7))
    ]
    np.testing.assert_array_equal(*drawn)
    assert set(np.unique(drawn)) == {IGNORED, 0, 1, 2}


def test_evaluation(trained, folder, tmp_path):
    out = tmp_path / "new" / "scores"
    output = finish(
        spawn("evaluate", f"--checkpoint={trained / 'model'}", f"--data={folder}", f"--out={out}", "--batch_size=2")
    )
    assert "without kNN averaging" in output and "with kNN averaging (3 neighbours, 5 rounds)" in output
    report = json.loads((out / "metrics.json").read_text())
    assert report["images"] == 4
    model = ifseg_jax.load(trained / "model")
    for key, knn in (("plain", False), ("knn", True)):
        right = total = 0
        for number in range(4):
            label = image_files.read_label(folder / "labels" / f"{number}.png")
            predicted = model.segment(folder / "images" / f"{number}.jpg", knn=knn).label_map
            right += (predicted == label).sum()
            total += (label != 255).sum()
        # A pixel on the edge between two categories may fall to either.
        assert report[key]["aAcc"] == pytest.approx(right / total, abs=2e-3)
        assert set(report[key]["IoU"]) == set(NAMES)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> dict[Path, tuple[int, int]]:
    """Pictures of every sort -> their upright height and width."""
    folder = tmp_path_factory.mktemp("gallery")
    rgb = picture(40, 60, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) << 8)
    deep.save(folder / "16bit.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("L").save(folder / "grey.png")
    rgb.quantize(8).save(folder / "palette.png")
    rgb.save(folder / "rotated.jpg", exif=exif)
    picture(40, 120, 2).save(folder / "wide.png")
    rgb.save(folder / "zebra.png")
    sizes = dict.fromkeys(sorted(folder.iterdir()), (40, 60))
    return sizes | {folder / "rotated.jpg": (60, 40), folder / "wide.png": (40, 120)}


def test_prediction(trained, gallery, tmp_path):
    """A directory of all sorts, in batches that mix their order; every output at the original size."""
    folder, out = next(iter(gallery)).parent, tmp_path / "new" / "out"
    arguments = (f"--checkpoint={trained / 'model'}", f"--images={folder}", f"--out={out}", "--batch_size=3")
    assert finish(spawn("predict", *arguments)) == f"wrote 8 segmentations to {out}\n"
    stems = [path.stem for path in gallery]
    written = {f"{kind}/{stem}.png" for kind in ("labels", "overlays") for stem in stems}
    assert files_in(out) == written | {"predictions.json"}
    report = json.loads((out / "predictions.json").read_text())
    assert report["labels"] == list(NAMES)
    assert [entry["image"] for entry in report["images"]] == [str(path) for path in gallery]
    model = ifseg_jax.load(trained / "model")
    for entry, (path, (height, width)) in zip(report["images"], gallery.items(), strict=True):
        assert (entry["height"], entry["width"]) == (height, width)
        labels = image_files.read_label(out / "labels" / f"{path.stem}.png")
        assert labels.shape == (height, width)
        assert np.mean(labels == model.segment(path).label_map) > 0.99
        assert sum(entry["shares"].values()) == pytest.approx(1, abs=1e-4)
        for name, share in entry["shares"].items():
            assert share == pytest.approx(np.mean(labels == NAMES.index(name)), abs=1e-5)
        overlay = Image.open(out / "overlays" / f"{path.stem}.png")
        assert overlay.width >= width and overlay.height >= height


def test_prediction_of_patterns_and_lists(micro_directory, gallery, tmp_path, capsys):
    folder = next(iter(gallery)).parent
    arguments = ("--checkpoint", micro_directory, "--labels=tree, car", "--noknn")
    assert call("predict", *arguments, f"--images={folder}/*e*.png", f"--out={tmp_path / 'a'}") == 0
    listed = f"--images={folder / 'zebra.png'},{folder / 'wide.png'}"
    assert call("predict", *arguments, listed, f"--out={tmp_path / 'b'}") == 0
    names = [
        [entry["name"] for entry in json.loads((tmp_path / run / "predictions.json").read_text())["images"]]
        for run in ("a", "b")
    ]
    assert names == [["grey", "palette", "wide", "zebra"], ["zebra", "wide"]]
    a, b = (image_files.read_label(tmp_path / run / "labels" / "zebra.png") for run in ("a", "b"))
    np.testing.assert_array_equal(a, b)
    assert capsys.readouterr().err == ""


# Conversion and export


def test_conversion_both_ways(golden_square, tmp_path, capsys):
    first, middle, last = tmp_path / "first.pt", tmp_path / "directory", tmp_path / "last.pt"
    torch_files.save(first, {"model": dict(golden_square.state)})
    assert call("convert", f"--checkpoint={first}", f"--out={middle}") == 0
    assert call("convert", f"--checkpoint={middle}", f"--out={last}") == 0
    assert capsys.readouterr().out == f"wrote {middle}\nwrote {last}\n"
    state = torch_files.load_state_dict(last)
    assert state.keys() == golden_square.state.keys()
    for name, value in golden_square.state.items():
        np.testing.assert_array_equal(state[name].read(), value, err_msg=name)


def test_export_formats(micro_directory, tmp_path, capsys):
    arguments = ("--checkpoint", micro_directory, "--labels=car,fish")
    assert call("export", *arguments, "--format=directory", f"--out={tmp_path / 'directory'}") == 0
    assert ifseg_jax.load(tmp_path / "directory").categories == ("car", "fish")
    assert call("export", *arguments, "--format=official", f"--out={tmp_path / 'official.pt'}") == 0
    assert set(export.CATEGORY_TABLES) < set(torch_files.load_state_dict(tmp_path / "official.pt"))
    target = tmp_path / "model.jax"
    arguments = (*arguments, "--format=stablehlo", "--height=40", "--platforms=cpu,tpu", "--noknn")
    assert call("export", *arguments, f"--out={target}") == 0
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    assert exported.platforms == ("cpu", "tpu")
    assert exported.in_avals[0].shape[1:] == (40, 40, 3)
    assert capsys.readouterr().err == ""


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_the_command_does_and_its_flags(command, capsys):
    assert call(command, "--help") == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert f"python -m ifseg_jax.{command} --" in output
    own = {"train": ("config", "workdir"), "evaluate": ("data", "out"), "predict": ("images", "[no]knn")}
    for name in own.get(command, ("checkpoint", "out")):
        assert f"\n  --{name}: " in output
    assert "alsologtostderr" not in output


# Bad input


class Marker:
    """Leaves a file behind when it is unpickled by Python."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def bad_checkpoints(root: Path, state: dict[str, np.ndarray], directory: Path) -> dict[str, str]:
    """Name of a file or directory made in `root` -> what the refusal says."""
    torch_files.save(root / "whole.pt", {"model": state})
    content = (root / "whole.pt").read_bytes()
    (root / "truncated.pt").write_bytes(content[: len(content) // 2])
    (root / "empty.pt").write_bytes(b"")
    (root / "text.pt").write_text("weights, but in words\n" * 50)
    (root / "calls.pkl").write_bytes(pickle.dumps({"model": Marker(root / "called")}))
    with zipfile.ZipFile(root / "calls.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Marker(root / "called")}, protocol=2))
        archive.writestr("archive/version", "3\n")
    torch_files.save(root / "other.pt", {"model": {"conv.weight": np.zeros((3, 3), np.float32)}})
    narrow = dict(state) | {"encoder.layers.0.fc1.bias": np.zeros(7, np.float32)}
    torch_files.save(root / "shapes.pt", {"model": narrow})
    partial = {name: value for name, value in state.items() if not name.startswith("decoder.layers.1.fc2")}
    torch_files.save(root / "partial.pt", {"model": partial})
    (root / "bare").mkdir()
    shutil.copytree(directory, root / "disagrees")
    config = json.loads((directory / "config.json").read_text())
    config["model"]["ffn_width"] = 48
    (root / "disagrees" / "config.json").write_text(json.dumps(config))
    return {
        "absent.pt": "no such checkpoint",
        "truncated.pt": "truncated",
        "empty.pt": "is empty",
        "text.pt": "not a PyTorch zip archive",
        "calls.pkl": "PyTorch",
        "calls.pt": "could run code",
        "other.pt": "not an OFA or IFSeg checkpoint",
        "shapes.pt": "encoder.layers.0.fc1.bias is [7] instead of [128]",
        "partial.pt": "missing: decoder.layers.1.fc2.bias, decoder.layers.1.fc2.weight",
        "bare": "no config.json",
        "disagrees": "[2, 64] instead of [2, 48]",
    }


def test_bad_checkpoints(golden_square, micro_directory, photo, tmp_path, capsys):
    expected = bad_checkpoints(tmp_path, dict(golden_square.state), micro_directory)
    before = files_in(tmp_path)
    for name, message in expected.items():
        arguments = (f"--checkpoint={tmp_path / name}", f"--images={photo}", f"--out={tmp_path / 'out'}")
        line = refusal(capsys, "predict", *arguments, "--labels=tree")
        assert message in line, line
        assert name in line, line
    # A good one, but nobody says what its words are.
    line = refusal(capsys, "predict", f"--checkpoint={tmp_path / 'whole.pt'}", *arguments[1:], "--labels=tree")
    assert "tokenizer" in line and "encoder.json" in line
    arguments = (f"--checkpoint={tmp_path / 'whole.pt'}", f"--tokenizer={tmp_path / 'bare'}", *arguments[1:])
    assert "holds no tokenizer" in refusal(capsys, "predict", *arguments, "--labels=tree")
    assert files_in(tmp_path) == before
    assert not (tmp_path / "called").exists() and not (tmp_path / "out").exists()


def huge_png(path: Path, side: int) -> None:
    """A PNG that claims side * side pixels in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_bad_images(micro_directory, photo, tmp_path, capsys):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("a picture, but in words")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    huge_png(tmp_path / "huge.png", 20_000)
    (tmp_path / "nothing").mkdir()
    expected = {
        "empty.png": "empty",
        "text.png": "is not an image",
        "one.png": "1 x 1 is too small",
        "huge.png": "too large",
        "absent.png": "no such file",
        "nothing": "no pictures found",
    }
    common = (f"--checkpoint={micro_directory}", "--labels=tree", f"--out={tmp_path / 'out'}")
    for name, message in expected.items():
        line = refusal(capsys, "predict", *common, f"--images={photo},{tmp_path / name}")
        assert message in line and name in line, line
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_damaged_inside(micro_directory, photo, tmp_path, capsys):
    """Its header is sound, so it is found out when its turn comes: what was written before is whole."""
    content = photo.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    common = (f"--checkpoint={micro_directory}", "--labels=tree,car", f"--out={tmp_path / 'out'}")
    line = refusal(capsys, "predict", *common, f"--images={photo},{tmp_path / 'cut.png'}")
    assert "cut.png: is truncated or damaged" in line
    assert files_in(tmp_path / "out") == {"labels/photo.png", "overlays/photo.png"}
    out = tmp_path / "new" / "out"
    refusal(capsys, "predict", *common[:2], f"--out={out}", f"--images={tmp_path / 'cut.png'}")
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--labels=tree,,car", "empty"),
        ("--labels=tree,tree", "twice"),
        ("--labels=tree,Tree", "give each name once"),
        ("--labels=tree,xylophone", "'xylophone' is unknown"),
        ("--labels=absent.txt", "no such file of category names"),
        ("--labels=", "not adapted to categories"),
        ("--tokenizer=absent", "no tokenizer directory absent"),
        ("--colour=3", "Unknown command line flag 'colour'"),
        ("--batch_size=0", "batch_size"),
    ],
)
def test_bad_flags_of_prediction(micro_directory, photo, tmp_path, capsys, given, message):
    common = (f"--checkpoint={micro_directory}", f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert message in refusal(capsys, "predict", *common, given)
    assert list(tmp_path.iterdir()) == []


def test_bad_data(micro_directory, tmp_path, capsys):
    folder = labelled_folder(tmp_path / "folder")
    common = (f"--checkpoint={micro_directory}", f"--data={folder}")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal(capsys, "evaluate", *common, f"--out={tmp_path / 'file'}")
    assert "no such folder" in refusal(capsys, "evaluate", common[0], f"--data={tmp_path / 'absent'}")

    label = folder / "labels" / "2.png"
    good = label.read_bytes()
    Image.fromarray(np.full((50, 50), 3, np.uint8)).save(label)
    line = refusal(capsys, "evaluate", *common, f"--out={tmp_path / 'out'}")
    assert "2.png: has label id 3, but the 3 names have ids 0 to 2" in line
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(label)
    assert "40 x 50 pixels" in refusal(capsys, "evaluate", *common)
    label.unlink()
    assert "no label map for 1 of 4" in refusal(capsys, "evaluate", *common)
    label.write_bytes(good)
    (folder / "names.txt").write_text("grass\nhouse\nxylophone\n")
    assert "xylophone" in refusal(capsys, "evaluate", *common)
    assert not (tmp_path / "out").exists()
    refusal(capsys, "evaluate", "--checkpoint=absent.pt", common[1], f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_label_files_that_count_from_elsewhere(micro_directory, folder, tmp_path):
    """Files of ADE20K's kind, and of another label for what is ignored, give the scores of ours."""
    scores = []
    for ignored, given in ((255, []), (0, ["--ignore_zero"]), (200, ["--ignore_label=200", "--label_offset=1"])):
        data, out = shutil.copytree(folder, tmp_path / f"data{ignored}"), tmp_path / f"out{ignored}"
        for path in (data / "labels").iterdir():
            label = np.asarray(Image.open(path))
            Image.fromarray(np.where(label == 255, ignored, label + bool(given)).astype(np.uint8)).save(path)
        assert not call("evaluate", f"--checkpoint={micro_directory}", f"--data={data}", f"--out={out}", *given)
        scores.append(json.loads((out / "metrics.json").read_text()))
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": ""}, "config.categories is empty"),
        ({"categories": "tree,tree"}, "twice"),
        ({"mode": "sleeping"}, "none of image_free, supervised"),
        ({"mode": "supervised"}, "--config.data.source"),
        ({"mode": "supervised", "data__source": "absent"}, "no such folder"),
        ({"checkpoint": "absent.pt"}, "no such checkpoint"),
        ({"adaptation__steps": 0}, "config.adaptation.steps is 0"),
        ({"adaptation__seed": -1}, "config.adaptation.seed is -1"),
        ({"evaluation__source": "absent"}, "no such folder"),
        ({"evaluation__source": "tiny_world"}, "3 categories do not fit the 18 classes of tiny_world"),
        ({"log_every": 0}, "config.log_every is 0"),
        ({"model__dtype": "int8"}, "neither float32 nor bfloat16"),
        ({"adaptation__speed": 3}, "no such setting: speed"),
        ({"adaptation__steps": "many"}, "many"),
    ],
)
def test_bad_training_settings(micro_directory, tmp_path, capsys, changes, message):
    line = refusal(capsys, "train", *train_flags(micro_directory, tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []


def test_categories_that_do_not_fit_the_data(micro_directory, folder, tmp_path, capsys):
    changes = {"mode": "supervised", "data__source": folder, "categories": "tree,car"}
    line = refusal(capsys, "train", *train_flags(micro_directory, tmp_path / "run", **changes))
    assert "2 categories do not fit the 3 classes of" in line


def test_a_working_directory_of_another_run(trained, micro_directory, tmp_path, capsys):
    before = files_in(trained)
    line = refusal(capsys, "train", *train_flags(micro_directory, trained, adaptation__learning_rate=0.5))
    assert "other settings (adaptation.learning_rate)" in line
    assert files_in(trained) == before
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "train", *train_flags(micro_directory, tmp_path / "file"))
    assert "cannot make the working directory" in line


def test_training_into_a_bucket(trained, micro_directory, photo, tmp_path, monkeypatch, capsys):
    """From the last checkpoint on, which saves the time to compile a step."""
    stand_in(tmp_path, monkeypatch)
    run = tmp_path / "bucket/run"
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    for folder in (run / f"checkpoints/{STEPS}", run / f"checkpoints/{STEPS}/default"):
        (folder / "commit_success.txt").touch()
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    assert call("train", *train_flags(micro_directory, "gs://bucket/run")) == 0
    assert capsys.readouterr().out.endswith("wrote gs://bucket/run/model\n")
    assert {"config.json", "model/config.json"} <= files_in(run)
    weights = (run / "model" / storage.WEIGHTS_FILE).read_bytes()
    assert weights == (trained / "model" / storage.WEIGHTS_FILE).read_bytes()
    assert ifseg_jax.load("gs://bucket/run/model").categories == NAMES
    line = refusal(capsys, "predict", "--checkpoint=gs://bucket/x", f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert "gs://bucket/x: there is no such bucket or object" in line

    def absent(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    line = refusal(capsys, "train", *train_flags(micro_directory, "gs://bucket/run"))
    assert 'pip install "vlseg-jax[gcs]"' in line


def test_targets_that_cannot_be(micro_directory, golden_square, tmp_path, capsys):
    torch_files.save(tmp_path / "a.pt", {"model": dict(golden_square.state)})
    (tmp_path / "taken").mkdir()
    before = files_in(tmp_path)

    def convert(source: object, target: str) -> str:
        return refusal(capsys, "convert", f"--checkpoint={source}", f"--out={tmp_path / target}")

    assert "name a target that ends in .pt" in convert(micro_directory, "b")
    assert "does not end in .pt" in convert(tmp_path / "a.pt", "b.pt")
    assert "exists already" in convert(tmp_path / "a.pt", "taken")
    assert "exists already" in convert(micro_directory, "a.pt")
    assert "create that first" in convert(micro_directory, "absent/b.pt")
    common = (f"--checkpoint={micro_directory}", f"--out={tmp_path / 'c'}")
    assert "not adapted to categories" in refusal(capsys, "export", *common, "--format=stablehlo")
    line = refusal(capsys, "export", *common, "--format=stablehlo", "--labels=tree", "--platforms=abacus")
    assert "platforms abacus" in line
    assert "format" in refusal(capsys, "export", *common, "--format=clay")
    assert "--format=official" in refusal(capsys, "export", common[0], f"--out={tmp_path / 'd.pt'}")
    assert "exists already" in refusal(capsys, "export", common[0], f"--out={tmp_path / 'a.pt'}", "--format=official")
    assert "unexpected argument 'grass'" in refusal(capsys, "export", *common, "--labels=tree,", "grass")
    assert "--config is required" in refusal(capsys, "train", f"--workdir={tmp_path / 'run'}")
    assert "--out is required" in refusal(capsys, "export", common[0])
    assert files_in(tmp_path) == before


# A full disk. A limit on the size of files needs no rights, and fails in the same calls.


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, here and in processes that are started."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The cache of compiled programs, which other tests share, would keep half an entry for good.
    cached = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", cached)


def test_a_full_disk(micro_directory, golden_square, gallery, tmp_path, capsys):
    torch_files.save(tmp_path / "a.pt", {"model": dict(golden_square.state)})
    before = files_in(tmp_path)
    with room_for(30_000):
        line = refusal(capsys, "convert", f"--checkpoint={tmp_path / 'a.pt'}", f"--out={tmp_path / 'b'}")
        assert f"cannot write {tmp_path / 'b'}" in line
        common = (f"--checkpoint={micro_directory}", "--labels=tree,car")
        for kind in export.FORMATS:
            line = refusal(capsys, "export", *common, f"--format={kind}", f"--out={tmp_path / 'c'}")
            assert f"cannot write {tmp_path / 'c'}" in line, line
    assert files_in(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]
    with room_for(200):
        images = f"--images={next(iter(gallery)).parent / 'wide.png'}"
        line = refusal(capsys, "predict", *common, images, f"--out={tmp_path / 'out'}")
        assert "cannot write" in line and "wide.png" in line
    assert files_in(tmp_path / "out") == set()


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(trained, micro_directory, tmp_path):
    """The run ends with our line, among what the threads that write checkpoints say, and goes on when there is room."""
    workdir = tmp_path / "run"
    with room_for(20_000):
        limited = spawn(
            "train", *train_flags(micro_directory, workdir), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1e9"
        )
    code, _, errors = ending(limited)
    assert code == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"cannot write checkpoints to {workdir}" in line
    assert not (workdir / "model").exists()
    finish(spawn("train", *train_flags(micro_directory, workdir)))
    ours, theirs = (load_file(path / "model" / storage.WEIGHTS_FILE) for path in (workdir, trained))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_place_without_permission_is_one_line(micro_directory, tmp_path, capsys):
    """`/proc` takes no files, not even root's."""
    line = refusal(capsys, "export", f"--checkpoint={micro_directory}", "--out=/proc/model")
    assert "cannot write /proc/model" in line
    assert os.path.isdir("/proc")
