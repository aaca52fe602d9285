"""Where pre-training begins: checked settings and fresh variables."""

import dataclasses
import functools
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from ifseg_jax import checkpoint
from ifseg_jax.config import INITIAL_DEVIATION, OFAConfig
from ifseg_jax.ofa import OFA
from vlseg import settings
from vlseg.checkpoints import rules
from vlseg.errors import ConfigError


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
