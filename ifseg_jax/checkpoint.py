"""IFSeg and OFA models on disk: our directories, official PyTorch archives, and how parameters are spread.

A directory of ours also holds the categories that a model was adapted to and, if it has one of its own, its word-level
vocabulary `words.txt`.
"""

import functools
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax import official
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.weights import WEIGHTS
from vlseg import devices, torch_files
from vlseg.checkpoints import directory, rules, state_dicts
from vlseg.checkpoints.directory import Place, Stored
from vlseg.checkpoints.rules import ArrayTensor
from vlseg.errors import CheckpointError, ConfigError, one_line
from vlseg.sharding import ParameterAxes

FORMAT = "ifseg_jax"
WORDS_FILE = "words.txt"
BUNDLED = "tiny"
BUNDLED_MODELS = {name: Path(__file__).with_name(name) for name in (BUNDLED, "clothing")}

_INWARD = r"/(query|key|value|(self_|cross_)?position_(query|key))"
AXES: ParameterAxes = (
    (_INWARD + r"/kernel$", ("embed", "heads")),
    (_INWARD + r"/bias$", ("heads",)),
    (r"attention/out/kernel$", ("heads", "embed")),
    (r"/fc1/kernel$", ("embed", "mlp")),
    (r"/(fc1|ffn/norm)/(bias|scale)$", ("mlp",)),
    (r"/fc2/kernel$", ("mlp", "embed")),
    (r"/head_scale$", ("heads",)),
    (r"_table$", (None, "heads")),
    (r"(kernel|positions|/table)$", ("embed",)),
)
"""See `vlseg.sharding`."""

CATEGORY_TABLES = (
    "encoder.seg_embed_tokens.weight",
    "decoder.seg_embed_tokens.weight",
    "decoder.seg_projection.weight",
)
"""Official names of the category embeddings, which the official code keeps as parameters."""

CATEGORY_TABLE = official.CATEGORY_TABLE
"""Path of the table of `OFAConfig.category_rows`, whose official name is the last of these."""

OPTIONS = ("decoder_input_type", "full_context_alignment", "prompt_prefix")
"""Of `OFAConfig`, options of the official code that its files do not hold."""

RECORDED = frozenset({*OPTIONS, "category_rows"})
"""What `write_official` records of a configuration."""

_DECODER_WORDS = "decoder.embed_tokens.weight"


@functools.cache
def parameter_shapes(config: OFAConfig) -> dict[str, tuple[int, ...]]:
    """Path in our variables -> shape, of every parameter of a model of this configuration.

    Raises:
        ConfigError: no model can be built from it, or there is no device.
    """
    devices.check()
    try:
        images = jnp.zeros((1, config.stride, config.stride, 3))
        variables = jax.eval_shape(OFA(config).init, jax.random.key(0), images, jnp.arange(1))
    except Exception as error:  # settings come from files, and layers refuse wrong ones with errors of many types
        raise ConfigError(f"no model can be built from its settings: {one_line(error)}") from error
    leaves = rules.flatten(variables)
    # In the order of the official parameters: messages begin with those that tell sizes apart.
    found = {rule.path: leaves[rule.path].shape for rule in official.rules(config) if rule.path != CATEGORY_TABLE}
    return found | ({CATEGORY_TABLE: (config.category_rows, config.width)} if config.category_rows else {})


def official_shapes(config: OFAConfig) -> dict[str, tuple[int, ...]]:
    """The same by official name, in the official layout."""
    return rules.official_shapes(official.rules(config), parameter_shapes(config))


def resolve(source: str | os.PathLike[str], step: int | None = None) -> Path:
    """The local path of a checkpoint given as for `ifseg_jax.load`, downloaded at its first use if need be."""
    return directory.resolve(source, BUNDLED_MODELS, WEIGHTS, step)


def read(path: str | os.PathLike[str], place: Place = np.ascontiguousarray) -> Stored:
    """Reads a directory of ours or an official archive, one tensor at a time.

    Args:
        path: a directory, or a PyTorch archive with an OFA or IFSeg state dict.
        place: see `official.from_official`.

    Raises:
        CheckpointError: there is no such file, it is broken, or it is not such a model; parameters whose shapes do not
            fit its configuration are named.
    """
    path = Path(path)
    if path.is_dir():
        return directory.read(path, FORMAT, _parse, place)
    given = official_tensors(path)
    found = {name: tuple(tensor.shape) for name, tensor in given.tensors.items()}
    try:
        config, settings = _recorded(path, official.config_from_official(found))
        rules.check_shapes(found, official_shapes(config))
        stored = Stored(config, official.from_official(given.tensors, config, place=place), settings)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    state_dicts.report(path, given.prefix, given.left_out, given.beside)
    if rows := official.unused_categories(stored.weights):
        logging.getLogger(__name__).warning("%s: %s", path, official.UNUSED_CATEGORIES.format(rows))
    return stored


