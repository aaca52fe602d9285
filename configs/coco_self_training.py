"""Self-training of IFSeg on unlabelled images of COCO-Stuff 164k, without labels or with those of the seen categories.

Without labels, 15 unseen categories, from the model of configs/coco_unseen.py:

python -m ifseg_jax.pseudo_label --checkpoint=runs/coco_unseen/model --tokenizer=BPE_DIRECTORY \
    --images=ROOT/images/train2017 --out=PSEUDO
python -m ifseg_jax.train --config=configs/coco_self_training.py:unseen --workdir=runs/self_training \
    --config.tokenizer=BPE_DIRECTORY --config.data.source=PSEUDO

With the labels of the 156 seen categories, from the model of configs/coco.py:

python -m ifseg_jax.pseudo_label --checkpoint=runs/coco/model --tokenizer=BPE_DIRECTORY --data=coco_seen:ROOT \
    --split=train --out=PSEUDO_SEEN
python -m ifseg_jax.train --config=configs/coco_self_training.py:seen --workdir=runs/self_training_seen \
    --config.tokenizer=BPE_DIRECTORY --config.data.source=PSEUDO_SEEN

Hardware: one accelerator with 16 GB. Time: not run.
Expected on the 15 unseen categories: mIoU 56.2 without and 61.6 with labels, published (IFSeg paper); ours not run. The
8,000 further steps are the paper's. No script of them is published; rate, batch and what is frozen are those of the
image-free scripts here, and which checkpoint was scored is not said.
Evaluate with: python -m ifseg_jax.evaluate --checkpoint=runs/self_training/model --tokenizer=BPE_DIRECTORY \
    --data=coco_unseen:ROOT
"""

import ml_collections

from vlseg.settings import check_argument

STARTS = {"unseen": ("runs/coco_unseen/model", "coco_unseen_15"), "seen": ("runs/coco/model", "coco_stuff_171")}


def get_config(labels: str = "unseen") -> ml_collections.ConfigDict:
    """8,000 more steps on images; `labels` is "unseen", without labels, or "seen", with labels of seen categories.

    Raises:
        ConfigError: another word.
    """
    check_argument("configs/coco_self_training.py", labels, STARTS)
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.mode = "supervised"
    config.checkpoint, config.categories = STARTS[labels]
    config.adaptation = {"steps": 8000}
    return config
