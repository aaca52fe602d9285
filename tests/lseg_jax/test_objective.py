"""What a training step promises: the loss, what moves and how fast, and that nothing but step and seed decide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lseg_jax import checkpoint, objective
from lseg_jax.batches import count_labels, named_batches, pair_batches
from lseg_jax.config import LSegConfig
from lseg_jax.encoders.base import normalized
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.inference import normalize
from lseg_jax.lseg import NARROW, LSegNet
from lseg_jax.objective import LabelSets
from lseg_jax.settings import Training
from tests import micro
from vlseg import settings as settings_of
from vlseg.checkpoints.rules import flatten
from vlseg.data.examples import IGNORED, Example
from vlseg.errors import ConfigError
from vlseg.training.program import compile_step

WIDTH, SIDE = micro.TEXT.features, 32


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


# The loss


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
    flat = flatten(plain_gradients)
    for name, gradient in flatten(gradients).items():
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
    variables, images = fresh(narrow), normalize(narrow, jnp.asarray(batch()[0]))
    for labels in (LABELS[1], jnp.stack([LABELS[1], LABELS[1][::-1]])[np.arange(len(images)) % 2]):

        @jax.jit
        def both(variables, labels=labels):
            net = LSegNet(narrow)
            pixels = net.apply(variables, images, method=LSegNet.encode_pixels)
            cells = net.apply(variables, pixels, labels, method=LSegNet.cell_logits)
            return cells, net.apply(variables, images, labels, method=LSegNet.image_cells)

        plain, found = both(variables)
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


def test_labels_are_counted_without_those_that_do_not_count():
    dataset = TWO[0]
    counted = np.zeros(len(dataset.names), int)
    for number in range(len(dataset)):
        for label in dataset[number].label.reshape(-1):
            if label != dataset.ignore_label:
                counted[label] += 1
    np.testing.assert_array_equal(count_labels(dataset), counted)


SMALL_DATA = {"average": 0.9, "class_balance": 0.3, "label_smoothing": 0.1, "loss_stride": 2, "frozen_levels": 2}
LITE = LSegConfig(micro.TEXT, EfficientNetConfig(), 8)


def test_what_is_frozen_stays_and_the_finished_model_is_the_average():
    """Of the image encoder the first two levels; weights and statistics are averaged from the second update on."""
    chosen = dataclasses.replace(SETTINGS, **SMALL_DATA, crop_size=32, crop_width=64)
    task = objective.Matching(LITE, chosen, 5, 2, 5)
    variables = micro.variables(checkpoint.parameter_shapes(LITE))
    flat = jax.tree.map(np.array, flatten(variables))
    state, frozen = task.split(variables)
    weights = [objective.balanced_weights(np.arange(1, len(labels) + 1), 0.3) for labels in LABELS]
    constants = task.given(objective.label_sets(LABELS, weights), frozen)
    drawn = named_batches(TWO, chosen)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (task.state(), task.constants(), task.batch()))
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, constants, drawn(0)))
    still = {name for name in frozen if not name.startswith("params/text/")}
    blocks = {name.split("/")[2] for name in still}
    assert blocks == {"stem", "stem_bn", *(f"block{number}" for number in range(5))}
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
    assert any(name.startswith("params/image/block5/") for name in moved)


def test_levels_of_an_encoder_that_is_trained_as_a_whole():
    with pytest.raises(ConfigError, match="frozen_levels has no effect"):
        objective.Matching(micro.LSEG, dataclasses.replace(SETTINGS, frozen_levels=1), 5, 2, 5).split(fresh())


def test_label_sets_are_filled_up_with_their_first():
    together = objective.label_sets(LABELS)
    assert together.embeddings.shape == (2, 5, WIDTH)
    np.testing.assert_array_equal(together.valid, [[True] * 3 + [False] * 2, [True] * 5])
    np.testing.assert_array_equal(together.embeddings[0], LABELS[0][jnp.array([0, 1, 2, 0, 0])])
    np.testing.assert_array_equal(together.embeddings[1], LABELS[1])


# What moves, and how fast


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


# Steps


SETTINGS = Training(
    steps=60,
    batch_size=4,
    learning_rate=0.0025,
    optimizer="adamw",
    clip_norm=1.0,
    crop_size=SIDE,
    base_size=40,
    margin=0.1,
)


class Listed:
    """A data set in memory: pictures whose colours say the label, in an order of their own."""

    def __init__(self, count, names, ignore_label=255, seed=0):
        self.names, self.ignore_label, self.examples = names, ignore_label, []
        rng = np.random.default_rng(seed)
        colours = np.eye(3)[rng.permutation(3)] * 200
        for number in range(count):
            label = rng.integers(0, len(names), (3, 3)).repeat(13, 0).repeat(16, 1).astype(np.int32)
            image = colours[label].astype(np.uint8)
            label[:2] = ignore_label
            self.examples.append(Example(image, label, str(number)))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]

    def __iter__(self):
        return iter(self.examples)


TWO = [Listed(3, ("a", "b", "c"), seed=1), Listed(2, ("d", "e"), ignore_label=7, seed=5)]


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
    again, same = run(step, task.split(fresh())[0], 0, 20)
    assert first == same
    jax.tree.map(np.testing.assert_array_equal, half, again)
    resumed, rest = run(step, jax.tree.map(jnp.array, half), 20, 40)
    whole, _ = run(step, jax.tree.map(jnp.array, again), 20, 40)
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


# Batches


def test_batches_of_several_data_sets():
    settings = dataclasses.replace(SETTINGS, batch_size=2)
    batches = named_batches(TWO, settings)
    seen = [int(number) for step in range(5) for number in batches(step).sets]
    assert sorted(seen) == [0] * 6 + [1] * 4  # two epochs of three and two
    for first, second in zip(batches(3), named_batches(TWO, settings)(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(batches(0).images, batches(5).images)
    for step in range(5):
        images, targets, sets = batches(step)
        assert images.shape == (2, SIDE, SIDE, 3) and images.dtype == np.uint8
        assert targets.shape == (2, SIDE, SIDE) and targets.dtype == np.int32 == sets.dtype
        for target, number in zip(targets, sets, strict=True):
            assert set(np.unique(target)) <= {IGNORED, *range(len(TWO[number].names))}


def test_the_data_sets_own_ignored_label_does_not_count():
    whole = dataclasses.replace(SETTINGS, batch_size=1, base_size=SIDE, scale_range=(1.0, 1.0))
    data = Listed(1, ("a", "b", "c"), ignore_label=7)
    data.examples[0].label[:] = 7
    data.examples[0].label[10:20, 10:20] = 1
    target = named_batches([data], whole)(0).targets
    assert set(np.unique(target)) == {IGNORED, 1}
    pair = pair_batches(data, whole)(0)
    assert set(np.unique(pair.targets)) == {IGNORED, 1} and list(pair.sets) == [1]
    data.examples[0].label[:] = 7
    nothing = pair_batches(data, whole)(0)
    assert set(np.unique(nothing.targets)) == {IGNORED}


def test_pairs_ask_for_a_class_that_is_there():
    data = Listed(4, ("a", "b", "c"), seed=3)
    named, paired = (make for make in (named_batches([data], SETTINGS), pair_batches(data, SETTINGS)))
    asked = set()
    for step in range(8):
        # The same view, because it is drawn first.
        label, (images, targets, sets) = named(step).targets, paired(step)
        np.testing.assert_array_equal(images, named(step).images)
        for truth, target, chosen in zip(label, targets, sets, strict=True):
            np.testing.assert_array_equal(target, np.where(truth == IGNORED, IGNORED, truth == chosen))
            assert (target == 1).any()
        asked |= set(sets.tolist())
    assert asked == {0, 1, 2}


# Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": 3}, "training has no setting speed"),
        ({"steps": 0}, "training.steps is 0"),
        ({"epochs": 0}, "training.epochs is 0"),
        ({"batch_size": 0}, "training.batch_size is 0"),
        ({"row_block": 0}, "training.row_block is 0"),
        ({"crop_size": 100}, "training.crop_size is 100; it must be a multiple of 32"),
        ({"base_size": -5}, "training.base_size is -5"),
        ({"learning_rate": -1.0}, "training.learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "training.learning_rate is nan"),
        ({"decoder_factor": -1.0}, "training.decoder_factor is -1.0"),
        ({"power": -0.9}, "training.power is -0.9"),
        ({"b1": 1.0}, r"training.b1 is 1.0; it must be in \[0, 1\)"),
        ({"b2": -0.1}, "training.b2 is -0.1"),
        ({"clip_norm": -1.0}, "training.clip_norm is -1.0"),
        ({"seed": -1}, "training.seed is -1"),
        ({"scale_range": (2.0, 0.5)}, "training.scale_range"),
        ({"scale_range": (0.5,)}, "training.scale_range"),
        ({"scale_range": (0.5, float("inf"))}, "training.scale_range"),
        ({"decay": "never"}, "training.decay 'never' is none of epoch, step"),
        ({"loss_mean": "classes"}, "training.loss_mean 'classes' is none of images, pixels"),
        ({"optimizer": "adagrad"}, "training.optimizer 'adagrad' is none of sgd, adamw"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        settings_of.read(Training, values, "training")


def test_the_defaults_are_the_official_settings():
    config = settings_of.load("configs/lseg_ade20k.py")
    settings = settings_of.read(Training, config.training, "training")
    assert settings == Training()
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (240, 12, 0.00025)
    assert (settings.optimizer, settings.b1, settings.weight_decay, settings.power) == ("sgd", 0.9, 1e-4, 0.9)
    assert (settings.base_size, settings.crop_size, settings.scale_range) == (520, 480, (0.5, 2.0))
    assert settings.decoder_factor == 10
    model = LSegConfig.from_dict(config.model.to_dict())
    assert (model.image.patch, model.image.width, model.image.layers, model.text.features) == (16, 1024, 24, 512)
    assert model.features == 256 and model.block == "none"
    assert config.data.folder.ignore_zero and config.evaluation.folder.ignore_zero


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
