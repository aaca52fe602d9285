"""Adaptation on a micro model: what it trains, what it leaves alone, and that it is the same every time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import objective
from ifseg_jax.artificial import artificial_batch
from ifseg_jax.model import with_category_table
from ifseg_jax.prompt import word_ids
from ifseg_jax.settings import Adaptation
from vlseg.checkpoints.rules import flatten
from vlseg.data.examples import IGNORED
from vlseg.errors import ConfigError
from vlseg.nn.losses import upsampled_cross_entropy
from vlseg.training import loop
from vlseg.training.program import compile_step

CATEGORIES = ("grass", "water", "tree", "house")
SETTINGS = Adaptation(
    steps=30, batch_size=8, learning_rate=2e-3, image_size=32, artificial_image_type="rand_k-1-5", seed=3
)
SUPERVISED = dataclasses.replace(SETTINGS, artificial_image_type=Adaptation.artificial_image_type)


@dataclasses.dataclass(frozen=True)
class Run:
    """An adaptation taken apart. `step` gives the memory of its state away, so `start` makes a new one each time."""

    task: objective.Adapting
    words: object
    variables: dict
    update: object

    def start(self):
        return self.task.split(jax.tree.map(jnp.copy, self.variables))[0]

    def step(self, state, number, batch=None):
        constants = {"frozen": self.task.split(self.variables)[1], "words": self.words}
        return self.update(state, constants, batch, np.int32(number))

    @property
    def trained(self):
        return set(self.start()["params"])

    @property
    def frozen(self):
        return self.task.split(self.variables)[2]


def run(kind, model, settings=SETTINGS, **changes):
    words = model.embed(CATEGORIES)
    task = kind(dataclasses.replace(model.config, **changes), settings, len(CATEGORIES), words.prompt.shape[1])
    return Run(task, words, model.variables, compile_step(task.update))


@pytest.fixture(scope="module")
def micro_model(micro_model):
    """In buffers that a step could give away."""
    return dataclasses.replace(micro_model, variables=jax.tree.map(jnp.array, micro_model.variables))


@pytest.fixture(scope="module")
def image_free(micro_model):
    return run(objective.ImageFree, micro_model)


def assert_identical(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def finished(image_free):
    """The state after all steps, and the loss of each."""
    state, losses = image_free.start(), []
    for number in range(SETTINGS.steps):
        state, metrics = image_free.step(state, number)
        losses.append(metrics["loss"])
    return state, np.array(losses)


def test_the_loss_falls(finished):
    _, losses = finished
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


def test_a_step_depends_on_state_and_number_alone(image_free):
    one, same, other = (image_free.step(image_free.start(), number) for number in (7, 7, 8))
    assert_identical(one, same)
    assert one[1]["loss"] != other[1]["loss"]


@pytest.fixture(scope="module")
def before(micro_model):
    """A copy of the micro model's variables and what it answers, from before any adaptation."""
    grids = np.arange(16).reshape(1, 4, 4) % len(CATEGORIES)
    variables = jax.tree.map(np.array, flatten(micro_model.variables))
    return variables, grids, np.asarray(micro_model.artificial_logits(grids, CATEGORIES))


@pytest.fixture(scope="module")
def adapted(micro_model, before):
    """The public way to the same."""
    names = ("steps", "batch_size", "learning_rate", "image_size", "artificial_image_type", "seed")
    settings = {name: getattr(SETTINGS, name) for name in names}
    return micro_model.adapt(["grass", " water ", "tree", "house"], **settings)


def test_adapting_is_the_same_every_time(image_free, finished, adapted):
    state, _ = finished
    assert_identical(flatten(adapted.variables), {**image_free.frozen, **state["params"]})


def test_only_what_is_trained_changes(image_free, adapted, before):
    found, original = flatten(adapted.variables), before[0]
    assert {name for name in original if np.array_equal(found[name], original[name])} == set(image_free.frozen)
    assert set(image_free.frozen) | image_free.trained == set(original)
    for name in sorted(image_free.trained):
        # Nothing that is trained stands still: weight decay alone moves it.
        assert np.mean(np.asarray(found[name]) != original[name]) > 0.9, name


def test_the_original_stays_whole(micro_model, adapted, before):
    variables, grids, logits = before
    assert_identical(flatten(micro_model.variables), variables)
    np.testing.assert_array_equal(micro_model.artificial_logits(grids, CATEGORIES), logits)
    assert micro_model.categories == () and adapted.categories == CATEGORIES
    assert np.abs(np.asarray(adapted.artificial_logits(grids)) - logits).max() > 1e-3
    assert adapted.segment(np.zeros((40, 40, 3), np.uint8)).labels == CATEGORIES


