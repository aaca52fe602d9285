"""Image-free adaptation to the 171 categories of COCO-Stuff 164k.

python -m ifseg_jax.train --config=configs/coco.py --workdir=runs/coco --config.tokenizer=BPE_DIRECTORY \
    --config.validation.source=coco_stuff:ROOT --config.validation.every=100

No flag is needed but the first: without the others the run goes into runs/coco, the tokenizer is fetched beside the
checkpoint, and the model is the last step.

Hardware: one accelerator with 16 GB. Time: not run.
Expected: mIoU 16.9 published (IFSeg paper, OFA-Base with ResNet-101); ours not run. The schedule is that of the
authors' script, which keeps the best of 20 checkpoints by mIoU on the validation images, as --config.validation does
here; without that flag no image is needed.
Evaluate with: python -m ifseg_jax.evaluate --checkpoint=runs/coco/model --tokenizer=BPE_DIRECTORY \
    --data=coco_stuff:ROOT

ROOT holds the data set as it is unpacked (`python -m vlseg.data.list`).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The official settings with these categories."""
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.categories = "coco_stuff_171"
    return config
