"""The bundled model: it loads, adapts, and segments better than chance."""

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
