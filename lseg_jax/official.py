"""Parameters by the names of official LSeg checkpoints (isl-org/lang-seg), both ways and bit-exact, and their axes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lseg_jax import encoders
from lseg_jax.config import LSegConfig
from lseg_jax.dpt import DECODER_AXES
from lseg_jax.encoders.base import STRIDES
from vlseg.checkpoints.directory import Weights
from vlseg.checkpoints.foreign import Shapes, shape_of
from vlseg.checkpoints.rules import (
    CONVOLUTION,
    POINTWISE,
    Rule,
    Tensors,
    assemble,
    batch_norm,
    beside,
    check_dtypes,
    check_names,
    disassemble,
    linear,
)
from vlseg.errors import CheckpointError, ConfigError
from vlseg.sharding import ParameterAxes

DECODER = "scratch"
BLOCK = f"{DECODER}.head_block.depthwise.depthwise"

MARK = f"{DECODER}.layer1_rn.weight"
"""A parameter that every checkpoint has."""

MODULES = (DECODER, "pretrained", "clip_pretrained")
"""Which parameters are in; those of others do not belong to the model."""

CARRIED = (rf"{DECODER}\.refinenet4\.resConfUnit1\.", r".*\.num_batches_tracked$")
"""Names that the model does not compute with: the unit for the skip that the coarsest level does not have, and counts.
They and what encoders name are carried along so that a state dict survives."""


def decoder_rules() -> list[Rule]:
    """Those of the decoder and the projection, which all models have."""
    rules = []
    for number in range(1, len(STRIDES) + 1):
        kernel = f"params/decoder/level{number}/kernel"
        rules.append(Rule(f"{DECODER}.layer{number}_rn.weight", kernel, CONVOLUTION))
        source, target = f"{DECODER}.refinenet{number}", f"decoder/fusion{number}"
        rules += linear(f"{source}.out_conv", f"{target}/out", POINTWISE)
        units = {"resConfUnit1": "skip_unit", "resConfUnit2": "unit"}
        if number == len(STRIDES):
            del units["resConfUnit1"]
        for unit, ours in units.items():
            for index in (1, 2):
                kernel = f"params/{target}/{ours}/conv{index}/kernel"
                rules.append(Rule(f"{source}.{unit}.conv{index}.weight", kernel, CONVOLUTION))
                rules += batch_norm(f"{source}.{unit}.bn{index}", f"{target}/{ours}/bn{index}")
    return rules + linear(f"{DECODER}.head1", "projection", POINTWISE)


def rules(config: LSegConfig) -> list[Rule]:
    """The rule of every parameter of a model of this configuration; layers in order."""
    table = [*config.text.official_rules(), *config.image.official_rules(), *decoder_rules()]
    if config.block != "none":
        table += linear(BLOCK, "block", CONVOLUTION)
    return table


AXES: ParameterAxes = (
    *(axes for kinds in encoders.KINDS.values() for kind in kinds.values() for axes in kind.axes),
    *DECODER_AXES,
    (r"/projection/kernel$", ("embed",)),
)
"""Of the parameters of any model, see `vlseg.sharding`."""


def config_from_official(
    shapes: Shapes, block: str = "none", block_depth: int = 0, activation: str = "lrelu"
) -> LSegConfig:
    """Reads the model's configuration off the shapes of an official state dict.

    Shapes tell a model with a block from one without, but neither its kind, its depth nor its activation: a checkpoint
    has them in its hyperparameters. Heads are 64 wide in all of CLIP's and timm's transformers.

    Raises:
        CheckpointError: a parameter that decides the configuration is missing or has an impossible shape, or a block
            is asked for and absent, or the other way round.
        ConfigError: a block, depth or activation that does not exist.
    """
    if (f"{BLOCK}.weight" in shapes) != (block != "none"):
        raise CheckpointError(f"the checkpoint has {'a' if block == 'none' else 'no'} block, which is not {block!r}")
    try:
        text, image = _encoder(shapes, encoders.TEXTS), _encoder(shapes, encoders.IMAGES)
        features = shape_of(shapes, f"{DECODER}.layer1_rn.weight", 4)[0]
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"not an LSeg checkpoint: {error}") from error
    return LSegConfig(text, image, features, block, block_depth, activation)


def _encoder(shapes: Shapes, kinds: Mapping[str, type[encoders.AnyEncoder]]) -> encoders.AnyEncoder:
    marks = {kind.official_mark: kind for kind in kinds.values() if kind.official_mark}
    for mark, kind in marks.items():
        if mark in shapes:
            return kind.from_official(shapes)
    raise CheckpointError(f"it has no {' and no '.join(marks)}, but {', '.join(list(shapes)[:3]) or 'nothing'}")


def from_official(
    tensors: Tensors,
    config: LSegConfig,
    place: Callable[[np.ndarray], Any] = np.ascontiguousarray,
) -> Weights:
    """Official state dict -> our variables.

    Args:
        tensors: official name, without a Lightning module's "net." -> tensor, read one at a time.
        config: from `config_from_official`.
        place: what to make of each array in our layout.

    Raises:
        CheckpointError: names are missing or left over; both are listed. Or parameters are no floats.
    """
    table = rules(config)
    carried = beside(table, tensors, "|".join(filter(None, (*CARRIED, config.text.carried, config.image.carried))))
    check_names(tensors.keys() - carried.keys(), [rule.official for rule in table], "an LSeg model")
    check_dtypes(tensors, [rule.official for rule in table])
    return Weights(assemble(table, lambda rule: tensors[rule.official].read(), place), carried)


def to_official(weights: Weights, config: LSegConfig) -> dict[str, np.ndarray]:
    """Inverse of `from_official`: official name -> array."""
    carried = {name: tensor.read() for name, tensor in weights.carried.items()}
    return disassemble(rules(config), weights.variables) | carried
