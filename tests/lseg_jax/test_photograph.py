"""The first demo: its words, and the picture that it draws with a model that has labels and their embeddings."""

import collections
import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

import vlseg
from lseg_jax import Rejection, photograph
from lseg_jax.photograph import BACKGROUND, OTHER_WORDS, PHOTOGRAPH, other_words
from tests.commands import Commands
from vlseg.labels import NONE
from vlseg.visualize import NONE_COLOUR, palette

commands = Commands("lseg_jax")
NAMES = ("background", "hat", "coat", "jacket", "stripes")
IMAGE = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
WORDS = (*NAMES, "headwear", "outerwear")


@pytest.fixture(scope="session")
def model(micro_model):
    """It knows its words by heart, as the micro text encoder's tokenizer stays behind when it is saved.

    They are embeddings of pixels of `IMAGE`, each of which finds its word.
    """
    pixels = np.asarray(micro_model.encode_pixels(micro_model.preprocess(IMAGE)))
    rows = np.random.default_rng(0).permutation(pixels.reshape(-1, pixels.shape[-1]))[: len(WORDS)]
    return dataclasses.replace(micro_model, labels=NAMES, known=dict(zip(WORDS, rows, strict=True)), tokenizer=None)


def test_every_trained_word_has_one_place():
    replaced = [label for labels in OTHER_WORDS.values() for label in labels]
    assert max(collections.Counter(replaced).values()) == 1
    assert set(OTHER_WORDS) & set(replaced) == {BACKGROUND}
    assert other_words(NAMES) == ["background", "headwear", "outerwear", "outerwear", ""]


def test_the_photographs_say_where_they_are_from():
    folder = PHOTOGRAPH.parent
    assert folder.parent == type(folder)(vlseg.__file__).parent
    text = (folder / "README.md").read_text()
    entries = {entry.partition(":")[0]: " ".join(entry.split()) for entry in text.split("\n\n")}
    files = {path.name for path in folder.iterdir() if path.suffix != ".md"}
    assert files == set(entries)
    for entry in entries.values():
        assert re.search("in the public domain|CC0", entry), entry


def test_the_command_draws_four_pictures(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8)
    large = Image.fromarray(pixels).resize((960, 720), Image.Resampling.NEAREST)
    large.save(tmp_path / "a.png")
    arguments = [f"--checkpoint={tmp_path / 'model'}", f"--image={tmp_path / 'a.png'}", f"--out={tmp_path / 'out'}"]
    assert commands.call("photograph", *arguments, "--min_similarity=2") == 0
    assert re.fullmatch(r"wrote .*photograph\.png after \d+ s\n", capsys.readouterr().out)
    picture = np.asarray(Image.open(tmp_path / "out" / "photograph.png"))
    height, width, _ = picture.shape
    assert 2 * 448 < width < 1000 and 2 * 336 < height < 900  # large photographs are drawn small
    # Nothing is similar enough, so the last picture is grey; it has one entry in its legend.
    last = picture[height // 2 :, width // 2 :]
    swatch = (last == NONE_COLOUR).all(axis=-1)
    assert swatch.sum() >= 100
    grey = last[20:200, 20:200].astype(int)
    assert (np.ptp(grey, axis=-1) <= 0.16 * 255 + 3).all()
    for colour in palette(len(NAMES)):
        assert not (last == colour).all(axis=-1).any()


def test_equal_classes_have_equal_colours(model):
    """Words that stand for several classes take the place of the first; the background stays as it is, if asked for."""
    image, shown = IMAGE, Image.fromarray(IMAGE)
    words = other_words(NAMES)
    drawn = photograph.overlay(model, image, words, shown, Rejection())
    expected = model.segment(image, ["background", "headwear", "outerwear"]).label_map
    assert set(np.unique(expected)) == {0, 1, 2}
    weight = np.where(expected == 0, 0, 0.6)[..., None]
    scaled = np.kron((1 - weight) * image + weight * palette(5)[expected], np.ones((5, 5, 1)))
    assert np.abs(drawn[:320, :320] - scaled).max() <= 1.5

    without = ["" if name == BACKGROUND else name for name in NAMES]
    least = Rejection(float(np.median(model.segment(image, NAMES[1:]).top_similarities)))
    drawn = photograph.overlay(model, image, without, shown, least)
    expected = model.segment(image, NAMES[1:], rejection=least)
    assert expected.labels[-1] == NONE and 0 < (expected.label_map == 4).mean() < 1
    colours = np.vstack([palette(5)[1:], [NONE_COLOUR]])
    weight = np.where(expected.label_map == 4, 1 - 0.4**2, 0.6)[..., None]
    scaled = np.kron((1 - weight) * image + weight * colours[expected.label_map], np.ones((5, 5, 1)))
    assert np.abs(drawn[:320, :320] - scaled).max() <= 1.5


@pytest.mark.parametrize(
    ("labels", "message"), [((), "no labels of its own"), (("cat",), "(cat, ...) none is a word for clothing")]
)
def test_a_model_of_something_else_is_refused(micro_model, tmp_path, capsys, labels, message):
    dataclasses.replace(micro_model, labels=labels).save(tmp_path / "model")
    assert commands.call("photograph", f"--checkpoint={tmp_path / 'model'}", f"--out={tmp_path / 'out'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_portrait_is_seen_small(model, tmp_path, monkeypatch):
    """Its face is larger than any of training; other photographs are seen as the model says."""
    seen = []
    monkeypatch.setattr(type(model), "segment", lambda self, *_, **__: seen.append(self.inference) or 1 / 0)
    model.save(tmp_path / "model")
    large = f"--checkpoint={tmp_path / 'model'}", f"--out={tmp_path / 'out'}"
    for flags in ((), ("--base_size=20",), (f"--image={PHOTOGRAPH}",), (f"--image={PHOTOGRAPH}", "--base_size=640")):
        with pytest.raises(ZeroDivisionError):
            commands.call("photograph", *large, *flags)
    assert [(scheme.base_size, scheme.crop_size) for scheme in seen] == [(224, 64), (20, 32), (72, 64), (640, 64)]
