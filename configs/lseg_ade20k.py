"""LSeg on ADE20K (Table 6): ViT-L/16 and a text encoder of CLIP, from the weights that the paper starts from.

python -m lseg_jax.train --config=configs/lseg_ade20k.py --workdir=runs/lseg_ade20k --config.data.source=ade20k:ROOT \
    --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_VIT_B32 --config.pretrained.image=VIT_L16_384
python -m lseg_jax.train --config=configs/lseg_ade20k.py:rn50x16 --workdir=runs/lseg_ade20k_rn50x16 \
    --config.data.source=ade20k:ROOT --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_RN50X16 \
    --config.pretrained.image=VIT_L16_384

python -m lseg_jax.train --config=configs/lseg_ade20k.py:clip_vit_b16 --workdir=runs/lseg_ade20k_clip \
    --config.data.source=ade20k:ROOT --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_VIT_B32 \
    --config.pretrained.image=CLIP_VIT_B16

ROOT holds ADEChallengeData2016 as it is unpacked. CLIP_VIT_B32: openai/clip-vit-base-patch32 as safetensors, or the
official state dict; CLIP_RN50X16: OpenAI's RN50x16.pt. VIT_L16_384: timm's vit_large_patch16_384, or the original .npz.
CLIP_VIT_B16: openai/clip-vit-base-patch16 as safetensors, or OpenAI's ViT-B-16.pt; the ViT-B/32 will do, too.
A folder of one's own instead of ROOT has images/, labels/ (ADE20K's files, where 0 is "other") and names.txt
(`vlseg/labels/ade20k_150.txt`).

An update sees 12 images, at rates of 0.00025 (encoder) and 0.0025 (decoder), as in the authors' script on six GPUs:
one image in each process, two batches accumulated, and a base rate of 0.004 / 16 * 1. Their batch norms see the six
images of all GPUs at a time: --config.training.accumulation_steps=2 does the same. The paper (Sec. 4.1) says 6 images
in all, one on each of six GPUs: --config.training.batch_size=6.

Hardware: one accelerator with 80 GB. Time: not run.
Expected pixel accuracy and mIoU, multi-scale, published (LSeg paper, Table 6); ours not run. The schedule is that of
the authors' script (240 epochs), which keeps the three best checkpoints by pixel accuracy on the validation images, and
the last. Which of them was scored is not said; the checkpoint that they published is of epoch 200. To keep the best
here: --config.validation.source=ade20k:ROOT --config.validation.epochs=1 --config.validation.metric=aAcc.

    vit_b32    82.46  46.28
    rn50x16    82.78  47.25

clip_vit_b16 starts from CLIP's image tower. The paper (footnote 2) says that such a model was worse than one that
starts from the ViT, and neither which tower it was nor a score; the authors' code does not have it.

Evaluate with: python -m lseg_jax.evaluate --checkpoint=runs/lseg_ade20k/model --data=ade20k:ROOT --multi_scale

The authors' own checkpoint (demo_e200.ckpt) was trained with the words of their label file: score it with
--labels=ade20k_150_lseg.
"""

import ml_collections

from vlseg.settings import check_argument

CLIP_B16 = {"kind": "clip", "width": 768, "heads": 12, "layers": 12, "grid": 14, "reassembled": (96, 192, 384, 768)}
MODELS = {
    "vit_b32": {},
    "rn50x16": {"text": {"width": 768, "heads": 12, "features": 768}},
    "clip_vit_b16": {"image": CLIP_B16},
}
"""Encoders, where they differ from the default."""


def get_config(model: str = "vit_b32") -> ml_collections.ConfigDict:
    """The official settings with ADE20K's way of counting.

    `model` is the text encoder, "vit_b32" or "rn50x16", or "clip_vit_b16" for CLIP's image tower.

    Raises:
        ConfigError: another model.
    """
    check_argument("configs/lseg_ade20k.py", model, MODELS)
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.model = MODELS[model]
    for section in ("data", "evaluation", "validation"):
        config[section] = {"folder": {"ignore_zero": True}}
    return config
