"""What LSeg adds to the commands: many scales, blocks, official checkpoints, embeddings of pixels, text encoders."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ifseg_jax
import lseg_jax
from lseg_jax import checkpoint
from tests import samples
from tests.commands import NAMES, Commands, files_in, logged, train_flags
from vlseg import torch_files
from vlseg.checkpoints.directory import WEIGHTS_FILE
from vlseg.data import images as image_files
from vlseg.data.sources import open_dataset
from vlseg.evaluation.crf import CRF, refine
from vlseg.evaluation.sliding_window import OFFICIAL_SCALES

STEPS, EVERY = 80, 20

commands = Commands("lseg_jax")
call, refusal = commands.call, commands.refusal


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Label embeddings of these tests are kept apart from the user's; shapes of parameters take a second to find."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setattr(checkpoint, "parameter_shapes", functools.cache(checkpoint.parameter_shapes))
        yield


def flags_of(data: object, workdir: object, **changes: object) -> list[str]:
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
        "training.learning_rate": 0.005,
        "training.warmup_steps": 5,
        "training.margin": 0.1,
        "training.base_size": 80,
        "training.scale_range": "(0.7, 1.3)",
        "log_every": EVERY,
        "checkpoint_every": STEPS,
    }
    return train_flags("configs/lseg_tiny.py", workdir, settings, **changes)


@pytest.fixture(scope="module")
def official(micro_bottleneck, tmp_path_factory) -> Path:
    """A model with CLIP's text encoder and a block, of the kind that the official code has."""
    path = tmp_path_factory.mktemp("models") / "official"
    micro_bottleneck.save(path)
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> tuple[Path, str]:
    """The working directory of a run, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    seen = {"inference__scales": "(1,0.75)", "inference__stride_rate": 0.5}
    return workdir, commands.output("train", *flags_of(folder, workdir, **seen))


@pytest.fixture(scope="module")
def trained(run) -> Path:
    return run[0] / "model"


def test_training(run):
    workdir, output = run
    assert f"wrote {workdir / 'model'}\n" in output
    lines = logged(workdir)
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    score = re.search(r"^mIoU (\S+)$", output, re.MULTILINE)
    assert score and float(score[1]) > 60  # all of one label would be less than 15
    model = lseg_jax.load(workdir / "model")
    assert model.labels == NAMES
    assert model.inference == lseg_jax.Scheme(80, 64, stride_rate=0.5, scales=(1, 0.75))


def test_evaluation_with_other_words_and_scales(trained, folder, tmp_path):
    words = "green grass,bricks,the sky,beach sand"
    flags = (f"--checkpoint={trained}", f"--data={folder}", f"--labels={words}", "--multi_scale")
    assert "green grass" in commands.output("evaluate", *flags, f"--out={tmp_path}")
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert list(report["IoU"]) == words.split(",")
    assert report["inference"]["flip"] is True and len(report["inference"]["scales"]) == 6


def test_settings_of_inference(trained, folder, tmp_path):
    """evaluate, predict and pseudo_label see pictures as the flags say; after a CRF all scores are probabilities."""
    model, images = lseg_jax.load(trained), folder / "images"
    given = (f"--checkpoint={trained}", "--scales=0.8,1.2", "--flip", "--base_size=72", "--stride_rate=1")
    scheme = dataclasses.replace(model.inference, base_size=72, stride_rate=1.0, scales=(0.8, 1.2), flip=True)
    crf = CRF(iterations=2)
    commands.output("evaluate", *given, "--crf_iterations=2", f"--data={folder}", f"--out={tmp_path / 'scores'}")
    report = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert report["inference"] == json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(scheme, crf=crf))))
    for key, flags in {"plain": (), "crf": ("--crf_iterations=2", "--min_similarity=0.5")}.items():
        out = (f"--images={images}", f"--out={tmp_path / key}")
        commands.output("predict", *given, *flags, *out, "--top_k=2")
    commands.output("pseudo_label", *given, "--crf_iterations=2", f"--images={images}", f"--out={tmp_path / 'pseudo'}")
    kinds = [json.loads((tmp_path / key / "predictions.json").read_text())["scores"] for key in ("plain", "crf")]
    assert kinds == ["similarities", "probabilities"]
    right = total = 0
    for number, guessed in enumerate(open_dataset(str(tmp_path / "pseudo"))):
        found = model.segment(images / f"{number}.jpg", settings=scheme, top_k=2)
        written = image_files.read_label(tmp_path / f"plain/labels/{number}.png")
        assert np.mean(written == found.label_map) > 0.999
        similarities = np.load(tmp_path / f"plain/top/{number}.npz")["similarities"]
        np.testing.assert_allclose(similarities, found.top_similarities, atol=2e-3)
        refined = refine(found.probabilities, found.image, crf)
        best, label = refined.argmax(axis=-1), image_files.read_label(folder / f"labels/{number}.png")
        written = image_files.read_label(tmp_path / f"crf/labels/{number}.png")
        assert np.mean(written == np.where(refined.max(axis=-1) < 0.5, len(NAMES), best)) > 0.999
        assert np.mean(guessed.label == best) > 0.999 and (best != found.label_map).any()
        similarities = np.load(tmp_path / f"crf/top/{number}.npz")["similarities"]
        np.testing.assert_allclose(similarities[..., 0], refined.max(axis=-1), atol=2e-2)
        right, total = right + (best == label).sum(), total + (label != 255).sum()
    assert report["aAcc"] == pytest.approx(right / total, abs=1e-3)


def test_more_candidates_than_are_scored(trained, folder, tmp_path):
    model, words, scored = lseg_jax.load(trained), ("fish", "tree", "grass", "meadow", "car"), ("car", "grass")
    flags = (f"--checkpoint={trained}", f"--data={folder}", f"--out={tmp_path}", f"--labels={','.join(words)}")
    commands.output("evaluate", *flags, f"--score_labels={','.join(scored)}")
    hit, said, there = np.zeros((3, 2))
    for number in range(4):
        label = image_files.read_label(folder / f"labels/{number}.png")
        best = model.segment(folder / f"images/{number}.jpg", words).label_map
        counted = np.isin(label, [NAMES.index(name) for name in scored])
        for place, name in enumerate(scored):
            a, b = (best == words.index(name)) & counted, label == NAMES.index(name)
            hit[place] += (a & b).sum()
            said[place] += a.sum()
            there[place] += b.sum()
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (hit < there).any() and list(report["IoU"]) == list(scored)
    assert list(report["IoU"].values()) == pytest.approx(hit / (said + there - hit), abs=2e-3)
    assert report["aAcc"] == pytest.approx(hit.sum() / there.sum(), abs=2e-3)


def test_embeddings(trained, folder, tmp_path, capsys):
    arguments = (f"--checkpoint={trained}", f"--images={folder / 'images'}/[01].jpg", f"--out={tmp_path}")
    assert call("embed", *arguments, "--long_side=64") == 0
    assert capsys.readouterr().err == ""
    assert files_in(tmp_path) == {"embeddings.json", "0.npz", "1.npz"}
    entry = json.loads((tmp_path / "embeddings.json").read_text())["images"][1]
    cells = np.load(tmp_path / "1.npz")["embeddings"]
    assert cells.dtype == np.float16 and list(cells.shape) == entry["shape"] == [32, 32, 384]
    label = image_files.read_label(folder / "labels/1.png")
    assert (entry["height"], entry["width"]) == label.shape
    np.testing.assert_allclose(np.linalg.norm(cells.astype(np.float32), axis=-1), 1, atol=2e-3)
    # A text finds its pixels.
    rows, columns = (np.rint(np.arange(32) * (side - 1) / 31).astype(int) for side in label.shape)
    truth = label[np.ix_(rows, columns)]
    found = (cells.astype(np.float32) @ np.asarray(lseg_jax.load(trained).encode_text(NAMES)).T).argmax(-1)
    assert (found == truth)[truth != 255].mean() > 0.7


def test_conversion_and_blocks(official, micro_bottleneck, tmp_path, capsys):
    first, bare, told = tmp_path / "first.ckpt", tmp_path / "bare.ckpt", f"--out={tmp_path / 'told'}"
    commands.output("convert", f"--checkpoint={official}", f"--out={first}")
    commands.output("convert", f"--checkpoint={first}", f"--out={tmp_path / 'directory'}")
    # A checkpoint that does not say which block it has.
    state = torch_files.load_state_dict(first, ("state_dict",))
    torch_files.save(bare, {"state_dict": {name: tensor.read() for name, tensor in state.items()}})
    assert "does not say which" in refusal(capsys, "convert", f"--checkpoint={bare}", told)
    block = ("--block=bottleneck", "--block_depth=2", "--activation=lrelu")
    commands.output("convert", f"--checkpoint={bare}", told, *block)
    for name in ("directory", "told"):
        assert checkpoint.read(tmp_path / name).config == micro_bottleneck.config
        assert (tmp_path / name / WEIGHTS_FILE).read_bytes() == (official / WEIGHTS_FILE).read_bytes()


def test_export_of_a_directory_and_of_an_official_checkpoint(trained, official, tmp_path, capsys):
    labels = ("--labels=car,fish", "--known_labels=car,fish,sky", "--multi_scale", "--crop_size=96")
    assert call("export", f"--checkpoint={trained}", *labels, f"--out={tmp_path / 'directory'}") == 0
    exported, model = lseg_jax.load(tmp_path / "directory"), lseg_jax.load(trained)
    seen = dataclasses.replace(model.inference, scales=OFFICIAL_SCALES, flip=True, crop_size=96)
    assert exported.labels == ("car", "fish") and exported.inference == seen
    assert set(exported.known) == {*model.known, "car", "fish", "sky"}
    np.testing.assert_allclose(exported.known["sky"], model.encode_text(["sky"])[0], atol=1e-6)
    target = tmp_path / "official.ckpt"
    assert call("export", f"--checkpoint={official}", "--format=official", f"--out={target}") == 0
    assert all(name.startswith("net.") for name in torch_files.load_state_dict(target, ("state_dict",)))
    assert capsys.readouterr().err == ""


def test_a_stablehlo_file(trained, folder, tmp_path):
    target = tmp_path / "model.jax"
    sides = ("--height=64", "--width=96", "--platforms=cpu,tpu", "--format=stablehlo")
    output = commands.output("export", f"--checkpoint={trained}", f"--out={target}", *sides)
    lost = "base_size 80, crop_size 64, stride_rate 0.5, scales (1, 0.75)"
    assert output.startswith(f"without this model's {lost}: a StableHLO file has no CRF and sees images whole and")
    images = np.stack([np.asarray(Image.open(folder / f"images/{n}.jpg").resize((96, 64))) for n in range(2)])
    found = jax.export.deserialize(bytearray(target.read_bytes())).call(images)
    model = lseg_jax.load(trained)
    expected = jax.jit(model.image_function(model.inference))(jnp.asarray(images))
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)
    logits = np.asarray(model.logits(images, NAMES))
    assert np.mean(found["label_map"] == logits.argmax(-1)) > 0.999


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "embed", "convert", "export", "pseudo_label"])
def test_help_shows_how_the_command_is_run(command):
    output = commands.output(command, "--help")
    assert f"python -m lseg_jax.{command} --" in output
    assert ("\n  --block: " in output) == (command != "train")


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": ""}, "--config.data.source"),
        ({"label_sets": "colours"}, "none of names, others"),
        ({"label_sets": "others", "data__source": "TWO"}, "takes one data set"),
        ({"training__steps": 0}, "config.training.steps is 0"),
        ({"inference__crop_size": 50}, "config.inference.crop_size is 50; make it a multiple of 32"),
        ({"inference__scales": "()"}, "config.inference.scales is empty"),
        ({"inference__crf__iterations": -1}, "config.inference.crf.iterations is -1"),
        ({"model__block": "cube"}, "none of none, bottleneck, depthwise"),
        ({"checkpoint": "absent.ckpt"}, "no such checkpoint"),
        ({"pretrained__image": "absent.npz"}, "absent.npz"),
        ({"pretrained__text": "absent.pt"}, "absent.pt"),
    ],
)
def test_bad_training_settings(folder, tmp_path, capsys, changes, message):
    changes = {name: f"{folder},{folder}" if value == "TWO" else value for name, value in changes.items()}
    line = refusal(capsys, "train", *flags_of(folder, tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--crop_size=50", "--crop_size is 50; make it a multiple of 32"),
        ("--scales=1,big", "flag --scales=1,big: '1,big' are not numbers with commas"),
        ("--scales=", "--scales is empty"),
        ("--scales=1,-1", "--scales is (1.0, -1.0): scales is -1.0; it must be in [0, 64]"),
        ("--stride_rate=1.5", "--stride_rate is 1.5"),
        ("--multi_scale --scales=1", "--multi_scale and --scales set the same: leave one of them out"),
        ("--nomulti_scale --flip", "--nomulti_scale and --flip set the same"),
        ("--crf_gaussian_weight=1", "--crf_gaussian_weight has no effect, because crf_iterations is 0"),
        ("--crf --crf_gaussian_deviation=0", "--crf_gaussian_deviation is 0"),
    ],
)
def test_settings_of_inference_that_cannot_be(folder, tmp_path, capsys, flags, message):
    images, out = f"--images={folder / 'images'}", f"--out={tmp_path / 'out'}"
    line = refusal(capsys, "predict", "--checkpoint=tiny", images, out, *flags.split())
    assert message in line, line
    assert not (tmp_path / "out").exists()


def test_a_benchmark_is_no_data_set_for_pairs(tmp_path, capsys):
    for name in ("bus", "abacus"):
        for number in (1, 2):
            samples.labelled(tmp_path / "data", f"{name}/{number}.jpg", f"{name}/{number}.png", [0, 255], number)
    changes = {"label_sets": "others", "evaluation__source": ""}
    line = refusal(capsys, "train", *flags_of(f"fss1000:{tmp_path / 'data'}:test", tmp_path / "run", **changes))
    assert "give --config=configs/lseg_zero_shot.py:fss1000" in line and not (tmp_path / "run").exists()


def test_training_needs_a_trained_text_encoder(folder, tmp_path, capsys):
    data, workdir = f"--config.data.source={folder}", f"--workdir={tmp_path / 'run'}"
    line = refusal(capsys, "train", "--config=configs/lseg_from_ifseg.py", data, workdir)
    assert "--config.pretrained.text=FILE" in line
    assert list(tmp_path.iterdir()) == []


def test_bad_checkpoints(official, folder, tmp_path, capsys):
    torch_files.save(tmp_path / "other.ckpt", {"state_dict": {"conv.weight": np.zeros((3, 3), np.float32)}})

    def line(path: Path, *flags: str) -> str:
        given = (f"--checkpoint={path}", f"--images={folder / 'images'}", f"--out={tmp_path / 'out'}")
        return refusal(capsys, "predict", *given, "--labels=tree", *flags)

    assert "no such checkpoint" in line(tmp_path / "absent.ckpt")
    assert "other.ckpt: not an LSeg checkpoint" in line(tmp_path / "other.ckpt")
    assert "format 'ifseg_jax', not 'lseg_jax'" in line(Path(ifseg_jax.__file__).with_name("tiny"))
    assert "says itself which block" in line(official, "--block=bottleneck")
    assert "no tokenizer directory absent" in line(official, "--tokenizer=absent")
    assert files_in(tmp_path) == {"other.ckpt"} and not (tmp_path / "out").exists()


def test_targets_that_cannot_be(trained, official, tmp_path, capsys):
    def line(command: str, source: Path, target: str, *more: str) -> str:
        return refusal(capsys, command, f"--checkpoint={source}", f"--out={tmp_path / target}", *more)

    assert "ends in .ckpt" in line("convert", official, "b")
    assert "no such text encoder" in line("convert", trained, "b.ckpt")
    assert "export a directory" in line("export", trained, "x.ckpt", "--format=official")
    assert "says itself which block" in line("convert", official, "b.ckpt", "--block=depthwise")
    assert "multiples of 32" in line("export", trained, "c", "--format=stablehlo", "--height=40")
    whole = "sees images whole and of the size that they have (--height, --width): leave out --scales, --flip, or give"
    assert whole in line("export", trained, "c", "--format=stablehlo", "--multi_scale")
    assert "leave out --crop_size, or" in line("export", official, "c", "--format=official", "--crop_size=64")
    assert "give --crf to evaluate or predict" in line("export", trained, "c", "--crf")
    assert list(tmp_path.iterdir()) == []
