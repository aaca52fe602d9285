"""What both ways of pre-training share: settings, fresh variables, the score of answers, and the model they leave."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ifseg_jax import checkpoint, official
from ifseg_jax.config import INITIAL_DEVIATION, OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.settings import Adaptation, Inference
from vlseg import settings
from vlseg.checkpoints import directory, rules
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.checkpoints.rules import Variables
from vlseg.checks import check_numbers
from vlseg.errors import ConfigError
from vlseg.training.workdir import Place

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Settings of any pre-training; a configuration names all of them, and those of its own kind.

    Attributes:
        batch_size: questions of an update. steps: after which the run ends. warmup_steps: of linear warm-up, before the
            cosine of the learning rate. b2, weight_decay: of AdamW.
        model: fields of `OFAConfig` but the size of the vocabulary. inference, adaptation: fields of `Inference` and
            `Adaptation`, which the model is stored with.
    """

    seed: int
    batch_size: int
    steps: int
    warmup_steps: int
    learning_rate: float
    b2: float
    weight_decay: float
    log_every: int
    checkpoint_every: int
    model: Mapping[str, Any]
    inference: Inference
    adaptation: Adaptation

    def __post_init__(self) -> None:
        check_numbers(self, "batch_size", "steps", "log_every", "checkpoint_every", least=1, whole=True)
        check_numbers(self, "seed", "warmup_steps", whole=True)
        check_numbers(self, "learning_rate", "weight_decay")
        check_numbers(self, "b2", below=1)


def check_settings(kind: type, config: ml_collections.ConfigDict, example: str) -> None:
    """Checks that a configuration has the fields of a dataclass, all of them and no others.

    Args:
        kind: the dataclass. example: a configuration file that has them.

    Raises:
        ConfigError: a setting that is missing, does not exist, or cannot be.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    missing = [name for name in known if name not in config]
    strange = [name for name in config if name not in known]
    if missing or strange:
        what = f"has no setting {', '.join(missing)}" if missing else f"has {', '.join(strange)}, which is no setting"
        raise ConfigError(
            f"the configuration of pre-training {what}: give a file such as {example}, with {', '.join(known)}"
        )
    settings.read(kind, config, "config")


def model_config(config: ml_collections.ConfigDict, words: int) -> OFAConfig:
    """The model that a configuration asks for, with so many words.

    Raises:
        ConfigError: there is no such model.
    """
    found = settings.read(OFAConfig, {**config.model, "vocabulary_size": words}, "config.model")
    checkpoint.parameter_shapes(found)  # what no model can be built of is told here
    return found


def answer_scores(logits: jax.Array, targets: Array, weights: Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross entropy and accuracy of answers.

    Args:
        logits: float32 [B, L, V]. targets: int32 [B, L], the answers' words. weights: float32 [B, L], 1 for a word of
            an answer and 0 after its end. Both scores are 0 if nothing counts.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    correct = jnp.argmax(logits, axis=-1) == targets
    total = jnp.maximum(jnp.sum(weights), 1.0)
    return jnp.sum(losses * weights) / total, jnp.sum(correct * weights) / total


def write_model(
    target: Place, config: ml_collections.ConfigDict, model: OFAConfig, arrays: Variables, words: bytes
) -> None:
    """Writes the model of a run, readable by `ifseg_jax.load`.

    Args:
        config: of the run. arrays: on the host. words: the content of the file of words.

    Raises:
        StorageError: it cannot be written.
    """
    # No question was about a label map: what segments starts as with a checkpoint of OFA.
    weights = Weights(official.with_fresh_segmentation(arrays, model))
    kept = {name: config[name].to_dict() for name in ("inference", "adaptation")}
    kept["source"] = {"pretrain": config.to_dict()}
    stored = Stored(model, weights, kept, others={checkpoint.WORDS_FILE: words})
    directory.write(target, checkpoint.FORMAT, stored, overwrite=True)


def initialize(config: OFAConfig, seed: int) -> dict[str, Any]:
    """Fresh variables of a model; equal seeds give equal values.

    OFA's deviation of 0.02 is that of BERT, for widths of hundreds. This model is narrow: its linear layers start
    Xavier-uniform, its embeddings with D**-0.5, and its tables of relative positions at 0.
    """
    images = jnp.zeros((1, 4 * config.stride, 4 * config.stride, 3))
    variables = jax.jit(OFA(config).init)(jax.random.key(seed), images, jnp.arange(3))
    return rules.unflatten({name: _widened(name, value, seed) for name, value in rules.flatten(variables).items()})


def _widened(name: str, value: jax.Array, seed: int) -> jax.Array:
    if re.search(r"(token|image|cell)_table$", name):
        return jnp.zeros_like(value)
    if re.search(r"(positions|/table|type_embedding)$", name):
        return value / INITIAL_DEVIATION * value.shape[-1] ** -0.5
    if not name.endswith("/kernel") or re.search(r"/(resnet|efficientnet)/", name):
        return value
    layers = value.shape[:-2]
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    draw = functools.partial(jax.nn.initializers.xavier_uniform(), shape=value.shape[-2:])
    return jnp.stack([draw(k) for k in jax.random.split(key, layers[0])]) if layers else draw(key)
