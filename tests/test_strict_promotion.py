"""Where a person has asked JAX for strict promotion of data types, all of both models works."""

import dataclasses

import jax
import numpy as np
import pytest

import ifseg_jax
import lseg_jax
from vlseg.evaluation import sliding_window
from vlseg.training import optimizers


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def image():
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def test_schedules_and_optimizers():
    params = {"a": np.ones(3, np.float32)}
    schedules = (
        optimizers.poly_schedule(0.1, 10, hold=2, warmup_steps=3),
        optimizers.learning_rate_schedule(0.1, 10, 3),
        optimizers.learning_rate_schedule(0.1, 10),
    )
    for schedule in schedules:
        for optimizer in (optimizers.adamw(schedule), optimizers.sgd(schedule, momentum=0.9, weight_decay=0.1)):
            jax.eval_shape(optimizer.update, params, optimizer.init(params), params)


def test_windows_of_an_image():
    scheme = sliding_window.Scheme(64, 32)
    views = sliding_window.views(image(), np.asarray([[40, 48, 0, 0]], np.int32), scheme)
    assert sliding_window.cut(views).dtype == np.float32


@pytest.mark.slow
def test_ifseg():
    model = ifseg_jax.load("tiny")
    seen = dataclasses.replace(model.inference, short_side=32, long_side=64)
    model = dataclasses.replace(model, inference=seen)
    assert model.segment(image(), ["grass", "water"]).label_map.shape == (40, 48)
    settings = {"batch_size": 2, "image_size": 32, "label_smoothing": 0.1, "accumulation_steps": 2}
    model.adapt(["grass", "water"], steps=2, warmup_steps=1, freeze_embedding=False, **settings)


@pytest.mark.slow
def test_lseg():
    model = lseg_jax.load("tiny")
    seen = dataclasses.replace(model.inference, base_size=64, crop_size=32, flip=True, scales=(1.0, 1.5))
    model = dataclasses.replace(model, inference=seen)
    assert model.segment(image(), ["cat", "a word that is not kept"]).label_map.shape == (40, 48)
