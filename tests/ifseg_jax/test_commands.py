"""What IFSeg adds to the commands: its ways of training, averaging over neighbours, official archives, categories."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.export
import ml_collections
import numpy as np
import pytest
from PIL import Image

import ifseg_jax
from ifseg_jax.checkpoint import CATEGORY_TABLES
from ifseg_jax.objective import Supervised
from ifseg_jax.settings import Adaptation
from ifseg_jax.training import open_data, supervised_batches
from tests.commands import NAMES, Commands, files_in, logged, train_flags
from vlseg import torch_files
from vlseg.checkpoints.rules import flatten
from vlseg.data import images as image_files
from vlseg.data.examples import IGNORED
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF, refine
from vlseg.labels import plain

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
        "adaptation.learning_rate": 1e-3,
        "log_every": EVERY,
        "checkpoint_every": STEPS,
    }
    return train_flags("configs/coco.py", workdir, settings, **changes)


@pytest.mark.slow
def test_a_run_records_the_model_and_goes_on_from_the_same_weights_alone(trained, micro_directory, tmp_path, capsys):
    found = json.loads((trained / "config.json").read_text())
    config = ifseg_jax.load(micro_directory).config
    assert found["model"] == {name: getattr(config, name) for name in found["model"]} and len(found["model"]) == 9
    assert found["adaptation"]["image_size"] == config.image_grid * config.stride
    assert not {"data", "loading"} & found.keys() and "upscale_lprobs" not in found["adaptation"]
    moved, other = tmp_path / "moved", tmp_path / "other"
    for copy in (moved, other):
        shutil.copytree(micro_directory, copy)
    assert commands.output("train", *flags_of(moved, trained)).endswith(f"wrote {trained / 'model'}\n")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    line = refusal(capsys, "train", *flags_of(other, trained))
    assert "holds a run with other files (checkpoint): checkpoint other content than before" in line


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
    """Settings of inference are those of the report, which finds classes by name, and stay with the model."""
    words, model = ",".join(NAMES[::-1]), tmp_path / "run/model"
    changes = {"mode": "supervised", "adaptation__steps": 2, "data__source": folder, "evaluation__source": folder}
    seen = {"inference__knn_k": 2, "inference__crf__iterations": 1, "inference__crf__gaussian_weight": 2}
    output = commands.output("train", *flags_of(micro_directory, tmp_path / "run", **changes, **seen, categories=words))
    assert "without kNN averaging" in output and "with kNN averaging (2 neighbours, 5 rounds)" in output
    before, after = ifseg_jax.load(micro_directory), ifseg_jax.load(model)
    a, b = (model.variables["params"]["encoder"]["norm"]["scale"] for model in (before, after))
    assert not np.array_equal(a, b)
    refined = CRF(iterations=1, gaussian_weight=2.0)
    assert after.inference == dataclasses.replace(before.inference, knn_k=2, crf=refined)
    assert commands.output("evaluate", f"--checkpoint={model}", f"--data={folder}", f"--labels={words}") in output


@pytest.mark.slow
def test_supervised_training_of_everything(micro_directory, folder, tmp_path):
    """Trunk with its running statistics, and embeddings: the model and a kept step have what was trained."""
    unfrozen = {"adaptation__freeze_entire_resnet": False, "adaptation__freeze_embedding": False}
    changes = {"mode": "supervised", "adaptation__steps": 2, "checkpoint_every": 1, "data__source": folder}
    commands.output("train", *flags_of(micro_directory, tmp_path / "run", **changes, **unfrozen))
    before = flatten(ifseg_jax.load(micro_directory).variables)
    model, first = ifseg_jax.load(tmp_path / "run/model"), ifseg_jax.load(tmp_path / "run", step=1)
    steps = [before, flatten(first.variables), flatten(model.variables)]
    table = "params/category_embedding/table"
    assert steps[1].keys() == steps[2].keys() == before.keys() | {table}
    kinds = ["resnet/conv1/kernel", "resnet/bn1/scale", "image_projection/kernel"]
    names = [*(f"params/encoder/{kind}" for kind in kinds), "params/word_embedding/table"]
    for name in (*names, "batch_stats/encoder/resnet/bn1/mean", "batch_stats/encoder/resnet/bn1/variance"):
        values = [step[name] for step in steps]
        assert not np.array_equal(values[0], values[1]) and not np.array_equal(values[1], values[2]), name
    np.testing.assert_array_equal(first.embed().projection, steps[1][table])
    assert not np.array_equal(steps[1][table], steps[2][table])


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


@pytest.mark.parametrize(
    ("names", "categories", "words"),
    [
        (NAMES, NAMES[::-1], NAMES[::-1]),
        (NAMES, ("sky", *NAMES[2:], "sea", *NAMES[:2]), ("sky", *NAMES[2:], "sea", *NAMES[:2])),
        (NAMES, ("lawn", "cottage", "oak", "van"), ("lawn", "cottage", "oak", "van")),
        (NAMES, ("house=cottage", "car=van"), (NAMES[0], "cottage", NAMES[2], "van")),
        (("cafe\u0301", "wet\u00a0 grass", "Tree", "car"), ("car", "tree", "wet grass", "café"),
         ("car", "tree", "wet grass", "café")),
    ],
)  # fmt: skip
def test_categories_are_bound_to_classes_by_name(folder, micro_config, tmp_path, names, categories, words):
    """A pixel's target is the place of its class's word among the categories, in whatever order these are given."""
    data = shutil.copytree(folder, tmp_path / "data")
    (data / "names.txt").write_text("\n".join(names), encoding="utf-8")
    section = ml_collections.ConfigDict({"source": str(data)})
    dataset, bound = open_data(section, categories)
    assert bound.words == words
    task = Supervised(micro_config, Adaptation(batch_size=2, image_size=32), len(words), 10)
    by_place, by_name = (
        supervised_batches(dataset, task, places)(0)[1] for places in (None, bound.places(len(dataset.names)))
    )
    asked = {plain(name).casefold(): word for name, word in bound.replaced}
    targets = [words.index(asked.get(plain(name).casefold(), plain(name).casefold())) for name in names]
    expected = np.array([*targets, IGNORED])[by_place]
    assert len(np.unique(by_place)) > 2 and by_name.dtype == np.int32
    np.testing.assert_array_equal(by_name, expected)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (("house", "lawn", "tree", "car"), "there is no grass among the categories, .*'house', another class"),
        (("lawn=grass", *NAMES[1:]), "'grass=lawn'"),
        (NAMES[:3], "3 categories do not fit the 4 classes of"),
    ],
)
def test_categories_that_cannot_be_bound(folder, categories, message):
    with pytest.raises(ConfigError, match=message):
        open_data(ml_collections.ConfigDict({"source": str(folder)}), categories)


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


def test_validation_averages_not_nor_refines(micro_model):
    """Each validation would cost as much as the final report. The latter's "plain" row keeps what is asked for."""
    seen = dataclasses.replace(micro_model.inference, crf=CRF(10))
    model = dataclasses.replace(micro_model, inference=seen)
    assert model.validation_settings() == dataclasses.replace(seen, knn_iterations=0, crf=CRF())
    assert [variant.settings.crf for variant in model.variants()] == [CRF(10), CRF(10)]


