"""Image-free adaptation to the 150 categories of ADE20K.

python -m ifseg_jax.train --config=configs/ade20k.py --workdir=runs/ade20k --config.tokenizer=BPE_DIRECTORY

Hardware: one accelerator with 16 GB. Time: not run.
Expected: mIoU 16.8 published (IFSeg paper, OFA-Base with ResNet-101); ours not run.
Evaluate with: python -m ifseg_jax.evaluate --checkpoint=runs/ade20k/model --tokenizer=BPE_DIRECTORY --data=FOLDER \
    --ignore_zero
"""

import ml_collections

from configs import ifseg_base


def get_config() -> ml_collections.ConfigDict:
    """The official settings with these categories."""
    config = ifseg_base.get_config()
    config.categories = "ade20k_150"
    return config
