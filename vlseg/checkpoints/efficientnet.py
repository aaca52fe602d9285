"""Published weights of EfficientNet-Lite: names, and what shapes tell of the size."""

import re
from collections.abc import Mapping

from vlseg.checkpoints.rules import CONVOLUTION, POINTWISE, Rule, batch_norm
from vlseg.errors import CheckpointError
from vlseg.nn.efficientnet import VARIANTS, Block, blocks

MARK, TIMM_MARK = "_conv_stem.weight", "conv_stem.weight"
"""A name that files of either form have: EfficientNet-PyTorch's, and timm's (tf_efficientnet_lite0 and so on)."""

SKIPPED = re.compile(r"_conv_head\.|_bn1\.|_fc\.|.*\.num_batches_tracked$")
TIMM_SKIPPED = re.compile(r"conv_head\.|bn2\.|classifier\.|.*\.num_batches_tracked$")
"""The classifier, and the convolution before it."""

LAYER, TIMM_LAYER = r"_blocks\.(\d+)\.", r"blocks\.(\d+\.\d+)\."


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


def variant_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
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
