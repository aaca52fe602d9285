"""The bundled model: it loads, adapts, and segments better than chance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ifseg_jax
from ifseg_jax.evaluate import evaluate
from vlseg.data.tiny_world import NAMES, TinyWorldDataset


def test_the_bundled_model_knows_its_world():
    model = ifseg_jax.load("tiny")
    dataset = TinyWorldDataset("validation", count=20)
    (plain,) = evaluate(model, dataset, categories=NAMES, batch_size=10)
    assert plain.miou > 1 / len(NAMES)
    assert model.adapt(NAMES, steps=1).categories == NAMES


def test_data_set_repeats_itself():
    one, two = TinyWorldDataset("test", count=3), TinyWorldDataset("test", count=60)
    assert len(one) == 3
    assert len(list(one)) == 3
    for a, b in zip(one, two, strict=False):
        assert (a.image == b.image).all()
        assert (a.label == b.label).all()
    other = TinyWorldDataset("train", count=3)
    assert (one[0].image != other[0].image).any()


@pytest.mark.slow
def test_the_demo_shows_that_adaptation_works(tmp_path):
    """About two minutes on two cores, with the optimised programs that users get."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "ifseg_jax.demo", f"--out={tmp_path / 'demo'}", "--scenes=100"]
    subprocess.run(command, cwd=Path(ifseg_jax.__file__).parents[1], env=environment, check=True)
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["image-free"]["mIoU"] > 3 * scores["unadapted"]["mIoU"]
    assert scores["image-free"]["mIoU_knn"] > scores["image-free"]["mIoU"]
    assert Image.open(tmp_path / "demo" / "scenes.png").width > 500
