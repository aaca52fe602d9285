"""LSeg with blocks that smooth its label maps (Table 4): ViT-B/32 and text of CLIP ViT-B/32 on ADE20K.

python -m lseg_jax.train --config=configs/lseg_blocks.py:bottleneck-2 --workdir=runs/bottleneck_2 \
    --config.data.source=ade20k:ROOT --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_VIT_B32 \
    --config.pretrained.image=VIT_B32_384

Instead of bottleneck-2 also none, bottleneck-1, bottleneck-4, depthwise-1, depthwise-2 and depthwise-4: the block, and
how often it is applied. Files and ROOT are those of configs/lseg_text_encoders.py. The activation is leaky ReLU, the
default of the authors' code; the paper does not say.

Images in an update (12, or the paper's 6) and rates are those of configs/lseg_ade20k.py.

Hardware: one accelerator with 40 GB. Time: not run.
Expected pixel accuracy and mIoU by depth, published (LSeg paper); ours not run. The paper says neither the schedule nor
which checkpoint was scored; the schedule here is that of configs/lseg_ade20k.py:

    depth         0             1             2             4
    depthwise     79.70 37.83   79.72 39.19   79.78 39.45    7.67  0.18
    bottleneck    79.70 37.83   79.64 39.16   79.70 39.79   79.68 38.78

Evaluate with: python -m lseg_jax.evaluate --checkpoint=runs/bottleneck_2/model --data=ade20k:ROOT --multi_scale
"""

import ml_collections

from vlseg.settings import check_argument

VIT_B32 = {"patch": 32, "width": 768, "heads": 12, "layers": 12, "grid": 12, "reassembled": (96, 192, 384, 768)}
BLOCKS = ("none", *(f"{block}-{depth}" for block in ("bottleneck", "depthwise") for depth in (1, 2, 4)))


def get_config(block: str = "bottleneck-2") -> ml_collections.ConfigDict:
    """The settings for ADE20K with a block, such as "depthwise-4" for one that is applied four times.

    Raises:
        ConfigError: another block than those of the table.
    """
    check_argument("configs/lseg_blocks.py", block, BLOCKS)
    kind, _, depth = block.partition("-")
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.model = {"image": VIT_B32, "block": kind, "block_depth": int(depth or 0)}
    for section in ("data", "evaluation", "validation"):
        config[section] = {"folder": {"ignore_zero": True}}
    return config
