"""Zero-shot training and scoring on a few-shot benchmark, through the commands."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

import lseg_jax
from lseg_jax import zero_shot
from lseg_jax.batches import OTHERS, episode_batches, squeezed
from lseg_jax.settings import Training
from tests.commands import Commands
from vlseg.data.episodes import open_benchmark
from vlseg.evaluation.crf import CRF

commands = Commands("lseg_jax")
EPISODES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """PASCAL-5i with two pictures a fold, of which one half shows the class."""
    root = tmp_path_factory.mktemp("pascal")
    for folder in ("VOC2012/JPEGImages", "VOC2012/SegmentationClassAug", "splits/pascal/val", "splits/pascal/trn"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for fold in range(4):
        lines = []
        for number in range(2):
            class_id, stem = 5 * fold + 1 + number, f"{fold}_{number}"
            label = np.zeros((50, 70), np.uint8)
            label[:, 35:] = class_id
            label[:, 33:36] = 255
            image = rng.integers(0, 60, (50, 70, 3)) + np.where(label == class_id, 180, 0)[..., None]
            Image.fromarray(image.astype(np.uint8)).save(root / f"VOC2012/JPEGImages/{stem}.jpg")
            Image.fromarray(label).save(root / f"VOC2012/SegmentationClassAug/{stem}.png")
            lines.append(f"{stem}__{class_id:02d}\n")
        for part in ("val", "trn"):
            (root / f"splits/pascal/{part}/fold{fold}.txt").write_text("".join(lines))
    return root


def test_images_and_masks_become_squares():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mask = rng.integers(0, 2, (40, 60))
    resized, moved = squeezed(image, mask, 96)
    assert resized.shape == (96, 96, 3) and resized.dtype == np.uint8 and moved.shape == (96, 96)
    # torch's nearest neighbour is the floor of the scaled index.
    rows, columns = np.arange(96) * 40 // 96, np.arange(96) * 60 // 96
    np.testing.assert_array_equal(moved, mask[rows][:, columns])
    # Where nothing shrinks, bilinear interpolation with half-pixel centres.
    grid = np.meshgrid((np.arange(96) + 0.5) * 40 / 96 - 0.5, (np.arange(96) + 0.5) * 60 / 96 - 0.5, indexing="ij")
    expected = scipy.ndimage.map_coordinates(image[..., 0].astype(float), grid, order=1, mode="nearest")
    np.testing.assert_allclose(resized[..., 0], expected, atol=1)


def test_training_batches(root):
    dataset = open_benchmark("pascal5i", root, 0, "train")
    batch = episode_batches(dataset, Training(batch_size=6, crop_size=32))(0)
    assert batch.images.shape == (6, 32, 32, 3) and batch.images.dtype == np.uint8
    assert batch.targets.dtype == np.int32
    # Every episode once, asked for by its place among the classes of the split; boundaries are "others".
    assert sorted(dataset.class_ids[place] for place in batch.sets) == [5, 6, 10, 11, 15, 16]
    assert set(np.unique(batch.targets)) == {0, 1}
    np.testing.assert_array_equal(batch.targets[:, :, :16], 0)
    np.testing.assert_array_equal(batch.targets[:, :, 17:], 1)


class Bright:
    """Stands for a model: what is bright is the class, whatever it is called."""

    def __init__(self, model):
        self.inference, self.config, self.variables = model.inference, model.config, model.variables
        self.asked = []

    def encode_text(self, labels):
        self.asked.append(tuple(labels))
        return jnp.zeros((2, 3))


def test_scores(root, micro_model, monkeypatch):
    def logits(config, variables, images, labels):
        assert labels.shape == (len(images), 2, 3)
        bright = images.mean(axis=-1) > 120
        return jnp.stack([~bright, bright], axis=-1).astype(jnp.float32)

    monkeypatch.setattr(zero_shot.inference, "logits", logits)
    model = Bright(micro_model)
    dataset = open_benchmark("pascal5i", root, 3)
    metrics = zero_shot.evaluate(model, dataset, batch_size=96, side=64)
    assert model.asked == [(OTHERS, dataset.names[class_id]) for class_id in range(15, 20)]
    # Two of five classes occur, and are found; the others count as 0.
    assert metrics.iou[:2] == pytest.approx((1, 1), abs=0.02) and metrics.iou[2:] == (0, 0, 0)
    assert metrics.miou == pytest.approx(0.4, abs=0.01) and metrics.fb_iou > 0.98


def test_commands(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vlseg.data.episodes.TEST_EPISODES", EPISODES)
    settings = {
        "benchmark.root": root,
        "model.text.kind": "minilm",
        "model.image.patch": 8,
        "model.image.width": 32,
        "model.image.heads": 2,
        "model.image.layers": 4,
        "model.image.grid": 8,
        "model.image.reassembled": "(16, 16, 16, 16)",
        "model.features": 16,
        "training.crop_size": 64,
        "training.base_size": 64,
        "training.batch_size": 3,
    }
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    arguments = ["--config=configs/lseg_zero_shot.py:pascal5i", f"--workdir={tmp_path / 'run'}", *overrides]
    assert commands.call("train", *arguments) == 0
    output = capsys.readouterr().out
    # Four epochs of twice six pictures.
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 16
    model = tmp_path / "run/model"
    assert lseg_jax.load(model).inference.crop_size == 64
    again = ["--benchmark=pascal5i", f"--root={root}", f"--checkpoint={model}", f"--out={tmp_path / 'scores'}"]
    assert commands.call("fewshot", *again, "--fold=0") == 0
    summary = capsys.readouterr().out.splitlines()[-2]
    assert summary.startswith(f"{EPISODES} episodes of 5 classes: mIoU ") and summary in output
    report = json.loads((tmp_path / "scores/fewshot.json").read_text())
    assert report["episodes"] == EPISODES and len(report["IoU"]) == 5
    assert json.loads((tmp_path / "run/fewshot.json").read_text()) == report and report["side"] == 64
    assert commands.call("fewshot", *again, "--fold=0", "--crop_size=96") == 0
    assert json.loads((tmp_path / "scores/fewshot.json").read_text())["side"] == 96
    capsys.readouterr()
    assert "--crop_size is 50" in commands.refusal(capsys, "fewshot", *again, "--fold=0", "--crop_size=50")
    assert commands.refusal(capsys, "fewshot", *again, "--fold=0", f"--checkpoint={root}").startswith("error: ")
    both = commands.refusal(capsys, "train", *arguments, "--config.data.source=tiny_world")
    assert "leave one out" in both
    for setting in ("flip=True", "scales=(1,2)", "base_size=64", "stride_rate=1", "crf.iterations=3"):
        line = commands.refusal(capsys, "train", *arguments, f"--config.inference.{setting}")
        assert f"config.inference.{setting.partition('=')[0]} has no effect on a benchmark" in line, line
    settings = lseg_jax.Scheme(crop_size=64, flip=True, crf=CRF(2))
    dataclasses.replace(lseg_jax.load(model), inference=settings).save(tmp_path / "flipped")
    flipped = commands.output("fewshot", *again, f"--checkpoint={tmp_path / 'flipped'}")
    assert flipped.splitlines()[0].endswith("squeezed into squares: flip True, crf_iterations 2")
    assert flipped.splitlines()[-2] == summary
