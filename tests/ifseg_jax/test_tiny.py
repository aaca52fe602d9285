"""The bundled model scores what the README says, on few scenes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ifseg_jax
from vlseg.data.tiny_world import NAMES, TinyWorldDataset
from vlseg.evaluation.scoring import score


def test_the_bundled_model_scores_what_was_measured():
    dataset = TinyWorldDataset("test", count=20)
    model = ifseg_jax.load()
    (plain,) = score(model, dataset, model.variants()[:1], labels=NAMES, batch_size=20)
    # On 500 scenes; its scores on any 20 are about this far apart.
    assert 100 * plain.miou == pytest.approx(14.8, abs=2)


@pytest.mark.slow
def test_the_demo_shows_that_adaptation_works(tmp_path):
    """About two minutes on two cores, with the optimised programs that users get."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "ifseg_jax.demo", f"--out={tmp_path / 'demo'}", "--scenes=100"]
    subprocess.run(command, cwd=Path(ifseg_jax.__file__).parents[1], env=environment, check=True)
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    # The README's scores are of 200 scenes.
    assert 100 * scores["image-free"]["mIoU"] == pytest.approx(64.0, abs=3)
    assert 100 * scores["image-free"]["mIoU_knn"] == pytest.approx(65.0, abs=3)
    assert scores["image-free"]["mIoU_knn"] > scores["image-free"]["mIoU"]
    assert Image.open(tmp_path / "demo" / "scenes.png").width > 500
