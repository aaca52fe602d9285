"""LSeg on ADE20K: ViT-L/16 and the text encoder of CLIP ViT-B/32, from the weights that the paper starts from.

python -m lseg_jax.train --config=configs/lseg_ade20k.py --workdir=runs/lseg_ade20k --config.data.source=ade20k:ROOT \
    --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_VIT_B32 --config.pretrained.image=VIT_L16_384

ROOT holds ADEChallengeData2016 as it is unpacked. CLIP_VIT_B32: openai/clip-vit-base-patch32 as safetensors, or the
official state dict. VIT_L16_384: timm's vit_large_patch16_384, or the original .npz. A folder of one's own instead of
ROOT has images/, labels/ (ADE20K's files, where 0 is "other") and names.txt (`vlseg/labels/ade20k_150.txt`).

Hardware: one accelerator with 80 GB, for a batch of 16. Time: not run.
Expected: mIoU 46.28 published (LSeg code, multi-scale; 47.25 with the text encoder of RN50x16); ours not run.
Evaluate with: python -m lseg_jax.evaluate --checkpoint=runs/lseg_ade20k/model --data=ade20k:ROOT --multi_scale

The authors' own checkpoint (demo_e200.ckpt) was trained with the words of their label file: score it with
--labels=ade20k_150_lseg.
"""

import ml_collections

from configs import lseg_base


def get_config() -> ml_collections.ConfigDict:
    """The official settings with ADE20K's way of counting."""
    config = lseg_base.get_config()
    for section in (config.data, config.evaluation):
        section.folder.ignore_zero = True
    return config
