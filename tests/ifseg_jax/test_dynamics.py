"""Thirty updates as the authors' trainer makes them: losses, learning rates and what becomes of every parameter.

Recorded by `golden/record_training.py` from the authors' modules, losses, optimizer and schedule.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import objective, official
from ifseg_jax.settings import Adaptation
from tests.ifseg_jax.conftest import read_golden
from vlseg import torch_files
from vlseg.training import optimizers

NO_GRADIENT = re.compile(r"(k_proj|pos_k_linear)\.bias$")
"""A bias of keys shifts all scores of a query alike, which the softmax ignores: the true gradient is 0, and Adam makes
steps of the learning rate's size out of what rounding leaves. Its update is compared in size only."""


@pytest.fixture(scope="module", params=["image_free", "supervised"])
def recorded(request, golden_tensor, tmp_path_factory):
    """The mode, the golden run, and the model that it starts from, without dropout."""
    golden = read_golden(f"training_{request.param}", golden_tensor)
    path = tmp_path_factory.mktemp("start") / "checkpoint.pt"
    torch_files.save(path, {"model": dict(golden.state)})
    model = ifseg_jax.load(path, tokenizer=golden.tokenizer, dropout=0.0, drop_path=0.0)
    return request.param, golden, model


@pytest.fixture(scope="module")
def replayed(recorded):
    """Losses, the learning rates, and parameters before and after, of the same batches here."""
    mode, golden, model = recorded
    words, arrays = model.embed(golden.categories), golden.arrays
    count, size = arrays["losses"].shape[0], next(arrays[name] for name in ("maps", "targets") if name in arrays).shape
    settings = Adaptation(steps=count, batch_size=size[1], learning_rate=golden.meta["rate"])
    task = objective.TASKS[mode](model.config, settings, len(golden.categories), words.prompt.shape[1])
    state, needed, _ = task.split(jax.tree.map(jnp.copy, model.variables))
    before = jax.tree.map(np.array, state["params"])
    constants = {"frozen": needed, "words": words}

    @jax.jit
    def update(state, constants, batch, step):
        if mode == "supervised":
            return task.update(state, constants, batch, step)
        return task._update(state, constants, *batch, jax.random.key(0), step)

    first, second = ("grids", "maps") if mode == "image_free" else ("images", "targets")
    losses = []
    for step in range(count):
        number = step % size[0]
        batch = arrays[first][number], arrays[second][number].astype(np.int32)
        state, metrics = update(state, constants, batch, jnp.int32(step))
        losses.append(float(metrics["loss"]))
    return np.array(losses), before, jax.tree.map(np.array, state["params"])


def test_losses(recorded, replayed):
    expected = recorded[1].arrays["losses"]
    assert expected[:10].mean() > expected[-10:].mean() + 0.005
    difference = np.abs(replayed[0] - expected).max() / np.abs(expected).max()
    assert difference < 1e-4


def test_learning_rates(recorded):
    """The first update has the whole rate, and the one after the last would have none."""
    rates = recorded[1].arrays["rates"]
    schedule = optimizers.learning_rate_schedule(recorded[1].meta["rate"], len(rates))
    np.testing.assert_allclose([schedule(step) for step in range(len(rates))], rates, rtol=1e-5)


def test_updates(recorded, replayed):
    """Every trained tensor's total update; the same tensors are trained, and only those."""
    _, golden, model = recorded
    _, before, after = replayed
    updates = {name.removeprefix("update/"): array for name, array in golden.arrays.items() if "/" in name}
    rules = [rule for rule in official.rules(model.config) if rule.path in after]
    assert {rule.official for rule in rules} == set(updates)
    for rule in rules:
        change = after[rule.path] - before[rule.path]
        change = np.asarray(rule.layout.to_official(change if rule.layer is None else change[rule.layer]))
        expected, rate = updates[rule.official], golden.meta["rate"]
        if NO_GRADIENT.search(rule.official):
            assert max(np.abs(change).max(), np.abs(expected).max()) < len(golden.arrays["rates"]) * rate
            continue
        difference = np.linalg.norm(change - expected) / np.linalg.norm(expected)
        assert difference < 1e-3, (rule.official, difference)
    assert not set(golden.meta["untouched"]) & set(updates)
