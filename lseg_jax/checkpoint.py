"""LSeg models on disk: our directories, official Lightning checkpoints, fresh parameters.

A directory of ours also holds `labels.safetensors`: embeddings of labels that need no text encoder, if there are any.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import official
from lseg_jax.config import ACTIVATIONS, PLACE, LSegConfig
from lseg_jax.lseg import LSegNet
from vlseg import devices, torch_files
from vlseg.checkpoints import directory, rules, state_dicts
from vlseg.checkpoints.directory import Place, Stored
from vlseg.errors import CheckpointError, ConfigError, one_line
from vlseg.safetensors_files import open_safetensors

FORMAT = "lseg_jax"
LABELS_FILE = "labels.safetensors"
BUNDLED = "tiny"
BUNDLED_MODELS = {name: Path(__file__).with_name(name) for name in (BUNDLED, "clothing")}
STATE_KEYS = ("state_dict", "model")
"""Where a file has its state dict."""

PREFIX = "net."
"""Lightning names the network in the official module "net"."""

BLOCKS_BY_OPTION = {0: "none", 1: "bottleneck", 2: "depthwise"}
"""Blocks by the official `--arch_option`."""

BLOCK_SETTINGS = frozenset({"arch_option", "block_depth", "activation"})
HYPERPARAMETERS = ("hyper_parameters", "hparams", "args", "config", "cfg", "kwargs")
"""Where files have settings of the run that wrote them."""

DEFAULT_ACTIVATION = "lrelu"
"""The authors', of a run that names none."""

MOST_BLOCKS = 100
"""Of a checkpoint; the authors' have up to 2."""

BACKBONES = {
    ("vitl16_384", 512): "clip_vitl16_384",
    ("vitl16_384", 640): "clipRN50x4_vitl16_384",
    ("vitl16_384", 768): "clipRN50x16_vitl16_384",
    ("vitb32_384", 512): "clip_vitb32_384",
    ("vitb32_384", 640): "clipRN50x4_vitb32_384",
    ("vitb32_384", 768): "clipRN50x16_vitb32_384",
    ("resnet101", 512): "clip_resnet101",
}
"""Official `--backbone` by name of the image encoder and width of the text embeddings."""


def resolve(source: str | os.PathLike[str], step: int | None = None) -> Path:
    """The local path of a checkpoint given as for `lseg_jax.load`."""
    return directory.resolve(source, BUNDLED_MODELS, {}, step)


