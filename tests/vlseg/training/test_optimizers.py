"""The optimizer and the schedule of LSeg, against what a person works out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlseg.training import optimizers


def test_polynomial_decay_by_epochs():
    schedule = optimizers.poly_schedule(0.4, 12, 0.9, hold=3)
    # 4 epochs of 3 steps: (1 - 0)^0.9, (3/4)^0.9, (1/2)^0.9, (1/4)^0.9.
    expected = 0.4 * np.repeat([1.0, 0.7719, 0.5359, 0.2872], 3)
    np.testing.assert_allclose([schedule(jnp.asarray(step)) for step in range(12)], expected, rtol=2e-4)
    assert float(schedule(jnp.asarray(12))) == float(schedule(jnp.asarray(99))) == 0


def test_polynomial_decay_by_steps_and_warm_up():
    schedule = optimizers.poly_schedule(2.0, 10, 1.0, warmup_steps=4)
    expected = [2 * min(1, (step + 1) / 4) * (1 - step / 10) for step in range(10)]
    np.testing.assert_allclose([schedule(jnp.asarray(step)) for step in range(10)], expected, rtol=1e-6)


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.1), (0.0, 0.0), (0.5, 0.0)])
def test_sgd(momentum, decay):
    """buffer = momentum * buffer + gradient + decay * weight; weight -= rate * buffer (torch.optim.SGD)."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(4)
    optimizer = optimizers.sgd(optimizers.poly_schedule(0.1, 6, 0.9), momentum=momentum, weight_decay=decay)
    ours = {"a": jnp.asarray(weight, jnp.float32)}
    state = optimizer.init(ours)
    buffer = np.zeros(4)
    for step in range(4):
        gradient = rng.standard_normal(4)
        updates, state = optimizer.update({"a": jnp.asarray(gradient, jnp.float32)}, state, ours)
        ours = optax.apply_updates(ours, updates)
        buffer = momentum * buffer + gradient + decay * weight
        weight = weight - 0.1 * (1 - step / 6) ** 0.9 * buffer
    np.testing.assert_allclose(ours["a"], weight, rtol=1e-5, atol=1e-6)


def test_updates_scaled_by_name():
    scaling = optimizers.scale_by_name(lambda name: 10.0 if name.startswith("decoder") else 0.0)
    updates = {"decoder/a": jnp.arange(3.0), "image/b": jnp.ones(2)}
    scaled, _ = scaling.update(updates, scaling.init(updates))
    np.testing.assert_array_equal(scaled["decoder/a"], [0, 10, 20])
    np.testing.assert_array_equal(scaled["image/b"], [0, 0])


@pytest.mark.parametrize("make", [optimizers.adamw, functools.partial(optimizers.sgd, weight_decay=0.1)])
def test_a_state_in_host_memory_is_what_the_optimizer_begins_with(make):
    params, chosen = {"a": jnp.ones((2, 3)), "b": jnp.ones(4, jnp.bfloat16)}, make(optax.constant_schedule(0.1))
    found = optimizers.initial_state(chosen, params)
    assert {type(leaf) for leaf in jax.tree.leaves(found)} == {np.ndarray}
    jax.tree.map(np.testing.assert_array_equal, found, chosen.init(params))
