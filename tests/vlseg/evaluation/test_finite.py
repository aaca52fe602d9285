"""Scores that are not finite never become a label: refused, with the name of the image, by all that make labels."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import ifseg_jax
import lseg_jax
from tests import micro
from tests.toy.model import Config, Seen, Toy
from vlseg.commands.pseudo_label import PseudoLabelled
from vlseg.data.examples import Example
from vlseg.errors import CheckpointError, ImageError
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.finite import AT_ONCE, Finite, check_scores
from vlseg.evaluation.scoring import Vocabulary, score
from vlseg.segmentation import Rejection

NAMES = ("a", "b", "c")
BLACK = np.zeros((8, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(27, 16)).astype(np.float32), "bias": np.zeros(16, np.float32)}
    return Toy(Config(), {"params": params}, labels=NAMES)


def broken(model, row=0):
    """The model with a weight that is not finite; as it may become in memory, though none is loaded so."""
    kernel = model.variables["params"]["kernel"].copy()
    kernel[row] = np.nan
    return dataclasses.replace(model, variables={"params": {**model.variables["params"], "kernel": kernel}})


class Pictures(list):
    names, ignore_label = NAMES, 255


def pictures(count=2):
    return Pictures(Example(BLACK, np.zeros((8, 9), np.int32), f"folder/{number}") for number in range(count))


MESSAGE = r"the model's scores are not finite \(NaN or infinity\), which is no label"


def test_segment_names_the_file_or_the_place(model, tmp_path):
    Image.fromarray(BLACK).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=f"^{tmp_path}/x.png: {MESSAGE}"):
        broken(model).segment(tmp_path / "x.png")
    found = broken(model).segment_each([BLACK])
    with pytest.raises(ImageError, match=f"^image 1: {MESSAGE}"):
        next(found)
    assert model.segment(BLACK).label_map.shape == (8, 9)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"rejection": Rejection(min_margin=0.1)}])
def test_more_labels_and_rejection_do_not_hide_it(model, options):
    with pytest.raises(ImageError, match=MESSAGE):
        broken(model).segment(BLACK, **options)


def test_a_crf_refuses_it_and_the_image_is_named(model):
    refined = dataclasses.replace(broken(model), inference=Seen(crf=CRF(iterations=1)))
    with pytest.raises(ImageError, match=r"^image 1: .* not all finite"):
        refined.segment(BLACK)
    with pytest.raises(ImageError, match=r"^folder/0: .* not all finite"):
        score(refined, pictures())
    dataset = pictures()
    dataset.names = ("a",)
    with pytest.raises(ImageError, match=r"^folder/1: .* not all finite"):
        PseudoLabelled(refined, dataset, NAMES)[1]


@pytest.mark.parametrize("count", [1, AT_ONCE + 3])
def test_evaluate_names_the_first_picture(model, count):
    with pytest.raises(ImageError, match=f"^folder/0: {MESSAGE}"):
        score(broken(model), pictures(count))
    words = Vocabulary(tuple((name,) for name in NAMES[:2]), "threshold", 0.5)
    dataset = pictures(count)
    dataset.names = ("background", "b")
    with pytest.raises(ImageError, match=f"^folder/0: {MESSAGE}"):
        score(broken(model), dataset, vocabulary=words)


def test_pseudo_label_names_the_picture(model):
    dataset = pictures()
    dataset.names = ("a",)
    with pytest.raises(ImageError, match=f"^folder/1: {MESSAGE}"):
        PseudoLabelled(broken(model), dataset, NAMES)[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_words_whose_embeddings_are_not_finite(model, monkeypatch, value):
    """One label would never win, and nobody would know."""
    embed = Toy.embed
    monkeypatch.setattr(Toy, "embed", lambda self, labels=None: embed(self, labels).at[1, 2].set(value))
    with pytest.raises(CheckpointError, match="embeddings of the labels are not finite"):
        model.segment(BLACK)
    with pytest.raises(CheckpointError, match="embeddings of the labels are not finite"):
        score(model, pictures())


def test_images_are_watched_in_their_order():
    finite = Finite()
    finite.watch("first", np.ones(3))
    finite.watch("second", np.float32([1, np.inf]))
    finite.watch("third", np.float32([np.nan]))
    with pytest.raises(ImageError, match=r"^second: "):
        finite.check()
    finite.check()
    check_scores("any", np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize("package", [ifseg_jax, lseg_jax])
def test_an_exported_function_marks_pixels_without_a_label(package):
    words = micro.WORDS.read_text().split()[:2] if package is ifseg_jax else ["cat", "dog"]
    model = package.load("tiny").with_labels(words)
    function = model.image_function(model.inference)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert set(np.unique(jax.jit(function)(image)["label_map"])) <= {0, 1}
    leaves, structure = jax.tree.flatten(function)
    ill = jax.tree.unflatten(structure, [leaf * np.float32(np.nan) for leaf in leaves])
    assert set(np.unique(jax.jit(ill)(image)["label_map"])) == {-1}