def official_tensors(path: str | os.PathLike[str]) -> state_dicts.Checkpoint:
    """The tensors of an official archive, see `state_dicts.read`."""
    return state_dicts.read(path, official.WORDS, official.MODULES)


def _recorded(path: Path, config: OFAConfig) -> tuple[OFAConfig, dict[str, Any]]:
    """The configuration with what `write_official` has recorded in an archive, and further settings."""
    try:
        content = torch_files.load(path)
    except CheckpointError:  # a TorchScript program, which has tensors alone
        return config, {}
    own = content.get(FORMAT) if isinstance(content, Mapping) else None
    if not isinstance(own, Mapping):
        return config, {}
    try:
        settings, categories = dict(own["model"]), list(own.get("categories", ()))
        if not settings.keys() <= RECORDED:
            raise TypeError(f"only {', '.join(sorted(RECORDED))} are said beside the parameters, which say the rest")
        # Messages quote values, and one that shares its parts again and again would take forever to write down.
        if not all(isinstance(value, str | int | float | None) for value in settings.values()):
            raise TypeError("a setting is no number or text")
        if not all(isinstance(name, str) for name in categories):
            raise TypeError("a category is no text")
        config = OFAConfig.from_dict({**config.to_dict(), **settings})
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"what it says of {FORMAT} cannot be used: {error}") from error
    if len(categories) != config.category_rows:
        raise CheckpointError(f"it names {len(categories)} categories for a table of {config.category_rows}")
    return config, {"categories": categories} if categories else {}


def _parse(values: Mapping[str, Any]) -> tuple[OFAConfig, directory.Shapes]:
    config = OFAConfig.from_dict(values)
    return config, parameter_shapes(config)


def write_official(path: str | os.PathLike[str], stored: Stored) -> None:
    """Writes a PyTorch archive with the state dict under the official names, which the official trainer restores.

    fairseq's loader wants the history of a training run beside "model"; this one has none. What the official code takes
    as options, and the names of categories that have a table, are recorded under `FORMAT` for `read`, which fairseq
    passes over; the options are said in one warning.

    Raises:
        ConfigError: the official code has no such model. StorageError: it cannot be written.
    """
    config: OFAConfig = stored.config
    if config.backbone != OFAConfig.backbone:
        raise ConfigError(
            f"the official code has no model with backbone={config.backbone}; export a directory (--format=directory) "
            "instead"
        )
    if config.decoder_positions != OFAConfig.decoder_positions:
        raise ConfigError(
            f"the official code has no model with decoder_positions={config.decoder_positions}; export a directory "
            "(--format=directory) instead"
        )
    options = {name: value for name in OPTIONS if (value := getattr(config, name)) != getattr(OFAConfig, name)}
    own: dict[str, Any] = {"model": options}
    if config.category_rows:
        own["model"] = options | {"category_rows": config.category_rows}
        own["categories"] = list(stored.settings.get("categories", ()))
    history = {
        "criterion_name": "SegCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    archive = {
        "args": None,
        "cfg": None,
        "model": official.to_official(stored.weights, stored.config),
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch_files.save(path, archive | ({FORMAT: own} if own["model"] else {}))
    if options:
        flags = " ".join(shlex.quote(f"--{name.replace('_', '-')}={_said(value)}") for name, value in options.items())
        logging.getLogger(__name__).warning("%s: the official code needs these options with it: %s", path, flags)


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_category_tables(stored: Stored, categories: np.ndarray | None) -> Stored:
    """What the official IFSeg code (alinlab/ifseg) loads, of a model whose archive may come from OFA.

    It holds the mean sub-word embedding of every one of the model's categories. The decoder's copy of the word
    embedding is written because the official code lengthens both copies together; the copy that it averages category
    names from (`embed_tokens_bag`) only if the model came with it, because it is not lengthened. Segmentation positions
    are always in it. The authors' notebook, which builds a model from the file alone, also wants the arguments of their
    training run, which it does not hold.

    Args:
        categories: float32 [M, D], or None for a model without any.
    """
    weights = stored.weights
    carried = dict(weights.carried)
    if categories is not None:
        carried |= dict.fromkeys(CATEGORY_TABLES, ArrayTensor(categories))
    tied = tuple(dict.fromkeys((*weights.tied, _DECODER_WORDS)))
    return stored._replace(weights=directory.Weights(weights.variables, carried, tied))