SEEN = {"short_side": 32, "long_side": 48, "knn_k": 5, "knn_iterations": 2}


def test_settings_of_inference(trained, folder, tmp_path):
    """evaluate, predict and pseudo_label see pictures as the flags say, both with and without averaging."""
    model = ifseg_jax.load(trained / "model")
    settings = dataclasses.replace(model.inference, **SEEN, crf=CRF(iterations=2))
    given = (f"--checkpoint={trained / 'model'}", *(f"--{name}={value}" for name, value in SEEN.items()))
    given = (*given, "--crf_iterations=2")
    output = commands.output("evaluate", *given, f"--data={folder}", f"--out={tmp_path / 'scores'}")
    assert "with kNN averaging (5 neighbours, 2 rounds)" in output
    report = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert report["inference"] == dataclasses.asdict(settings)
    commands.output("predict", *given, f"--images={folder / 'images'}", f"--out={tmp_path / 'predicted'}")
    commands.output("pseudo_label", *given, f"--images={folder / 'images'}", f"--out={tmp_path / 'pseudo'}")
    found = json.loads((tmp_path / "predicted/predictions.json").read_text())
    assert found["inference"] == report["inference"] and found["scores"] == "probabilities"
    guessed, right = open_dataset(str(tmp_path / "pseudo")), dict.fromkeys(("plain", "knn"), 0)
    for number in range(4):
        label, image = image_files.read_label(folder / f"labels/{number}.png"), folder / f"images/{number}.jpg"
        for key, rounds in (("plain", 0), ("knn", 2)):
            seen = dataclasses.replace(settings, knn_iterations=rounds, crf=CRF())
            plain = model.segment(image, settings=seen)
            best = refine(plain.probabilities, plain.image, CRF(iterations=2)).argmax(axis=-1)
            right[key] += (best == label).sum()
        written = image_files.read_label(tmp_path / f"predicted/labels/{number}.png")
        assert np.mean(written == best) > 0.999 and np.mean(guessed[number].label == best) > 0.999
        assert not np.allclose(plain.probabilities, model.segment(image).probabilities, atol=1e-2)
    total = sum((image_files.read_label(folder / f"labels/{n}.png") != 255).sum() for n in range(4))
    for key, count in right.items():
        assert report[key]["aAcc"] == pytest.approx(count / total, abs=1e-3)


