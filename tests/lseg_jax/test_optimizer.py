"""Rates by part, batch and epoch, steps by hand, and how long a run is."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lseg_jax import objective
from lseg_jax.settings import Training

NAMES = {
    "params/image/class_token": 1,
    "params/reassemble_0/project/kernel": 1,
    "params/decoder/level1/kernel": 10,
    "params/projection/kernel": 10,
    "params/block/kernel": 10,
}


def rates(settings, examples, steps):
    """What a gradient of ones takes off each parameter, step by step."""
    optimizer = objective.optimizer(settings, examples)
    params = dict.fromkeys(NAMES, jnp.zeros(()))
    state = optimizer.init(params)
    found = []
    for _ in range(steps):
        updates, state = optimizer.update(dict.fromkeys(NAMES, jnp.ones(())), state, params)
        found.append({name: -float(update) for name, update in updates.items()})
    return found


def test_rates_by_part_batch_and_epoch():
    plain = {"b1": 0.0, "weight_decay": 0.0, "learning_rate": 0.001}

    def of_encoder(settings, examples, steps):
        return [step["params/image/class_token"] for step in rates(settings, examples, steps)]

    for epochs in (40, 3):
        found = rates(Training(batch_size=4, epochs=epochs, **plain), 8, 6)
        expected = [0.001 * (1 - epoch / epochs) ** 0.9 for epoch in (0, 0, 1, 1, 2, 2)]  # two steps an epoch
        for name, factor in NAMES.items():
            np.testing.assert_allclose([step[name] for step in found], factor * np.array(expected), rtol=1e-5)
    # Less than an epoch: one rate, or one for every step.
    short = Training(batch_size=4, steps=4, **plain)
    np.testing.assert_allclose(of_encoder(short, 400, 4), 0.001, rtol=1e-5)
    falling = dataclasses.replace(short, decay="step")
    expected = [0.001 * (1 - step / 4) ** 0.9 for step in range(4)]
    np.testing.assert_allclose(of_encoder(falling, 400, 4), expected, rtol=1e-5)
    for images, scale, expected in ((32, False, 0.001), (32, True, 0.002), (1, True, 0.001 / 16)):
        settings = Training(batch_size=images, scale_with_batch=scale, **plain)
        assert of_encoder(settings, 8, 1) == pytest.approx([expected])
    warm = of_encoder(Training(warmup_steps=4, power=0.0, **plain), 8, 6)
    np.testing.assert_allclose(warm, 0.001 * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-5)


def test_three_steps_of_sgd_by_hand():
    """Gradient plus decay into the buffer, and the buffer times the group's rate off the weights, as in PyTorch."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(3) for name in NAMES}
    optimizer = objective.optimizer(Training(steps=3, learning_rate=0.002, weight_decay=0.1, power=0.0), 8)
    ours = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    state = optimizer.init(ours)
    buffers = dict.fromkeys(NAMES, 0.0)
    for _ in range(3):
        gradients = {name: rng.standard_normal(3) for name in NAMES}
        given = {name: jnp.asarray(value, jnp.float32) for name, value in gradients.items()}
        updates, state = optimizer.update(given, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, factor in NAMES.items():
            buffers[name] = 0.9 * buffers[name] + gradients[name] + 0.1 * params[name]
            params[name] = params[name] - 0.002 * factor * buffers[name]
    for name, value in params.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_adam_and_the_clip():
    found = rates(Training(steps=1, optimizer="adamw", learning_rate=0.01, weight_decay=0.0), 16, 1)[0]
    for name, factor in NAMES.items():
        assert found[name] == pytest.approx(0.01 * factor, rel=1e-4)
    clipped = rates(Training(steps=1, b1=0.0, weight_decay=0.0, clip_norm=1.0), 16, 1)[0]
    assert clipped["params/image/class_token"] == pytest.approx(0.00025 / np.sqrt(len(NAMES)))


def test_how_long_a_run_is():
    assert Training().total_steps(20210) == 240 * 1685
    assert Training(epochs=2).total_steps(3) == 2
    assert Training(steps=7).total_steps(20210) == 7
