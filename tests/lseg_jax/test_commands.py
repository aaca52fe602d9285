"""Whole commands of LSeg: what they leave behind, and how they refuse what they cannot use."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import ifseg_jax
import lseg_jax
from lseg_jax import export, storage
from lseg_jax.config import LSegConfig, TextConfig, ViTConfig
from lseg_jax.model import NONE, Rejection
from lseg_jax.train import FREE
from tests import samples
from tests.commands import Commands, ending, files_in, finish
from vlseg import torch_files
from vlseg.data import images as image_files

NAMES = ("sky", "grass", "brick wall", "sand")
COLOURS = np.array([[90, 140, 230], [60, 150, 50], [170, 60, 40], [220, 200, 140]])
COMMANDS = ("train", "evaluate", "predict", "embed", "convert", "export")
STEPS, EVERY = 80, 20

commands = Commands("lseg_jax")
spawn, call, refusal = commands.spawn, commands.call, commands.refusal

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Label embeddings of these tests are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train_flags(data: object, workdir: object, **changes: object) -> list[str]:
    """A real configuration, shrunk."""
    settings = {
        "data.source": data,
        "evaluation.source": data,
        "model.image.width": 32,
        "model.image.heads": 2,
        "model.image.layers": 4,
        "model.image.grid": 4,
        "model.image.reassembled": "(16, 16, 16, 16)",
        "model.features": 16,
        "training.steps": STEPS,
        "training.batch_size": 4,
        "training.learning_rate": 0.02,
        "training.warmup_steps": 5,
        "training.margin": 0.1,
        "training.base_size": 80,
        "training.scale_range": "(0.7, 1.3)",
        "log_every": EVERY,
        "checkpoint_every": EVERY,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["--config=configs/lseg_tiny.py", f"--workdir={workdir}", *overrides]


def photograph(seed: int) -> tuple[Image.Image, np.ndarray]:
    """A picture of three regions, and its labels; a strip of it is not labelled."""
    rng = np.random.default_rng(seed)
    height, width = 80 + 4 * (seed % 3), 100 - 7 * (seed % 2)
    kinds = rng.permutation(len(NAMES))[:3]
    label = np.full((height, width), kinds[0], np.uint8)
    row, column = rng.integers(height // 3, 2 * height // 3), rng.integers(width // 3, 2 * width // 3)
    label[row:, :column] = kinds[1]
    label[row:, column:] = kinds[2]
    pixels = COLOURS[label] + rng.normal(0, 12, (height, width, 3))
    label[:, :5] = 255
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), label


def labelled_folder(root: Path) -> Path:
    """Eight photographs with labels, as `--data` takes them."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(8):
        image, label = photograph(number)
        image.save(root / "images" / f"{number}.jpg", quality=95)
        Image.fromarray(label).save(root / "labels" / f"{number}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    photograph(50)[0].save(path)
    return path


@pytest.fixture(scope="module")
def official_model() -> lseg_jax.LSeg:
    """A micro model with CLIP's text encoder and a block, of the kind that the official code has."""
    text = TextConfig(width=64, heads=1, layers=1, features=32, context=8)
    image = ViTConfig(patch=16, width=64, heads=1, layers=4, grid=3, reassembled=(8, 8, 8, 8))
    config = LSegConfig(text, image, 8, "bottleneck", 2, "relu")
    rng = np.random.default_rng(0)
    shapes = storage.abstract_variables(config)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    return lseg_jax.LSeg(config, variables, labels=("cat", "tree"))


@pytest.fixture(scope="module")
def official_directory(official_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "official"
    official_model.save(path)
    return path


# Training


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> tuple[Path, str]:
    """The working directory of a run that nothing disturbed, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    return workdir, finish(spawn("train", *train_flags(folder, workdir)))


@pytest.fixture(scope="module")
def trained(run) -> Path:
    return run[0] / "model"


def logged(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_training_leaves_a_model_and_its_history(run):
    workdir, output = run
    assert f"wrote {workdir / 'model'}\n" in output and "mIoU" in output
    assert {"config.json", "metrics.jsonl", "examples.png", "model/model.safetensors"} <= files_in(workdir)
    assert any(name.startswith("events.out.tfevents") for name in files_in(workdir))
    lines = logged(workdir)
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    model = lseg_jax.load(workdir / "model")
    assert model.labels == NAMES
    assert (model.inference.base_size, model.inference.crop_size) == (80, 64)
    assert Image.open(workdir / "examples.png").width > 200


@pytest.mark.slow
def test_a_terminated_run_resumes_to_the_same_weights(run, folder, tmp_path):
    workdir = tmp_path / "disturbed"
    process = spawn("train", *train_flags(folder, workdir))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {EVERY} "):
            process.terminate()
            break
    assert ending(process)[0] == 128 + 15
    assert not (workdir / "model").exists()
    # Settings that do not change the run may change.
    output = finish(spawn("train", *train_flags(folder, workdir, evaluation__source="")))
    assert f"step {EVERY} " not in output and f"step {STEPS} " in output and "mIoU" not in output
    ours, theirs = (load_file(path / "model" / storage.WEIGHTS_FILE) for path in (workdir, run[0]))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert logged(workdir)[-1]["loss"] == logged(run[0])[-1]["loss"]


# Evaluation


def test_evaluation(trained, folder, tmp_path, capsys):
    common = (f"--checkpoint={trained}", f"--data={folder}")
    assert call("evaluate", *common, f"--out={tmp_path / 'new' / 'plain'}", "--batch_size=2") == 0
    output, errors = capsys.readouterr()
    assert "mIoU" in output and errors == ""
    report = json.loads((tmp_path / "new" / "plain" / "metrics.json").read_text())
    assert report["images"] == 8 and set(report["IoU"]) == set(NAMES)
    model = lseg_jax.load(trained)
    right, total, union = 0, 0, np.zeros((2, len(NAMES)))
    for number in range(8):
        label = image_files.read_label(folder / "labels" / f"{number}.png")
        predicted = model.segment(folder / "images" / f"{number}.jpg").label_map
        counted = label != 255
        right += (predicted == label)[counted].sum()
        total += counted.sum()
        for index in range(len(NAMES)):
            a, b = (predicted == index) & counted, label == index
            union[:, index] += (a & b).sum(), (a | b).sum()
    # A pixel on the edge between two categories may fall to either.
    assert report["aAcc"] == pytest.approx(100 * right / total if report["aAcc"] > 1 else right / total, rel=2e-3)
    score = (union[0] / union[1]).mean()
    assert report["mIoU"] == pytest.approx(100 * score if report["mIoU"] > 1 else score, rel=5e-3)
    assert score > 0.6  # all of one label would be less than 0.15


def test_evaluation_with_other_words_and_scales(trained, folder, tmp_path, capsys):
    words = "the sky,green grass,bricks,beach sand"
    common = (f"--checkpoint={trained}", f"--data={folder}", f"--labels={words}", "--multi_scale")
    assert call("evaluate", *common, f"--out={tmp_path}") == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert list(report["IoU"]) == words.split(",")
    assert report["inference"]["flip"] is True and len(report["inference"]["scales"]) == 6
    assert "green grass" in capsys.readouterr().out


# Prediction and embeddings


def test_prediction(trained, folder, photo, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert call("predict", f"--checkpoint={trained}", f"--images={folder / 'images'},{photo}", f"--out={out}") == 0
    assert capsys.readouterr() == (f"wrote 9 segmentations to {out}\n", "")
    stems = [*map(str, range(8)), "photo"]
    expected = {f"{kind}/{stem}.png" for kind in ("labels", "overlays") for stem in stems}
    assert files_in(out) == expected | {"predictions.json"}
    report = json.loads((out / "predictions.json").read_text())
    assert report["labels"] == list(NAMES) and [entry["name"] for entry in report["images"]] == stems
    model = lseg_jax.load(trained)
    for entry, path in [(report["images"][2], folder / "images" / "2.jpg"), (report["images"][8], photo)]:
        labels = image_files.read_label(out / "labels" / f"{entry['name']}.png")
        assert labels.shape == (entry["height"], entry["width"]) == Image.open(path).size[::-1]
        assert np.mean(labels == model.segment(path).label_map) > 0.99
        for name, share in entry["shares"].items():
            assert share == pytest.approx(np.mean(labels == NAMES.index(name)), abs=1e-5)
        assert Image.open(out / "overlays" / f"{entry['name']}.png").width >= entry["width"]


def test_prediction_of_pixels_that_are_none_of_the_labels(trained, photo, tmp_path):
    common = (f"--checkpoint={trained}", f"--images={photo}", f"--labels={','.join(NAMES)}")
    similarities = lseg_jax.load(trained).segment(photo, NAMES).top_similarities[..., 0]
    least = float(np.median(similarities))
    out = tmp_path / "out"
    assert call("predict", *common, f"--out={out}", f"--min_similarity={least}", "--top_k=3") == 0
    report = json.loads((out / "predictions.json").read_text())
    assert report["labels"] == [*NAMES, NONE]
    assert report["images"][0]["shares"][NONE] == pytest.approx(0.5, abs=0.02)
    labels = image_files.read_label(out / "labels" / "photo.png")
    assert set(np.unique(labels)) <= set(range(5))
    top = np.load(out / "top" / "photo.npz")
    assert top["labels"].shape == (*labels.shape, 3) and top["labels"].dtype == np.int32
    assert top["similarities"].dtype == np.float16 and (np.diff(top["similarities"].astype(float)) <= 0).all()
    kept = labels != 4
    np.testing.assert_array_equal(labels[kept], top["labels"][..., 0][kept])
    assert call("predict", *common, f"--out={tmp_path / 'b'}", "--min_margin=0.05") == 0
    margin = lseg_jax.load(trained).segment(photo, NAMES, rejection=Rejection(min_margin=0.05)).label_map
    found = image_files.read_label(tmp_path / "b" / "labels" / "photo.png")
    assert np.mean(found == margin) > 0.99 and not (tmp_path / "b" / "top").exists()


def test_prediction_with_labels_in_any_script(trained, photo, tmp_path):
    names = ["небо", "草", "ziegel \N{BRICK}", "ทราย"]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    common = (f"--checkpoint={trained}", f"--images={photo}")
    assert call("predict", *common, f"--labels={tmp_path / 'names.txt'}", f"--out={tmp_path / 'a'}") == 0
    assert call("predict", *common, f"--labels={','.join(names)}", f"--out={tmp_path / 'b'}") == 0
    a, b = (json.loads((tmp_path / run / "predictions.json").read_text(encoding="utf-8")) for run in "ab")
    assert a == b and a["labels"] == names
    assert "草" in (tmp_path / "a" / "predictions.json").read_text(encoding="utf-8")


def test_embeddings(trained, folder, tmp_path, capsys):
    arguments = (f"--checkpoint={trained}", f"--images={folder / 'images'}/[01].jpg", f"--out={tmp_path}")
    assert call("embed", *arguments, "--long_side=64") == 0
    assert capsys.readouterr().err == ""
    assert files_in(tmp_path) == {"embeddings.json", "0.npz", "1.npz"}
    entry = json.loads((tmp_path / "embeddings.json").read_text())["images"][1]
    cells = np.load(tmp_path / "1.npz")["embeddings"]
    assert cells.dtype == np.float16 and list(cells.shape) == entry["shape"] == [32, 32, 384]
    assert (entry["height"], entry["width"]) == (84, 93)
    np.testing.assert_allclose(np.linalg.norm(cells.astype(np.float32), axis=-1), 1, atol=2e-3)
    # A text finds its pixels.
    label = image_files.read_label(folder / "labels" / "1.png")
    rows, columns = (np.rint(np.arange(32) * (side - 1) / 31).astype(int) for side in label.shape)
    truth = label[np.ix_(rows, columns)]
    found = (cells.astype(np.float32) @ np.asarray(lseg_jax.load(trained).encode_text(NAMES)).T).argmax(-1)
    assert (found == truth)[truth != 255].mean() > 0.7


# Conversion and export


def test_conversion_both_ways(official_directory, official_model, tmp_path, capsys):
    first, middle, last = tmp_path / "first.ckpt", tmp_path / "directory", tmp_path / "last.ckpt"
    assert call("convert", f"--checkpoint={official_directory}", f"--out={first}") == 0
    assert call("convert", f"--checkpoint={first}", f"--out={middle}") == 0
    assert call("convert", f"--checkpoint={middle}", f"--out={last}") == 0
    assert capsys.readouterr() == (f"wrote {first}\nwrote {middle}\nwrote {last}\n", "")
    assert storage.read(middle).config == official_model.config
    ours, theirs = (load_file(path / storage.WEIGHTS_FILE) for path in (middle, official_directory))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    states = [torch_files.load_state_dict(path, ("state_dict",)) for path in (first, last)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        np.testing.assert_array_equal(tensor.read(), states[1][name].read(), err_msg=name)
    # A checkpoint that does not say which block it has.
    torch_files.save(tmp_path / "bare.ckpt", {"state_dict": {name: t.read() for name, t in states[0].items()}})
    bare = f"--checkpoint={tmp_path / 'bare.ckpt'}"
    assert "does not say which" in refusal(capsys, "convert", bare, f"--out={tmp_path / 'told'}")
    told = ("--block=bottleneck", "--block_depth=2", "--activation=relu")
    assert call("convert", bare, f"--out={tmp_path / 'told'}", *told) == 0
    assert storage.read(tmp_path / "told").config == official_model.config


def test_export_of_a_directory_and_of_an_official_checkpoint(trained, official_directory, tmp_path, capsys):
    arguments = (f"--checkpoint={trained}", "--labels=car,fish", f"--out={tmp_path / 'directory'}")
    assert call("export", *arguments) == 0
    exported = lseg_jax.load(tmp_path / "directory")
    assert exported.labels == ("car", "fish") and exported.inference == lseg_jax.load(trained).inference
    target = tmp_path / "official.ckpt"
    assert call("export", f"--checkpoint={official_directory}", "--format=official", f"--out={target}") == 0
    assert all(name.startswith("net.") for name in torch_files.load_state_dict(target, ("state_dict",)))
    assert capsys.readouterr().err == ""
    line = refusal(capsys, "export", f"--checkpoint={trained}", "--format=official", f"--out={tmp_path / 'x.ckpt'}")
    assert "export a directory" in line


PROGRAM = """
    import sys
    for name in ("flax", "lseg_jax", "vlseg"):
        sys.modules[name] = None  # importing them fails
    import jax.export
    import numpy as np

    exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
    result = exported.call(np.load(sys.argv[2]))
    np.savez(sys.argv[3], **result)
"""


def test_a_stablehlo_file_needs_jax_alone(trained, folder, tmp_path):
    target = tmp_path / "model.jax"
    sides = ("--height=64", "--width=96", "--platforms=cpu,tpu", "--format=stablehlo")
    assert call("export", f"--checkpoint={trained}", f"--out={target}", *sides) == 0
    images = [np.asarray(Image.open(folder / "images" / f"{number}.jpg").resize((96, 64))) for number in (0, 1)]
    np.save(tmp_path / "images.npy", np.stack(images))
    files = [str(tmp_path / name) for name in ("model.jax", "images.npy", "result.npz")]
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found = np.load(tmp_path / "result.npz")
    model = lseg_jax.load(trained)
    expected = jax.jit(export.segmenter(model))(jnp.asarray(np.stack(images)))
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)
    assert np.mean(found["label_map"] == expected["label_map"]) > 0.999
    logits = np.asarray(model.logits(np.stack(images), NAMES))
    assert np.mean(found["label_map"] == logits.argmax(-1)) > 0.999


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_the_command_does_and_its_flags(command, capsys):
    assert call(command, "--help") == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert f"python -m lseg_jax.{command} --" in output
    for name in ("config", "workdir") if command == "train" else ("checkpoint", "out", "block"):
        assert f"\n  --{name}: " in output
    assert "alsologtostderr" not in output


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": ""}, "--config.data.source"),
        ({"data__source": "absent"}, "no such folder"),
        ({"evaluation__source": "absent"}, "no such folder"),
        ({"evaluation__source": "tiny_world,tiny_world"}, "names 2 data sets"),
        ({"label_sets": "colours"}, "none of names, others"),
        ({"label_sets": "others", "data__source": "FOLDER,FOLDER"}, "takes one data set"),
        ({"training__speed": 3}, "no such setting: speed"),
        ({"training__steps": 0}, "config.training.steps is 0"),
        ({"training__steps": "many"}, "many"),
        ({"training__crop_size": 100}, "config.training.crop_size is 100; it must be a multiple of 32"),
        ({"training__optimizer": "adagrad"}, "none of sgd, adamw"),
        ({"training__power": -1.0}, "config.training.power is -1.0"),
        ({"training__scale_range": "(2.0, 1.0)"}, "two rising positive numbers"),
        ({"model__image__layers": 3}, "four equal depths"),
        ({"model__image__patch": 7}, "patches of 7"),
        ({"model__block": "cube"}, "none of none, bottleneck, depthwise"),
        ({"model__dtype": "int8"}, "none of float32, bfloat16"),
        ({"checkpoint": "absent.ckpt"}, "no such checkpoint"),
        ({"pretrained__image": "absent.npz"}, "absent.npz"),
        ({"pretrained__text": "absent.pt"}, "absent.pt"),
        ({"log_every": 0}, "config.log_every is 0"),
    ],
)
def test_bad_training_settings(folder, tmp_path, capsys, changes, message):
    changes = {
        name: value.replace("FOLDER", str(folder)) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    line = refusal(capsys, "train", *train_flags(folder, tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_is_no_data_set_for_pairs(tmp_path, capsys):
    for name in ("bus", "abacus"):
        for number in (1, 2):
            samples.labelled(tmp_path / "data", f"{name}/{number}.jpg", f"{name}/{number}.png", [0, 255], number)
    changes = {"label_sets": "others", "evaluation__source": ""}
    line = refusal(capsys, "train", *train_flags(f"fss1000:{tmp_path / 'data'}:test", tmp_path / "run", **changes))
    assert "give --config=configs/lseg_zero_shot.py:fss1000" in line and not (tmp_path / "run").exists()


def test_training_needs_a_trained_text_encoder(folder, tmp_path, capsys):
    arguments = ("--config=configs/lseg_base.py", f"--config.data.source={folder}", f"--workdir={tmp_path / 'run'}")
    assert "--config.pretrained.text=FILE" in refusal(capsys, "train", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_working_directory_of_another_run(run, folder, capsys):
    before = files_in(run[0])
    line = refusal(capsys, "train", *train_flags(folder, run[0], training__learning_rate=0.5))
    assert "other settings (training.learning_rate)" in line
    assert files_in(run[0]) == before
    assert "evaluation" in FREE


def test_bad_checkpoints(official_directory, photo, tmp_path, capsys):
    torch_files.save(tmp_path / "other.ckpt", {"state_dict": {"conv.weight": np.zeros((3, 3), np.float32)}})
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "bare").mkdir()
    tiny = Path(ifseg_jax.__file__).with_name("tiny")
    expected = {
        tmp_path / "absent.ckpt": "no such checkpoint",
        tmp_path / "other.ckpt": "not an LSeg checkpoint",
        tmp_path / "empty.ckpt": "is empty",
        tmp_path / "bare": "no config.json",
        photo: "PyTorch",
        tiny: "not 'lseg_jax'",
    }
    for path, message in expected.items():
        arguments = (f"--checkpoint={path}", f"--images={photo}", f"--out={tmp_path / 'out'}", "--labels=tree")
        line = refusal(capsys, "predict", *arguments)
        assert message in line and str(path) in line, line
    arguments = (f"--checkpoint={official_directory}", f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert "says itself which block" in refusal(capsys, "predict", *arguments, "--block=bottleneck", "--labels=tree")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--labels=tree,,car", "empty"),
        ("--labels=tree,Tree", "give each name once"),
        ("--labels=tree,tree", "twice"),
        ("--labels=absent.txt", "no such file of category names"),
        ("--top_k=0", "top_k"),
        ("--top_k=5", "from 1 to the number of labels, 4"),
        ("--min_margin=-1", "min_margin"),
        ("--tokenizer=absent", "no tokenizer directory absent"),
        ("--colour=3", "Unknown command line flag 'colour'"),
        ("--batch_size=0", "batch_size"),
        ("--images=absent.png", "no such file"),
        ("--images=BROKEN", "is not an image"),
        ("--images=CUT", "is truncated or damaged"),
    ],
)
def test_bad_flags_of_prediction(trained, photo, tmp_path, capsys, given, message):
    (tmp_path / "broken.png").write_text("a picture, but in words")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:2000])
    before = files_in(tmp_path)
    given = given.replace("BROKEN", str(tmp_path / "broken.png")).replace("CUT", str(tmp_path / "cut.png"))
    common = (f"--checkpoint={trained}", f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert message in refusal(capsys, "predict", *common, given)
    assert files_in(tmp_path) == before and not (tmp_path / "out").exists()
    if given.startswith("--images"):
        assert message in refusal(capsys, "embed", *common, given)
        assert files_in(tmp_path) == before and not (tmp_path / "out").exists()


def test_bad_data_and_labels_of_evaluation(trained, tmp_path, capsys):
    folder = labelled_folder(tmp_path / "folder")
    common = (f"--checkpoint={trained}", f"--data={folder}", f"--out={tmp_path / 'out'}")
    assert "no such folder" in refusal(capsys, "evaluate", common[0], f"--data={tmp_path / 'absent'}")
    assert "3 labels do not fit the data set's 4 classes" in refusal(capsys, "evaluate", *common, "--labels=a,b,c")
    assert "give each name once" in refusal(capsys, "evaluate", *common, "--labels=a,b,c,A")
    assert "ignore_zero" in refusal(capsys, "evaluate", common[0], "--data=tiny_world", "--ignore_zero")
    label = folder / "labels" / "2.png"
    good = label.read_bytes()
    Image.fromarray(np.full_like(np.asarray(Image.open(label)), 9)).save(label)
    assert "2.png: has label id 9" in refusal(capsys, "evaluate", *common)
    label.unlink()
    assert "no label map for 1 of 8" in refusal(capsys, "evaluate", *common)
    label.write_bytes(good)
    (folder / "names.txt").unlink()
    assert "names.txt: no such file" in refusal(capsys, "evaluate", *common)
    assert not (tmp_path / "out").exists()


def test_targets_that_cannot_be(trained, official_directory, tmp_path, capsys):
    (tmp_path / "taken").mkdir()

    def line(command: str, source: Path, target: str, *more: str) -> str:
        return refusal(capsys, command, f"--checkpoint={source}", f"--out={tmp_path / target}", *more)

    assert "exists already" in line("convert", official_directory, "taken")
    assert "exists already" in line("export", trained, "taken")
    assert "ends in .ckpt" in line("convert", official_directory, "b")
    assert "create that first" in line("convert", official_directory, "absent/b.ckpt")
    assert "no such text encoder" in line("convert", trained, "b.ckpt")
    assert "says itself which block" in line("convert", official_directory, "b.ckpt", "--block=depthwise")
    stablehlo = "--format=stablehlo"
    assert "multiples of 32" in line("export", trained, "c", stablehlo, "--height=40")
    assert "platforms abacus" in line("export", trained, "c", stablehlo, "--platforms=abacus")
    assert "format" in line("export", trained, "c", "--format=clay")
    assert "unexpected argument 'grass'" in line("export", trained, "c", "--labels=tree,", "grass")
    assert "--out is required" in refusal(capsys, "export", f"--checkpoint={trained}")
    assert "--config is required" in refusal(capsys, "train", f"--workdir={tmp_path / 'run'}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