def read(
    path: str | os.PathLike[str],
    place: Place = np.ascontiguousarray,
    block: str | None = None,
    block_depth: int | None = None,
    activation: str | None = None,
) -> Stored:
    """Reads a directory of ours or an official checkpoint, one tensor at a time.

    Args:
        path: a directory, or a Lightning checkpoint (or a state dict alone) of isl-org/lang-seg, zero-shot models
            included.
        place: see `official.from_official`.
        block, block_depth, activation: of the block of an official checkpoint; by default what its hyperparameters say.

    Raises:
        CheckpointError: there is no such file, it is broken, or it is not such a model; parameters whose shapes do not
            fit its configuration are named. Or it does not say which block it has, how often or with which activation:
            the message names the flags and their choices.
        ConfigError: a block, depth or activation that does not exist, or of a model without a block.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_checkpoint(path, place, block, block_depth, activation)
    if (block, block_depth, activation) != (None, None, None):
        raise ConfigError(f"{path} says itself which block it has; leave out block, depth and activation")
    return directory.read(path, FORMAT, _parse, place)


def _parse(values: Mapping[str, Any]) -> tuple[LSegConfig, directory.Shapes]:
    config = LSegConfig.from_dict(values)
    return config, parameter_shapes(config)


def known_labels(stored: Stored) -> dict[str, np.ndarray]:
    """The embeddings of labels, float32 [C] each, that a directory holds.

    Raises:
        CheckpointError: the file is broken, or holds something else.
    """
    path = stored.directory and stored.directory / LABELS_FILE
    if not path or not path.exists():
        return {}
    found, shape = {}, (stored.config.text.features,)
    for label, tensor in open_safetensors(path).items():
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{path}: the embedding of {label!r} is {list(tensor.shape)}, not {list(shape)}")
        found[label] = tensor.read()
        if found[label].dtype != np.float32:
            raise CheckpointError(f"{path}: the embedding of {label!r} is of {found[label].dtype}, not float32")
    rules.check_finite(found, path)
    return found


def official_tensors(path: str | os.PathLike[str]) -> state_dicts.Checkpoint:
    """The tensors of an official checkpoint, see `state_dicts.read`."""
    return state_dicts.read(path, official.MARK, official.MODULES, STATE_KEYS)


def _read_checkpoint(
    path: Path, place: Place, block: str | None, block_depth: int | None, activation: str | None
) -> Stored:
    recorded = _hyperparameters(torch_files.load(path))
    given = official_tensors(path)
    found = {name: tuple(tensor.shape) for name, tensor in given.tensors.items()}
    if block is None:
        block = _recorded_block(path, recorded, f"{official.BLOCK}.weight" in found)
    if block == "none" and (block_depth, activation) != (None, None):
        raise ConfigError(f"{path} has no block, which block_depth and activation are about; leave them out")
    depth = (
        0 if block == "none" else _depth(path, block_depth if block_depth is not None else recorded.get("block_depth"))
    )
    activation = activation or _recorded_activation(path, recorded, depth)
    try:
        config = official.config_from_official(found, block, depth, activation)
        rules.check_shapes(found, rules.official_shapes(official.rules(config), parameter_shapes(config)))
        stored = Stored(config, official.from_official(given.tensors, config, place=place))
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error
    state_dicts.report(path, given.prefix, given.left_out, given.beside, usual=PREFIX)
    return stored


def _depth(path: Path, given: Any) -> int:
    """How often the block is applied, given or recorded: the official loop applies it at least once."""
    if type(given) is not int or given > MOST_BLOCKS:
        raise CheckpointError(
            f"{path} has a block and does not say how often it is applied: give block_depth (--block_depth, as in the "
            f"authors' code; at most {MOST_BLOCKS})"
        )
    return max(1, given)


def _recorded_block(path: Path, recorded: Mapping[str, Any], present: bool) -> str:
    """The block that the hyperparameters name; the zero-shot models have none whatever their parameters say."""
    if not present:
        return "none"
    option = recorded.get("arch_option")
    if type(option) is not int or option not in (1, 2):
        raise CheckpointError(
            f"{path} has a block and does not say which: give block (--block=bottleneck or depthwise, the authors' "
            f"--arch_option 1 or 2), and if it does not say them either block_depth and activation "
            f"(--activation={' or '.join(ACTIVATIONS)}, both as in the authors' code)"
        )
    return BLOCKS_BY_OPTION[option]


def _recorded_activation(path: Path, recorded: Mapping[str, Any], depth: int) -> str:
    """The block's activation; it does not matter for one that is applied once: the official loop leaves out the last.

    The authors' default stands for one that the run left unset.
    """
    named = recorded.get("activation")
    if isinstance(named, str) and named in ACTIVATIONS:
        return named
    if depth < 2 or (named is None and "activation" in recorded):
        return DEFAULT_ACTIVATION
    raise CheckpointError(
        f"{path} has a block and does not say its activation: give activation "
        f"(--activation={' or '.join(ACTIVATIONS)}, as in the authors' code)"
    )


def _hyperparameters(content: Any) -> Mapping[str, Any]:
    """What Lightning, or other training code, has recorded of the run, if anything."""
    entries = content if isinstance(content, Mapping) else {}
    for name in HYPERPARAMETERS:
        recorded = torch_files.settings_of(entries.get(name))
        # Some record all of their arguments as one.
        for inner in (recorded, *(torch_files.settings_of(recorded.get(name)) for name in HYPERPARAMETERS)):
            if not BLOCK_SETTINGS.isdisjoint(inner):
                return inner
    return {}


@functools.cache
def parameter_shapes(config: LSegConfig) -> dict[str, tuple[int, ...]]:
    """Path in our variables -> shape, of every parameter of a model of this configuration.

    Raises:
        ConfigError: no model can be built from it, or there is no device.
    """
    devices.check()
    try:
        return {name: leaf.shape for name, leaf in rules.flatten(abstract_variables(config)).items()}
    except Exception as error:  # settings come from files, and layers refuse wrong ones with errors of many types
        raise ConfigError(f"no model can be built from its settings: {one_line(error)}") from error


@functools.cache
def abstract_variables(config: LSegConfig) -> Any:
    """Shapes and dtypes of a model's variables."""
    return jax.eval_shape(initializer(config), jax.random.key(0))


def initializer(config: LSegConfig) -> Callable[[jax.Array], Any]:
    """The function key -> fresh variables of a model; without those of a sentence encoder, which are no part of it."""
    side = 64

    def initialize(key: jax.Array) -> Any:
        images = jnp.zeros((1, side, side, 3))
        if not config.text.trained_apart:
            tokens = jnp.zeros((2, config.text.context), jnp.int32)
            return LSegNet(config).init(key, images, tokens)
        return LSegNet(config).init(key, images, jnp.zeros((2, config.text.features)), method=LSegNet.segment)

    return initialize


def write_official(path: str | os.PathLike[str], stored: Stored) -> None:
    """Writes a Lightning checkpoint by the official names, with the hyperparameters that name the architecture.

    Raises:
        ConfigError: the authors' code has no such encoder, or does not encode labels in a template.
        StorageError: it cannot be written.
    """
    config: LSegConfig = stored.config
    for part, encoder in {"text": config.text, "image": config.image}.items():
        if encoder.official_mark is None:
            raise ConfigError(
                f"the official code has no such {part} encoder; export a directory (--format=directory) instead"
            )
    if config.template != PLACE:
        raise ConfigError(
            f"the official code encodes labels alone, not in {config.template!r}; export a directory "
            "(--format=directory) instead"
        )
    state = {f"{PREFIX}{name}": value for name, value in official.to_official(stored.weights, config).items()}
    archive = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "1.4.9",
        "state_dict": state,
        "hyper_parameters": {
            "backbone": backbone(config),
            "num_features": config.features,
            "arch_option": next(option for option, block in BLOCKS_BY_OPTION.items() if block == config.block),
            "block_depth": config.block_depth,
            "activation": config.activation,
        },
    }
    torch_files.save(path, archive)


def backbone(config: LSegConfig) -> str | None:
    """The official name of the pair of encoders, None if the authors have no such pair."""
    return BACKBONES.get((config.image.official_name or "", config.text.features))
