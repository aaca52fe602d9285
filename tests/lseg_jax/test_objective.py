"""What a training step promises: the loss, what moves, and that nothing but step and seed decide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lseg_jax import checkpoint, objective
from lseg_jax.batches import named_batches, pair_batches
from lseg_jax.config import LSegConfig
from lseg_jax.encoders.base import normalized
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.inference import normalize
from lseg_jax.lseg import NARROW, LSegNet
from lseg_jax.objective import LabelSets
from tests import micro
from tests.lseg_jax.listed import SETTINGS, SIDE, TWO, Listed
from vlseg.checkpoints.rules import flatten
from vlseg.data.examples import IGNORED
from vlseg.errors import ConfigError
from vlseg.training.program import compile_step

WIDTH = micro.TEXT.features


def fresh(config=micro.LSEG):
    """Variables whose buffers may be given away."""
    return micro.variables(checkpoint.parameter_shapes(config))


def embeddings(count, seed):
    return normalized(np.random.default_rng(seed).standard_normal((count, WIDTH)))


LABELS = [embeddings(3, 1), embeddings(5, 2)]


def batch(seed=0, size=3):
    """Images of three colours and noise; the targets say which colour, and some pixels do not count."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, (size, 4, 4)).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2).astype(np.int32)
    images = np.eye(3)[targets] * 160 + rng.integers(0, 60, (*targets.shape, 3))
    targets[:, :3] = IGNORED
    return objective.Batch(images.astype(np.uint8), targets, np.arange(size, dtype=np.int32) % 2)


def upsampling(cells, pixels):
    """[pixels, cells]: linear interpolation in which the first and last of both coincide."""
    places = np.arange(pixels) * (cells - 1) / (pixels - 1)
    return np.stack([np.interp(places, np.arange(cells), row) for row in np.eye(cells)], axis=1).astype(np.float32)


def plain_loss(config, variables, images, targets, label_sets, margin):
    """Every example alone with its own labels, all logits at once; only the batch norms see the whole batch."""
    model = LSegNet(config)
    images = normalize(config, jnp.asarray(images))
    pixels, _ = model.apply(variables, images, train=True, method=LSegNet.encode_pixels, mutable=["batch_stats"])
    total, count = 0.0, 0
    for number, labels in enumerate(label_sets):
        cells = model.apply(variables, pixels[number : number + 1], labels, method=LSegNet.cell_logits)[0]
        rows, columns = (upsampling(cells.shape[axis], SIDE) for axis in (0, 1))
        logits = jnp.einsum("yh,xw,hwn->yxn", rows, columns, cells)
        counted = targets[number] != IGNORED
        # A cosine becomes a logit by a temperature of 0.07.
        logits -= margin / 0.07 * (targets[number][..., None] == np.arange(len(labels)))
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.asarray(np.where(counted, targets[number], 0))[..., None], axis=-1
        )
        total -= jnp.sum(chosen[..., 0] * counted)
        count += counted.sum()
    return total / count


