"""More words than were trained: any number may be asked for, and trained on."""

import json

import numpy as np
import pytest
from PIL import Image

import lseg_jax
from tests.commands import Commands, labelled_folder, picture, train_flags
from vlseg import labels

commands = Commands("lseg_jax")
COUNT = 500


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Label embeddings of these tests are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def words() -> list[str]:
    """Words of the lists of data sets, which one model may be asked for together."""
    listed = (name.lower() for known in ("pascal_context_59", "ade20k_150", "fss_1000") for name in labels.load(known))
    return list(dict.fromkeys(listed))[:COUNT]


@pytest.mark.slow
def test_words_by_the_hundred(words, tmp_path):
    """The maps are what they should be: a word more changes nothing between two others."""
    model = lseg_jax.load("tiny")
    assert len(words) == COUNT > 10 * len(model.labels)
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(96, 128)).save(tmp_path / "images/a.png")
    (tmp_path / "words.txt").write_text("\n".join(words))
    flags = (f"--images={tmp_path / 'images'}", f"--labels={tmp_path / 'words.txt'}", f"--out={tmp_path / 'out'}")
    commands.output("predict", "--checkpoint=tiny", *flags)
    report = json.loads((tmp_path / "out/predictions.json").read_text())
    assert report["labels"] == words
    found = np.asarray(Image.open(tmp_path / "out/labels/a.png"))
    assert found.shape == (96, 128) and found.max() < COUNT
    few = np.arange(0, COUNT, 7)
    fewer = few[model.segment(tmp_path / "images/a.png", [words[index] for index in few]).label_map]
    assert len(np.unique(found)) > 3
    among = np.isin(found, few)
    np.testing.assert_array_equal(found[among], fewer[among])
    assert Image.open(tmp_path / "out/overlays/a.png").width >= 128


@pytest.mark.slow
def test_a_folder_with_more_words_than_the_checkpoint(words, tmp_path):
    """Their embeddings come from the text encoder, so that a model has no number of classes."""
    data = labelled_folder(tmp_path / "data", 4)
    names = [*(data / "names.txt").read_text().split(), *words]
    names = list(dict.fromkeys(names))[:255]  # 255 does not count
    assert len(names) > 10 * len(lseg_jax.load("tiny").labels)
    (data / "names.txt").write_text("\n".join(names))
    settings = {
        "checkpoint": "tiny",
        "data.source": data,
        "evaluation.source": data,
        "training.frozen_levels": 0,
        "training.steps": 2,
        "training.batch_size": 2,
        "training.base_size": 64,
        "training.crop_size": 64,
    }
    output = commands.output("train", *train_flags("configs/lseg_folder.py", tmp_path / "run", settings))
    assert f"wrote {tmp_path / 'run/model'}\n" in output and "mIoU " in output
    assert lseg_jax.load(tmp_path / "run").labels == tuple(names)