def test_a_prompt_of_some_of_the_categories_and_of_more(trained, folder, tmp_path):
    """What is scored are the data's classes, whatever else the model is asked for."""
    model, words = ifseg_jax.load(trained / "model"), ("fish", "tree", "car", "star", "grass", "house")
    data = shutil.copytree(folder, tmp_path / "data")
    for asked, scored in ((words, NAMES), (words, ("car", "tree")), (("car", "tree"), ("tree", "car"))):
        flags = (f"--checkpoint={trained / 'model'}", f"--data={data}", f"--out={tmp_path / 'out'}", "--noknn")
        commands.output("evaluate", *flags, f"--labels={','.join(asked)}", f"--score_labels={','.join(scored)}")
        report = json.loads((tmp_path / "out/metrics.json").read_text())
        hit = total = 0
        for number in range(4):
            label = image_files.read_label(data / f"labels/{number}.png")
            best = model.segment(data / f"images/{number}.jpg", asked, knn=False).label_map
            for name in scored:
                there = label == NAMES.index(name)
                hit += (there & (best == asked.index(name))).sum()
                total += there.sum()
        assert list(report["IoU"]) == list(scored) and report["labels"] == list(asked)
        assert 0 < hit < total and report["aAcc"] == pytest.approx(hit / total, abs=1e-3)


def test_settings_of_inference_in_what_is_exported(micro_directory, micro_model, folder, tmp_path, capsys):
    given = (f"--checkpoint={micro_directory}", "--labels=car,fish,tree")
    flags = tuple(f"--{name}={value}" for name, value in SEEN.items())
    commands.output("export", *given, *flags, f"--out={tmp_path / 'directory'}")
    assert ifseg_jax.load(tmp_path / "directory").inference == dataclasses.replace(micro_model.inference, **SEEN)
    stablehlo = (*given, "--format=stablehlo", "--platforms=cpu")
    commands.output("export", *stablehlo, "--knn_k=7", "--knn_iterations=4", f"--out={tmp_path / 'model.jax'}")
    image = np.asarray(Image.open(folder / "images/0.jpg").resize((40, 40)))[None]
    found = jax.export.deserialize(bytearray((tmp_path / "model.jax").read_bytes())).call(image)["probabilities"]
    model = micro_model.with_labels(("car", "fish", "tree"))
    for changes, equal in (({"knn_k": 7, "knn_iterations": 4}, True), ({}, False)):
        seen = dataclasses.replace(micro_model.inference, **changes)
        expected = jax.jit(model.image_function(seen))(image)["probabilities"]
        assert np.allclose(found, expected, rtol=0, atol=1e-4) is equal

    def line(*flags: str) -> str:
        return refusal(capsys, "export", *flags, f"--out={tmp_path / 'c'}")

    assert "leave out --short_side, or" in line(*stablehlo, "--short_side=64")
    assert "has no settings of inference: leave out --knn_k" in line(*given, "--format=official", "--knn_k=7")
    assert "give --crf to evaluate or predict" in line(*given, "--crf")