def test_frozen_and_unused_parts(micro_model):
    """What the official code freezes, and what segmentation never reads."""
    trained, kept = objective.split(micro_model.variables, micro_model.config)
    assert {name for name in kept if name.startswith("params/encoder/") and "/resnet/" not in name} == {
        "params/encoder/image_projection/kernel",
        "params/encoder/image_projection/bias",
    }
    assert "params/word_embedding/table" in kept
    assert {"params/decoder/layers/cell_table", "params/encoder/layers/image_table"} <= set(trained)
    assert "params/decoder/layers/image_table" in kept
    paper = dataclasses.replace(micro_model.config, decoder_positions="encoder_image")
    trained, kept = objective.split(micro_model.variables, paper)
    assert "params/decoder/layers/image_table" in trained and "params/decoder/layers/cell_table" in kept


def test_image_free_loss(micro_model, image_free):
    """Step 5 trains on the artificial images of its own key."""
    _, metrics = image_free.step(image_free.start(), 5)
    words = micro_model.embed(CATEGORIES)

    @jax.jit
    def expected(variables, words):
        map_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(SETTINGS.seed), 5))
        batch = artificial_batch(map_key, SETTINGS.batch_size, len(CATEGORIES), 4, 32, SETTINGS.artificial_image_type)
        cells = words.categories[batch.grids]
        return objective.segmentation_loss(
            micro_model.config, variables, words, objective.Examples(cells, batch.targets), dropout_key, row_block=32
        )

    np.testing.assert_allclose(metrics["loss"], expected(micro_model.variables, words), rtol=1e-4)


def test_supervised_loss(micro_model, image_free):
    """Without dropout a supervised step's loss is that of the logits that the model gives its images."""
    settings = dataclasses.replace(SUPERVISED, batch_size=2, learning_rate=1e-4)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, len(CATEGORIES), (2, 32, 32)).astype(np.int32)
    targets[:, :5] = IGNORED
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    supervised = run(objective.Supervised, micro_model, settings, dropout=0.0, drop_path=0.0)
    state, metrics = supervised.step(supervised.start(), 2, (images, targets))
    expected = upsampled_cross_entropy(micro_model.logits(images, CATEGORIES), jnp.asarray(targets))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert set(state["params"]) == image_free.trained
    _, metrics = supervised.step(state, 2, (images, targets))
    assert metrics["loss"] < expected


@pytest.mark.parametrize("kind", objective.TASKS.values())
@pytest.mark.parametrize("changes", [{}, {"freeze_embedding": False}], ids=["frozen", "embeddings"])
def test_shapes_are_those_of_the_arrays(kind, changes, micro_model):
    """What is compiled for chips that are not there is what training runs."""
    settings, model = dataclasses.replace(SUPERVISED, **changes), micro_model
    if kind is objective.Supervised and changes:
        settings = dataclasses.replace(settings, freeze_entire_resnet=False)
    if changes:
        model = with_category_table(model, CATEGORIES)

    def described(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    words = model.embed(CATEGORIES)
    ids = word_ids(model.words(CATEGORIES))
    task = kind(model.config, settings, len(CATEGORIES), *ids.prompt.shape, ids.categories.shape[1])
    state, needed, _ = task.split(model.variables)
    assert described(task.state()) == described(state)
    assert described(task.constants()) == described({"frozen": needed, "words": task.text(words, ids)})


def test_an_interrupted_run_continues_exactly(image_free, tmp_path):
    def stopping(state, number):
        if number == 5:
            raise InterruptedError
        return image_free.step(state, number)

    schedule = loop.Schedule(steps=7, log_every=2, checkpoint_every=3)
    with pytest.raises(InterruptedError):
        loop.train(image_free.start(), stopping, tmp_path / "resumed", schedule)
    resumed = loop.train(image_free.start(), image_free.step, tmp_path / "resumed", schedule)
    whole = loop.train(image_free.start(), image_free.step, tmp_path / "whole", schedule)
    assert_identical(resumed, whole)


def test_settings(micro_config):
    assert Adaptation().side(micro_config) == 5 * 8
    assert Adaptation(image_size=24).side(micro_config) == 24
    with pytest.raises(ConfigError, match="image_size 30 is not a multiple of 8"):
        Adaptation(image_size=30).side(micro_config)
    official_settings = Adaptation()
    assert (official_settings.steps, official_settings.batch_size, official_settings.learning_rate) == (2000, 16, 5e-5)
    assert (official_settings.b1, official_settings.b2, official_settings.epsilon) == (0.9, 0.999, 1e-8)
    assert (official_settings.weight_decay, official_settings.clip_norm) == (0.1, 1.0)
    assert official_settings.artificial_image_type == "rand_k-1-33"
