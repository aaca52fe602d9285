"""Models on disk: our directory of safetensors and JSON, and official Lightning checkpoints.

A directory holds `config.json` (model and inference settings, default labels), `model.safetensors` (our names and
layout), `official.safetensors` (what only the official code needs, if any) and `labels.safetensors` (embeddings of
labels that need no text encoder, if any).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import official
from lseg_jax.config import PLACE, LSegConfig, TextConfig, ViTConfig
from lseg_jax.lseg import LSegNet
from lseg_jax.official import Converted
from vlseg import files, remote, state_dicts, torch_files
from vlseg.errors import CheckpointError, ConfigError
from vlseg.safetensors_files import open_safetensors, read_variables, save_safetensors
from vlseg.state_dicts import TensorSource

FORMAT, VERSION = "lseg_jax", 1
CONFIG_FILE, WEIGHTS_FILE, OFFICIAL_FILE, LABELS_FILE = (
    "config.json",
    "model.safetensors",
    "official.safetensors",
    "labels.safetensors",
)
PREFIX = "net."
"""Lightning names the network in the official module "net"."""

BLOCKS_BY_OPTION = {0: "none", 1: "bottleneck", 2: "depthwise"}
"""Blocks by the official `--arch_option`."""

BACKBONES = {
    ("vit", 16, 512): "clip_vitl16_384",
    ("vit", 16, 640): "clipRN50x4_vitl16_384",
    ("vit", 16, 768): "clipRN50x16_vitl16_384",
    ("vit", 32, 512): "clip_vitb32_384",
    ("vit", 32, 640): "clipRN50x4_vitb32_384",
    ("vit", 32, 768): "clipRN50x16_vitb32_384",
    ("resnet", 0, 512): "clip_resnet101",
}
"""Official `--backbone` by kind of image encoder, patch and width of the text embeddings."""

Place = Callable[[np.ndarray], Any]


class Stored(NamedTuple):
    """A model as read from disk.

    settings: further parts of config.json ("inference", "labels"). known: embeddings of labels, float32 [C] each.
    """

    config: LSegConfig
    converted: Converted
    settings: Mapping[str, Any]
    known: Mapping[str, np.ndarray] = {}


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
        block, block_depth, activation: of the block of an official checkpoint; by default what its hyperparameters say,
            and "lrelu" if they name no activation.

    Raises:
        CheckpointError: there is no such file, it is broken, or it is not such a model; parameters whose shapes do not
            fit its configuration are named.
        ConfigError: a block, depth or activation that does not exist.
    """
    path = Path(path)
    if path.is_dir():
        if (block, block_depth, activation) != (None, None, None):
            raise ConfigError(f"{path} says itself which block it has; leave out block, depth and activation")
        return _read_directory(path, place)
    return _read_checkpoint(path, place, block, block_depth, activation)


