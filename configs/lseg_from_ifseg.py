"""LSeg without a single label: trained on what IFSeg, adapted to words alone, makes of unlabelled photographs.

python -m ifseg_jax.train --config=configs/ade20k.py --workdir=runs/ade20k --config.tokenizer=BPE_DIRECTORY
python -m ifseg_jax.pseudo_label --checkpoint=runs/ade20k/model --tokenizer=BPE_DIRECTORY --images=PHOTOS --out=PSEUDO \
    --min_probability=0.5
python -m lseg_jax.train --config=configs/lseg_from_ifseg.py --workdir=runs/lseg_from_ifseg \
    --config.data.source=PSEUDO --config.pretrained.text=CLIP_VIT_B32 --config.pretrained.image=VIT_L16_384

The files of the last line are those of configs/lseg_ade20k.py. The result takes any words, also others than IFSeg's.

Images in an update (12, or the paper's 6) and rates are those of configs/lseg_ade20k.py.

Hardware: one accelerator with 80 GB. Time: not run. Expected: no published score; ours not run.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The official settings; labels that are guessed earn a shorter run."""
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.training = {"epochs": 30}
    return config
