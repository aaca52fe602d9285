"""The model that comes with the package: what it weighs, what it knows, and how it takes words it has never seen."""

from pathlib import Path

import numpy as np
import pytest

import lseg_jax
from benchmarks import lseg_tiny_world
from configs import lseg_tiny
from lseg_jax.config import LSegConfig
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


def test_unseen_words(model, capsys):
    # A few scenes; `python -m benchmarks.lseg_tiny_world --task=words` has the scores over 500.
    scores = lseg_tiny_world.words(model, 20)
    assert scores["trained names"] > 75
    related = next(value for title, value in scores.items() if title.startswith("the same for the 25 of 30"))
    assert related > 0.85 * scores["the trained names of those classes"]
    assert scores["one name replaced by a synonym, its IoU"] > 0.7 * scores["trained names"]
    assert scores["hypernyms"] > 35
    assert "grass" in capsys.readouterr().out