def test_loss_and_gradients_are_those_of_every_example_alone():
    config = dataclasses.replace(micro.LSEG, block="bottleneck", block_depth=2)
    variables = fresh(config)
    images, targets, sets = batch()
    targets[0, -1] = 2
    targets[1, 10:20] = np.arange(10)[:, None] % 5  # labels that only the larger set has
    labels = LabelSets(*(array[sets] for array in objective.label_sets(LABELS)[:2]))

    @jax.jit
    @jax.value_and_grad
    def ours(params, targets):
        again = dataclasses.replace(config, remat="layer")
        return objective.loss(again, {**variables, "params": params}, images, targets, labels, row_block=5, margin=0.2)[
            0
        ]

    @jax.jit
    @jax.value_and_grad
    def plain(params):
        return plain_loss(config, {**variables, "params": params}, images, targets, [LABELS[s] for s in sets], 0.2)

    (value, gradients), (expected, plain_gradients) = ours(variables["params"], targets), plain(variables["params"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    flat = flatten(jax.tree.map(np.asarray, plain_gradients))
    for name, gradient in flatten(jax.tree.map(np.asarray, gradients)).items():
        assert np.isfinite(gradient).all(), name
        scale = np.abs(flat[name]).max() + 1e-5
        np.testing.assert_allclose(gradient / scale, flat[name] / scale, rtol=0, atol=5e-3, err_msg=name)
    # A batch without a pixel that counts changes nothing.
    value, gradients = ours(variables["params"], np.full_like(targets, IGNORED))
    assert value == 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


def test_a_narrow_decoder_makes_no_embedding_and_the_same_logits():
    """Similarities of pixels with labels, whose widths and lengths come from the projection's products alone."""
    narrow = dataclasses.replace(micro.LSEG, features=WIDTH // NARROW)
    variables, images, net = fresh(narrow), normalize(narrow, jnp.asarray(batch()[0])), LSegNet(narrow)
    vocabularies = LABELS[1], jnp.stack([LABELS[1], LABELS[1][::-1]])[np.arange(len(images)) % 2]

    @jax.jit
    def both(variables):
        pixels = net.apply(variables, images, method=LSegNet.encode_pixels)
        plain = [net.apply(variables, pixels, labels, method=LSegNet.cell_logits) for labels in vocabularies]
        return plain, [net.apply(variables, images, labels, method=LSegNet.image_cells) for labels in vocabularies]

    for plain, found in zip(*both(variables), strict=True):
        np.testing.assert_allclose(found, plain, rtol=0, atol=2e-4)
        assert np.abs(plain).max() > 1


def test_balanced_weights():
    counts = np.array([900, 90, 10, 0])
    np.testing.assert_allclose(objective.balanced_weights(counts, 0.0), [1, 1, 1, 0])
    alike = objective.balanced_weights(counts, 1.0)
    np.testing.assert_allclose(alike * counts, [1000 / 3] * 3 + [0], rtol=1e-5)
    half = objective.balanced_weights(counts, 0.5)
    np.testing.assert_allclose(half[1] / half[0], 10**0.5, rtol=1e-5)
    np.testing.assert_allclose(half @ counts / counts.sum(), 1, rtol=1e-5)
    assert not objective.balanced_weights(np.zeros(3, int), 0.5).any()


SMALL_DATA = {"average": 0.9, "class_balance": 0.3, "label_smoothing": 0.1, "loss_stride": 2, "frozen_levels": 2}


def test_what_is_frozen_stays_and_the_finished_model_is_the_average(micro_efficientnet):
    """Of the image encoder the first two levels; weights and statistics are averaged from the second update on."""
    chosen = dataclasses.replace(SETTINGS, **SMALL_DATA, crop_size=32, crop_width=64)
    config = LSegConfig(micro.TEXT, EfficientNetConfig(micro_efficientnet), 8)
    task = objective.Matching(config, chosen, 5, 2, 5)
    variables = fresh(config)
    flat = jax.tree.map(np.array, flatten(variables))
    state, frozen = task.split(variables)
    weights = [objective.balanced_weights(np.arange(1, len(labels) + 1), 0.3) for labels in LABELS]
    constants = task.given(objective.label_sets(LABELS, weights), frozen)
    drawn = named_batches(TWO, chosen)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (task.state(), task.constants(), task.batch()))
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, constants, drawn(0)))
    still = {name for name in frozen if not name.startswith("params/text/")}
    blocks = {name.split("/")[2] for name in still}
    assert blocks == {"stem", "stem_bn", *(f"block{number}" for number in range(3))}
    assert set(constants.frozen) == still and not still & set(state["params"])
    assert any(name.startswith("batch_stats/image/block0/") for name in still)
    update, seen = compile_step(task.update), []
    for number in range(3):
        state, metrics = update(state, constants, drawn(number), np.int32(number))
        assert np.isfinite(metrics["loss"])
        seen.append(jax.tree.map(np.array, state["params"] | state["batch_stats"]))
    for name, value in jax.tree.map(np.asarray, state["average"]).items():
        expected = np.asarray(flat[name])
        for number, latest in enumerate(seen):
            decay = min(0.9, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * latest[name]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    finished = flatten(objective.joined(state, frozen))
    assert set(finished) == set(flat)
    np.testing.assert_array_equal(finished["params/projection/kernel"], state["average"]["params/projection/kernel"])
    np.testing.assert_array_equal(finished["params/image/stem"], flat["params/image/stem"])
    moved = [name for name, value in state["params"].items() if not np.array_equal(value, flat[name])]
    assert any(name.startswith("params/image/block3/") for name in moved)


def test_levels_of_an_encoder_that_is_trained_as_a_whole():
    with pytest.raises(ConfigError, match="frozen_levels has no effect"):
        objective.Matching(micro.LSEG, dataclasses.replace(SETTINGS, frozen_levels=1), 5, 2, 5).split(fresh())


def test_label_sets_are_filled_up_with_their_first():
    together = objective.label_sets(LABELS)
    assert together.embeddings.shape == (2, 5, WIDTH)
    np.testing.assert_array_equal(together.valid, [[True] * 3 + [False] * 2, [True] * 5])
    np.testing.assert_array_equal(together.embeddings[0], LABELS[0][jnp.array([0, 1, 2, 0, 0])])
    np.testing.assert_array_equal(together.embeddings[1], LABELS[1])


def test_the_text_encoder_is_no_part_of_the_state():
    variables = fresh()
    state, frozen = objective.split(variables)
    assert set(state) == {"params", "batch_stats"} and state["batch_stats"]
    assert all(name.startswith("params/text/") for name in frozen) and frozen
    assert not any("params/text/" in name for part in state.values() for name in part)
    assert {name.split("/")[0] for name in state["batch_stats"]} == {"batch_stats"}
    joined = objective.joined(state, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(dict(variables))
    jax.tree.map(np.testing.assert_array_equal, joined, dict(variables))


FILLER = embeddings(3, 9)
"""A label set that nothing asks for: with it, the sets of all tests have one shape, and all steps are one program."""


@pytest.fixture(scope="module")
def stepping():
    """The task, and a function of label sets and batches that returns the step (state, number) -> (state, metrics)."""
    task = objective.Matching(micro.LSEG, SETTINGS, 5, 3, 3)
    update = compile_step(task.update)

    def make(sets, batches):
        sets = task.given(objective.label_sets([*sets, FILLER]), {})
        return lambda state, number: update(state, sets, batches(number), np.int32(number))

    return task, make


def run(step, state, first, last):
    losses = []
    for number in range(first, last):
        state, metrics = step(state, number)
        losses.append(float(metrics["loss"]))
    return jax.tree.map(np.asarray, state), losses


def test_a_mix_of_data_sets_learns_and_nothing_else_decides(stepping):
    task, make = stepping
    step = make([embeddings(3, 1), embeddings(2, 2)], named_batches(TWO, SETTINGS))
    state, frozen = task.split(fresh())
    before = jax.tree.map(lambda value: np.array(value), (dict(state), frozen))
    half, first = run(step, state, 0, 20)
    resumed, rest = run(step, jax.tree.map(jnp.array, half), 20, 40)
    whole, same = run(step, task.split(fresh())[0], 0, 40)
    assert first + rest == same
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert np.mean(rest[-5:]) < 0.6 * np.mean(first[:3])
    assert set(resumed["params"]) == set(before[0]["params"])
    still = [name for name, value in resumed["params"].items() if np.array_equal(value, before[0]["params"][name])]
    assert still == []
    for name, value in frozen.items():
        np.testing.assert_array_equal(value, before[1][name])
    for name, value in resumed["batch_stats"].items():
        assert not np.array_equal(value, before[0]["batch_stats"][name]), name


def test_pairs_of_others_and_a_class_learn(stepping):
    task, make = stepping
    others = embeddings(1, 7)
    sets = [jnp.concatenate([others, embeddings(1, seed)]) for seed in (11, 12)]
    step = make(sets, pair_batches(Listed(4, ("a", "b"), seed=3), SETTINGS))
    _, losses = run(step, task.split(fresh())[0], 0, 50)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_shapes_are_those_of_the_arrays():
    """What is compiled for chips that are not there is what training runs."""

    def described(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    sets = objective.label_sets(LABELS)
    task = objective.Matching(micro.LSEG, SETTINGS, 5, *sets.valid.shape)
    assert described(task.state()) == described(task.split(fresh())[0])
    assert described(task.constants()) == described(task.given(sets, {}))
    drawn = named_batches(TWO, SETTINGS)(0)
    assert described(task.batch()) == jax.tree.map(lambda array: (array.shape, array.dtype), drawn)
