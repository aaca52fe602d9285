"""Pre-training of a small OFA on photographs, by their words and boxes; its image backbone is frozen.

The features of the backbone are computed once and kept in the working directory: an update is the transformer's alone.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ifseg_jax.backbone import read_image_encoder
from ifseg_jax.ofa import OFA
from ifseg_jax.pretrain import common
from ifseg_jax.pretrain.features import digest, photographs
from ifseg_jax.pretrain.regions import Asked, Photograph, Questioner, vocabulary
from ifseg_jax.vocabulary import PAD, SPECIALS
from vlseg.checkpoints import rules
from vlseg.checks import check_numbers
from vlseg.data.sources import announced, open_dataset
from vlseg.errors import ConfigError
from vlseg.training import inputs, loop, optimizers
from vlseg.training.workdir import Place, open_workdir

SHARPNESS = 12.0
"""Logits of the names of image tokens per cosine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(common.Pretraining):
    """Settings of pre-training on photographs.

    Attributes:
        source: labelled photographs, as `vlseg.data.sources.open_dataset` takes them; only words and boxes of their
            label maps are used. encoder: weights of the EfficientNet-Lite, see
            `ifseg_jax.backbone.read_image_encoder`.
        short_side: pixels of the photographs' short side when features are computed; the long side has as many as keep
            the aspect, both to multiples of 32.
        shares: of the tasks, see `ifseg_jax.pretrain.regions`. word_share: of the regions of a collage that are words.
        candidates: names that a question lists at most.
        alignment: weight of naming image tokens by the words that are read like them, beside the answers.
    """

    source: str
    encoder: str
    short_side: int
    shares: Mapping[str, float]
    word_share: float
    candidates: int
    alignment: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "short_side", "candidates", least=1, whole=True)
        check_numbers(self, "word_share", below=1)
        check_numbers(self, "alignment")


def answers(model: Any, asked: Any, name_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of the answers' words, float32 [B, ANSWER, V], and of the names of image tokens, float32 [B, G, G, M].

    The latter are `SHARPNESS` times the cosines of what the encoder reads of an image token, and of a name in its
    place.

    Args:
        model: a bound `OFA`. asked: `Asked`, in JAX's arrays. name_ids: int32 [M].
    """
    tokens = model.image_embeddings(asked.features.astype(jnp.float32))
    words = model.embed_words(name_ids)
    seen, read = model.encoder.read_cells(tokens), model.encoder.read_cells(words)
    alike = SHARPNESS * jnp.einsum("bhwd,md->bhwm", unit(seen), unit(read))
    tokens = jnp.where((asked.shown >= 0)[..., None], words[jnp.maximum(asked.shown, 0)], tokens)
    encoded = model.encoder(
        model.embed_words(asked.source), jnp.not_equal(asked.source, PAD), tokens, deterministic=False
    )
    return model.decode_words(asked.inputs, encoded, deterministic=False), alike


def unit(x: jax.Array) -> jax.Array:
    """Vectors [..., D] of length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def make_step(config: ml_collections.ConfigDict, model: Any, questioner: Questioner) -> tuple[Any, Any]:
    """The optimizer and the step function of `vlseg.training.loop.train`."""
    schedule = optimizers.learning_rate_schedule(config.learning_rate, config.steps, config.warmup_steps)
    optimizer = optimizers.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay)
    name_ids = jnp.asarray(questioner.name_ids)

    def loss(params: Any, asked: Asked, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, alike = model.apply({"params": params}, asked, name_ids, method=answers, rngs={"dropout": key})
        told, accuracy = common.answer_scores(logits, asked.targets, asked.weights)
        boxed = jnp.asarray(asked.boxed)
        named, named_right = common.answer_scores(alike, jnp.maximum(boxed, 0), (boxed >= 0).astype(jnp.float32))
        metrics = {"loss": told, "accuracy": accuracy, "token_loss": named, "token_accuracy": named_right}
        return told + config.alignment * named, metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: dict[str, Any], asked: Asked, number: int) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        gradients, metrics = jax.grad(loss, has_aux=True)(state["params"], asked, key)
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer_state}, metrics

    def step(state: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        return update(state, questioner.batch(config.seed, number, config.batch_size), number)

    return optimizer, step


def standardized(params: Any, found: list[Photograph]) -> Any:
    """The projection of features started so that every channel counts the same, whatever its scale and mean."""
    sample = np.concatenate([each.features[0].reshape(-1, each.features.shape[-1])[::7] for each in found])
    mean, deviation = sample.mean(axis=0, dtype=np.float32), sample.std(axis=0, dtype=np.float32) + 1e-5
    kernel = np.asarray(params["encoder"]["image_projection"]["kernel"]) / deviation[:, None]
    projection = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(-mean @ kernel)}
    return {**params, "encoder": {**params["encoder"], "image_projection": projection}}


def pretrain(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes pre-training and writes the model.

    Returns:
        The model directory, readable by `ifseg_jax.load`.

    Raises:
        ConfigError: a setting that cannot be, or `workdir` holds a run of another configuration.
        DatasetError, CheckpointError: photographs or weights cannot be read. StorageError: nothing can be written.
    """
    common.check_settings(Pretraining, config, "configs/clothing_pretrain.py")
    if not config.source:
        raise ConfigError("pre-training needs photographs: give --config.source=FOLDER, or a data set by name")
    dataset = announced(open_dataset(config.source))
    listed = vocabulary(dataset.names)
    model_config = common.model_config(config, len(listed) + len(SPECIALS))
    if model_config.backbone != "efficientnet":
        raise ConfigError(
            "pre-training on photographs starts from weights of an EfficientNet-Lite: backbone must be so"
        )
    encoder = read_image_encoder(config.encoder, model_config)
    made_of = {"source": inputs.of_data(dataset, config.source), "encoder": {"sha256": digest(encoder)}}
    folder = Path(os.fspath(open_workdir(workdir, config.to_dict(), found=made_of)))
    model = OFA(model_config)
    fresh = rules.flatten(common.initialize(model_config, config.seed))
    variables = rules.unflatten({**fresh, **{name: jnp.asarray(value) for name, value in encoder.items()}})
    found = photographs(dataset, model_config, variables, config.short_side, made_of, folder)
    questioner = Questioner(
        dataset.names, found, model_config.image_grid, config.shares.to_dict(), config.word_share, config.candidates
    )
    optimizer, step = make_step(config, model, questioner)
    flat = rules.flatten({"params": standardized(variables["params"], found)})
    trained = {name: value for name, value in flat.items() if name not in encoder}
    params = rules.unflatten(trained)["params"]
    state = {"params": params, "optimizer": optimizer.init(params)}
    schedule = loop.Schedule(config.steps, config.log_every, config.checkpoint_every)
    state = loop.train(state, step, folder, schedule, on_log=loop.print_metrics)
    learnt = rules.flatten({"params": jax.tree.map(np.asarray, state["params"])})
    target, words = folder / "model", "".join(f"{word}\n" for word in listed).encode()
    common.write_model(target, config, model_config, rules.unflatten({**learnt, **encoder}), words)
    return target
