"""Image-free adaptation to the 15 unseen categories of COCO-Stuff 164k.

python -m ifseg_jax.train --config=configs/coco_unseen.py --workdir=runs/coco_unseen --config.tokenizer=BPE_DIRECTORY \
    --config.validation.source=coco_unseen:ROOT --config.validation.every=100

Hardware: one accelerator with 16 GB. Time: not run.
Expected: mIoU 55.6 published (IFSeg paper, OFA-Base with ResNet-101); ours not run. The schedule is that of the
authors' script, which keeps the best of 20 checkpoints by mIoU on the validation images, as --config.validation does
here; without that flag no image is needed, and the model is the last step.
Evaluate with: python -m ifseg_jax.evaluate --checkpoint=runs/coco_unseen/model --tokenizer=BPE_DIRECTORY \
    --data=coco_unseen:ROOT

ROOT holds COCO-Stuff 164k as it is unpacked (`python -m vlseg.data.list`); pixels of seen categories do not count.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The official settings with these categories."""
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.categories = "coco_unseen_15"
    return config
