"""IFSeg on the 150 categories of ADE20K: image-free, or supervised with `configs/ade20k.py:supervised`.

python -m ifseg_jax.train --config=configs/ade20k.py --workdir=runs/ade20k --config.tokenizer=BPE_DIRECTORY \
    --config.validation.source=ade20k:ROOT --config.validation.every=100
python -m ifseg_jax.train --config=configs/ade20k.py:supervised --workdir=runs/ade20k_supervised \
    --config.tokenizer=BPE_DIRECTORY --config.data.source=ade20k:ROOT

ROOT holds ADEChallengeData2016 as it is unpacked (`python -m vlseg.data.list`).

Hardware: one accelerator with 16 GB. Time: not run.
Expected, published (IFSeg paper, OFA-Base with ResNet-101); ours not run:

    image-free    mIoU 16.8. The schedule is that of the authors' script, which keeps the checkpoint with the best mIoU
                  on the validation images, so its score is that of the best of 20 checkpoints, as it is here with
                  --config.validation; without that no image is needed, and the model is the last step.
    supervised    mIoU 47.1, of a schedule that is not published, nor is a script. What is set here is the image-free
                  schedule: 2,000 updates of 16 images are 1.6 epochs, with a frozen ResNet. What that gives is not
                  known.

Evaluate with: python -m ifseg_jax.evaluate --checkpoint=runs/ade20k/model --tokenizer=BPE_DIRECTORY \
    --data=ade20k:ROOT
"""

import ml_collections

from vlseg.settings import check_argument


def get_config(mode: str = "image_free") -> ml_collections.ConfigDict:
    """The official settings with these categories; `mode` is "image_free" or "supervised".

    Raises:
        ConfigError: another mode.
    """
    check_argument("configs/ade20k.py", mode, ("image_free", "supervised"))
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.mode = mode
    config.categories = "ade20k_150"
    return config
