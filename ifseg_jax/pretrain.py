"""Pre-trains a small OFA in the tiny world.

python -m ifseg_jax.pretrain --config=configs/tiny_pretrain.py --workdir=DIR

This makes the bundled weights. Scenes, questions and answers are drawn on the device; step t depends on the seed and t
alone, so a run that is stopped and started again continues exactly. The result lies in WORKDIR/model.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags

from ifseg_jax import pretraining_tasks as tasks
from ifseg_jax import storage
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.official import Converted
from ifseg_jax.vocabulary import PAD
from vlseg import cli
from vlseg.data import tiny_world
from vlseg.training import checkpoints, loop, optimizers
from vlseg.training.checkpoints import Place

SPECIAL_WORDS = 4


def initialize(config: OFAConfig, seed: int) -> dict[str, Any]:
    """Fresh variables of a model; equal seeds give equal values."""
    images = jnp.zeros((1, 4 * config.stride, 4 * config.stride, 3))
    return jax.jit(OFA(config).init)(jax.random.key(seed), images, jnp.arange(3))


def answer_loss(
    model: OFA, params: Any, batch_stats: Any, images: jax.Array, asked: tasks.Questions, key: jax.Array
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """Mean cross entropy of the answers' words; also the new batch statistics and the accuracy."""

    def decode(model: OFA) -> jax.Array:
        features = model.image_features(images, train=True)
        words = model.embed_words(asked.source)
        mask = jnp.not_equal(asked.source, PAD)
        encoded = model.encode(words, mask, model.image_embeddings(features), deterministic=False)
        return model.decode_words(asked.inputs, encoded, deterministic=False)

    variables = {"params": params, "batch_stats": batch_stats}
    logits, changed = model.apply(variables, method=decode, mutable=["batch_stats"], rngs={"dropout": key})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, asked.targets)
    correct = jnp.argmax(logits, axis=-1) == asked.targets
    total = jnp.sum(asked.weights)
    accuracy = jnp.sum(correct * asked.weights) / total
    return jnp.sum(losses * asked.weights) / total, (changed["batch_stats"], accuracy)


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
        ConfigError: `workdir` holds a run of another configuration.
        StorageError: it cannot be written.
    """
    workdir = checkpoints.open_workdir(workdir, config.to_dict())
    vocabulary = Path(__file__).with_name("tiny") / storage.WORDS_FILE
    listed = vocabulary.read_text().split()
    words = tasks.TaskWords.from_ids({word: index + SPECIAL_WORDS for index, word in enumerate(listed)})
    model_config = OFAConfig(vocabulary_size=len(listed) + SPECIAL_WORDS, **config.model)
    model = OFA(model_config)
    variables = initialize(model_config, config.seed)
    optimizer, step = make_step(config, model, words)
    state = {**variables, "optimizer": optimizer.init(variables["params"])}
    schedule = loop.Schedule(config.steps, config.log_every, config.checkpoint_every)
    state = loop.train(state, step, workdir, schedule, on_log=loop.print_metrics)
    arrays = jax.tree.map(np.asarray, {"params": state["params"], "batch_stats": state["batch_stats"]})
    settings = {name: config[name].to_dict() for name in ("inference", "adaptation")}
    settings["source"] = {"pretrain": config.to_dict()}
    target = workdir / "model"
    storage.write_directory(target, model_config, Converted(arrays, {}, ()), settings, vocabulary, overwrite=True)
    return target


def main(_: list[str]) -> None:
    """The command."""
    print(f"wrote {pretrain(flags.FLAGS.config, flags.FLAGS.workdir)}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", help_string="A file such as configs/tiny_pretrain.py.")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the model go.", required=True)
    cli.run(main)
