"""The model that comes with the package: what it weighs, what it knows, and how it takes words it has never seen."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import lseg_jax
from benchmarks import lseg_tiny_world
from configs import lseg_clothing, lseg_tiny
from lseg_jax.config import LSegConfig
from lseg_jax.photograph import OTHER_WORDS, PHOTOGRAPH, PORTRAIT
from vlseg import labels
from vlseg.data.tiny_world import HYPERNYMS, NAMES, SYNONYMS

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def model():
    return lseg_jax.load("tiny")


def test_it_is_small_and_what_its_configuration_makes(model):
    folder = Path(lseg_jax.__file__).parent / "tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15 * MEGABYTE
    assert model.config == LSegConfig.from_dict(lseg_tiny.get_config().model.to_dict())
    assert model.labels == NAMES


def test_the_words_of_its_world_need_no_text_encoder(model):
    words = [*NAMES, *(synonym for synonyms in SYNONYMS.values() for synonym in synonyms), *HYPERNYMS.values()]
    assert set(words) == set(model.known)
    names = list(model.known)
    encoded = model.config.text.embed([model.config.text_of(name) for name in names], {}, "test")
    np.testing.assert_allclose(np.stack([model.known[name] for name in names]), encoded, atol=1e-5)


def test_the_model_of_clothing():
    """Small, made by its configuration, and its words and those of the demo need no text encoder."""
    folder = Path(lseg_jax.__file__).parent / "clothing"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12 * MEGABYTE
    clothing = lseg_jax.load("clothing")
    assert clothing.config == LSegConfig.from_dict(lseg_clothing.get_config().model.to_dict())
    assert clothing.labels == labels.load("clothing_59")
    assert {*clothing.labels, *OTHER_WORDS} == set(clothing.known)
    encoded = clothing.config.text.embed([clothing.config.text_of(name) for name in clothing.known], {}, "test")
    np.testing.assert_allclose(np.stack(list(clothing.known.values())), encoded, atol=1e-5)
    # A portrait in the public domain: face, hat and uniform, at the size of people in the photographs of training.
    scheme = dataclasses.replace(clothing.inference, base_size=PORTRAIT, crop_size=PORTRAIT)
    found = dataclasses.replace(clothing, inference=scheme).segment(PHOTOGRAPH).label_map
    height, width = found.shape
    for word, row, column in [("skin", 0.45, 0.5), ("suit", 0.85, 0.3), ("hat", 0.22, 0.5), ("background", 0.4, 0.9)]:
        assert clothing.labels[found[int(row * height), int(column * width)]] == word


def test_unseen_words(model, capsys):
    # A few scenes; `python -m benchmarks.lseg_tiny_world --task=words` has the scores over 500.
    scores = lseg_tiny_world.words(model, 20)
    assert scores["trained names"] > 75
    related = next(value for title, value in scores.items() if title.startswith("the same for the 25 of 30"))
    assert related > 0.85 * scores["the trained names of those classes"]
    assert scores["one name replaced by a synonym, its IoU"] > 0.7 * scores["trained names"]
    assert scores["hypernyms"] > 35
    assert "grass" in capsys.readouterr().out