def _read_checkpoint(
    path: Path, place: Place, block: str | None, block_depth: int | None, activation: str | None
) -> Stored:
    content = torch_files.load(path)
    named = torch_files.load_state_dict(path, ("state_dict", "model"))
    tensors: dict[str, TensorSource] = {name.removeprefix(PREFIX): tensor for name, tensor in named.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    recorded = _hyperparameters(content)
    if block is None:
        block = _recorded_block(path, recorded, f"{official.BLOCK}.weight" in found)
    depth = (
        0 if block == "none" else _depth(path, block_depth if block_depth is not None else recorded.get("block_depth"))
    )
    activation = activation or recorded.get("activation") or "lrelu"
    try:
        config = official.config_from_official(found, block, depth, activation)
        _check_official_shapes(found, config)
        return Stored(config, official.from_official(tensors, config, place=place), {})
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error


def _depth(path: Path, given: Any) -> int:
    """How often the block is applied, given or recorded: the official loop applies it at least once."""
    if not isinstance(given, int):
        raise CheckpointError(
            f"{path} has a block and does not say how often it is applied: give block_depth, and activation if that is "
            "not lrelu, as in the authors' --block_depth and --activation"
        )
    return max(1, given)


def _recorded_block(path: Path, recorded: Mapping[str, Any], present: bool) -> str:
    """The block that the hyperparameters name; the zero-shot models have none whatever their parameters say."""
    if not present:
        return "none"
    option = recorded.get("arch_option")
    if option not in (1, 2):
        raise CheckpointError(
            f"{path} has a block and does not say which: give block (bottleneck or depthwise), block_depth and "
            "activation, as in the authors' --arch_option 1 or 2, --block_depth and --activation"
        )
    return BLOCKS_BY_OPTION[option]


def _hyperparameters(content: Any) -> Mapping[str, Any]:
    """What Lightning has recorded of the run, if anything."""
    recorded = content.get("hyper_parameters", content.get("hparams")) if isinstance(content, Mapping) else None
    if isinstance(recorded, torch_files.Record):
        recorded = {**(recorded.state if isinstance(recorded.state, Mapping) else {}), **_pairs(recorded.items)}
    return recorded if isinstance(recorded, Mapping) else {}


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(item for item in items if isinstance(item, tuple) and len(item) == 2)


def parameter_shapes(config: LSegConfig) -> dict[str, tuple[int, ...]]:
    """Path in our variables -> shape, of every parameter of a model of this configuration."""
    return {name: leaf.shape for name, leaf in state_dicts.flatten(abstract_variables(config)).items()}


def abstract_variables(config: LSegConfig) -> Any:
    """Shapes and dtypes of a model's variables."""
    return jax.eval_shape(initializer(config), jax.random.key(0))


def initializer(config: LSegConfig) -> Callable[[jax.Array], Any]:
    """The function key -> fresh variables of a model; without those of a sentence encoder, which are no part of it."""
    side = 64

    def initialize(key: jax.Array) -> Any:
        images = jnp.zeros((1, side, side, 3))
        if isinstance(config.text, TextConfig):
            tokens = jnp.zeros((2, config.text.context), jnp.int32)
            return LSegNet(config).init(key, images, tokens)
        return LSegNet(config).init(key, images, jnp.zeros((2, config.text.features)), method=LSegNet.segment)

    return initialize


def _check_official_shapes(found: Mapping[str, tuple[int, ...]], config: LSegConfig) -> None:
    """Raises CheckpointError if parameters have other shapes than the configuration asks for."""
    ours = parameter_shapes(config)
    expected = {}
    for rule in official.rules(config):
        shape = ours[rule.path] if rule.layer is None else ours[rule.path][1:]
        expected[rule.official] = rule.layout.to_official(np.broadcast_to(np.float32(0), shape)).shape
    state_dicts.check_shapes(found, expected)


def _read_directory(path: Path, place: Place) -> Stored:
    config, settings = _read_config(path)
    variables = read_variables(path / WEIGHTS_FILE, parameter_shapes(config), "an LSeg model", place)
    carried: dict[str, TensorSource] = {}
    if (path / OFFICIAL_FILE).exists():
        carried = dict(open_safetensors(path / OFFICIAL_FILE))
    known = {}
    if (path / LABELS_FILE).exists():
        known = {label: tensor.read() for label, tensor in open_safetensors(path / LABELS_FILE).items()}
    return Stored(config, Converted(variables, carried), settings, known)


def _read_config(path: Path) -> tuple[LSegConfig, Mapping[str, Any]]:
    try:
        settings = json.loads((path / CONFIG_FILE).read_text())
        if settings["format"] != FORMAT:
            raise CheckpointError(f"{path} holds a model of format {settings['format']!r}, not {FORMAT!r}")
        return LSegConfig.from_dict(settings["model"]), settings
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a model directory: it has no {CONFIG_FILE}") from error
    except KeyError as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be used: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, OSError, ConfigError) as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be used: {error}") from error


def write_directory(
    path: str | os.PathLike[str],
    config: LSegConfig,
    converted: Converted,
    settings: Mapping[str, Any],
    known: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a directory of ours; whole or not at all.

    Args:
        path: local or of a bucket (`gs://...`); must not exist unless `overwrite`.
        settings: JSON-ready parts of config.json besides the model's own.
        known: embeddings of labels, float32 [C] each.

    Raises:
        StorageError: it cannot be written. ConfigError: a package for its bucket is missing.
    """
    described = {"format": FORMAT, "version": VERSION, "model": config.to_dict()}
    flat = {name: np.ascontiguousarray(value) for name, value in state_dicts.flatten(converted.variables).items()}
    with remote.directory(path, CONFIG_FILE, overwrite) as temporary:
        save_safetensors(flat, temporary / WEIGHTS_FILE, path)
        if converted.carried:
            # Unlike np.ascontiguousarray this leaves scalars what they are.
            carried = {name: np.asarray(tensor.read(), order="C") for name, tensor in converted.carried.items()}
            save_safetensors(carried, temporary / OFFICIAL_FILE, path)
        if known:
            save_safetensors(
                {label: np.asarray(known[label], order="C") for label in known}, temporary / LABELS_FILE, path
            )
        files.atomic_write_json(temporary / CONFIG_FILE, {**described, **settings})


def write_official(path: str | os.PathLike[str], config: LSegConfig, converted: Converted) -> None:
    """Writes a Lightning checkpoint by the official names, with the hyperparameters that name the architecture.

    Raises:
        ConfigError: the text encoder is not CLIP's, or encodes labels in a template.
        StorageError: it cannot be written.
    """
    if not isinstance(config.text, TextConfig):
        raise ConfigError("the official code has no such text encoder; export a directory (--format=directory) instead")
    if config.template != PLACE:
        raise ConfigError(
            f"the official code encodes labels alone, not in {config.template!r}; export a directory "
            "(--format=directory) instead"
        )
    state = {f"{PREFIX}{name}": value for name, value in official.to_official(converted, config).items()}
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
    image = config.image
    key = ("vit", image.patch) if isinstance(image, ViTConfig) else ("resnet", 0)
    return BACKBONES.get((*key, config.text.features))