def test_export_formats(micro_directory, tmp_path, capsys):
    arguments = (f"--checkpoint={micro_directory}", "--labels=car,fish")
    assert call("export", *arguments, f"--out={tmp_path / 'directory'}") == 0
    assert ifseg_jax.load(tmp_path / "directory").categories == ("car", "fish")
    output = commands.output("export", *arguments, "--format=official", f"--out={tmp_path / 'official.pt'}")
    assert output.startswith("without this model's ") and "a file of the official code has no settings" in output
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--knn_k=0", "--knn_k is 0; it must be in [1, 16384], an integer"),
        ("--knn_iterations=-1", "--knn_iterations is -1"),
        ("--short_side=0", "--short_side is 0"),
        ("--noknn --knn_iterations=3", "--noknn and --knn_iterations set the same"),
        ("--noknn --knn_k=3", "--knn_k has no effect, because knn_iterations is 0"),
        ("--knn_k=3 --knn_iterations=0", "--knn_k has no effect, because knn_iterations is 0"),
        ("--knn --knn_iterations=0", "--knn has no effect, because this model has it off"),
        ("--crf_exact", "--crf_exact has no effect, because crf_iterations is 0"),
        ("--knn_k=few", "flag --knn_k=few"),
    ],
)
def test_settings_of_inference_that_cannot_be(micro_directory, folder, tmp_path, capsys, flags, message):
    out = tmp_path / "out"
    given = (f"--checkpoint={micro_directory}", f"--images={folder / 'images'}", "--labels=tree", f"--out={out}")
    line = refusal(capsys, "predict", *given, *flags.split())
    assert message in line, line
    assert not out.exists()


def test_bad_checkpoints(golden_square, folder, tmp_path, capsys):
    """What is wrong with an archive or a directory is told by `ifseg_jax.load`, and tested with it."""
    torch_files.save(tmp_path / "whole.pt", {"model": dict(golden_square.state)})
    torch_files.save(tmp_path / "other.pt", {"model": {"conv.weight": np.zeros((3, 3), np.float32)}})
    (tmp_path / "bare").mkdir()

    def line(name: str, *flags: str) -> str:
        given = (f"--checkpoint={tmp_path / name}", f"--images={folder / 'images'}", f"--out={tmp_path / 'out'}")
        return refusal(capsys, "predict", *given, "--labels=tree", *flags)

    assert "absent.pt is neither a file, a directory nor one of tiny, clothing, ofa_tiny" in line("absent.pt")
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
        ({"evaluation__source": "tiny_world"}, "4 labels do not fit the data set's 18 classes"),
        ({"inference__knn_k": 0}, "config.inference.knn_k is 0"),
        ({"inference__crf__colour_deviation": 0}, "config.inference.crf.colour_deviation is 0"),
        (
            {"inference__crf__gaussian_weight": 5},
            "config.inference.crf.gaussian_weight has no effect, because config.inference.crf.iterations is 0",
        ),
        (
            {"inference__knn_k": 5, "inference__knn_iterations": 0},
            "config.inference.knn_k has no effect, because config.inference.knn_iterations is 0",
        ),
        ({"evaluation__score_labels": "tree"}, "are classes of config.evaluation.source: give that"),
    ],
)
def test_bad_training_settings(micro_directory, folder, tmp_path, capsys, changes, message):
    changes = {name: folder if value == "FOLDER" else value for name, value in changes.items()}
    line = refusal(capsys, "train", *flags_of(micro_directory, tmp_path / "run", **changes))
    assert message in line, line
    assert list(tmp_path.iterdir()) == []
