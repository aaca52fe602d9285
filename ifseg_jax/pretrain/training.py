"""Pre-training of a small OFA on questions about scenes, which are drawn on the device as the step goes."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ifseg_jax import checkpoint
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.pretrain import common, tasks
from ifseg_jax.vocabulary import PAD
from vlseg.checks import check_numbers
from vlseg.data import tiny_world
from vlseg.errors import ConfigError
from vlseg.training import loop, optimizers
from vlseg.training.workdir import Place, open_workdir

SPECIAL_WORDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(common.Pretraining):
    """Settings of pre-training in the tiny world.

    Attributes:
        image_size: side of the scenes in pixels. schedule_steps: where the cosine of the learning rate ends.
    """

    image_size: int
    schedule_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "image_size", "schedule_steps", least=1, whole=True)


def read_settings(config: ml_collections.ConfigDict, words: int) -> OFAConfig:
    """Checks a configuration.

    Args:
        words: of the vocabulary.

    Returns:
        The model that it asks for.

    Raises:
        ConfigError: a setting that is missing, does not exist, or cannot be.
    """
    common.check_settings(Pretraining, config, "configs/tiny_pretrain.py")
    found = common.model_config(config, words)
    if config.image_size % found.stride:
        raise ConfigError(f"config.image_size is {config.image_size}; it must be a multiple of {found.stride}")
    return found


def answer_loss(
    model: OFA, params: Any, batch_stats: Any, images: jax.Array, asked: tasks.Questions, key: jax.Array
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """Mean cross entropy of the answers' words; also the new batch statistics and the accuracy."""

    def decode(model: OFA) -> jax.Array:
        features = model.image_features(images, train=True)
        words = model.embed_words(asked.source)
        mask = jnp.not_equal(asked.source, PAD)
        encoded = model.encoder(words, mask, model.image_embeddings(features), deterministic=False)
        return model.decode_words(asked.inputs, encoded, deterministic=False)

    variables = {"params": params, "batch_stats": batch_stats}
    logits, changed = model.apply(variables, method=decode, mutable=["batch_stats"], rngs={"dropout": key})
    loss, accuracy = common.answer_scores(logits, asked.targets, asked.weights)
    return loss, (changed["batch_stats"], accuracy)


def make_step(config: ml_collections.ConfigDict, model: OFA, words: tasks.TaskWords) -> tuple[Any, Any]:
    """The optimizer and the jitted step function of `vlseg.training.loop.train`."""
    schedule = optimizers.learning_rate_schedule(config.learning_rate, config.schedule_steps, config.warmup_steps)
    optimizer = optimizers.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay)
    scene_key = tiny_world.split_key("train", config.seed)
    task_key = jax.random.key(config.seed + 1)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        keys = jax.random.split(jax.random.fold_in(scene_key, number), config.batch_size)
        scenes = jax.vmap(lambda key: tiny_world.scene(key, config.image_size))(keys)
        question_key, dropout_key = jax.random.split(jax.random.fold_in(task_key, number))
        asked = tasks.questions(question_key, scenes, words)
        compute = functools.partial(answer_loss, model, images=scenes.image, asked=asked, key=dropout_key)
        (loss, (batch_stats, accuracy)), gradients = jax.value_and_grad(compute, has_aux=True)(
            state["params"], state["batch_stats"]
        )
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        state = {"params": params, "batch_stats": batch_stats, "optimizer": optimizer_state}
        return state, {"loss": loss, "accuracy": accuracy}

    return optimizer, step


def pretrain(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes pre-training and writes the model.

    Returns:
        The model directory, readable by `ifseg_jax.load`.

    Raises:
        ConfigError: a setting that cannot be, or `workdir` holds a run of another configuration.
        StorageError: it cannot be written.
    """
    vocabulary = checkpoint.BUNDLED_MODELS["tiny"] / checkpoint.WORDS_FILE
    listed = vocabulary.read_text().split()
    model_config = read_settings(config, len(listed) + SPECIAL_WORDS)
    workdir = open_workdir(workdir, config.to_dict())
    words = tasks.TaskWords.from_ids({word: index + SPECIAL_WORDS for index, word in enumerate(listed)})
    model = OFA(model_config)
    variables = common.initialize(model_config, config.seed)
    optimizer, step = make_step(config, model, words)
    state = {**variables, "optimizer": optimizer.init(variables["params"])}
    schedule = loop.Schedule(config.steps, config.log_every, config.checkpoint_every)
    state = loop.train(state, step, workdir, schedule, on_log=loop.print_metrics)
    arrays = jax.tree.map(np.asarray, {"params": state["params"], "batch_stats": state["batch_stats"]})
    target = workdir / "model"
    common.write_model(target, config, model_config, arrays, vocabulary.read_bytes())
    return target
