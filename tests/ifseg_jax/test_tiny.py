"""The bundled model: it loads, and adapting it to words alone makes it segment."""

import ifseg_jax
from ifseg_jax.evaluate import evaluate
from vlseg.data.tiny_world import NAMES, TinyWorldDataset


def test_adapting_to_words_makes_it_segment():
    model = ifseg_jax.load("tiny", remat="none")
    dataset = TinyWorldDataset("validation", count=20)
    (before,) = evaluate(model, dataset, categories=NAMES, batch_size=10)
    adapted = model.adapt(NAMES, steps=80)
    after, averaged = evaluate(adapted, dataset, (0, model.inference.knn_iterations), batch_size=10)
    assert adapted.categories == NAMES
    assert after.miou > 1.5 * before.miou
    assert averaged.miou > 1.5 * before.miou


def test_data_set_repeats_itself():
    one, two = TinyWorldDataset("test", count=3), TinyWorldDataset("test", count=60)
    assert len(one) == 3
    assert len(list(one)) == 3
    for a, b in zip(one, two, strict=False):
        assert (a.image == b.image).all()
        assert (a.label == b.label).all()
    other = TinyWorldDataset("train", count=3)
    assert (one[0].image != other[0].image).any()
