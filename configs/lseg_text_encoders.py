"""LSeg with four text encoders of CLIP (Table 5): ViT-B/32 on ADE20K.

python -m lseg_jax.train --config=configs/lseg_text_encoders.py:rn50x16 --workdir=runs/rn50x16 \
    --config.data.source=ade20k:ROOT --config.evaluation.source=ade20k:ROOT --config.pretrained.text=CLIP_RN50X16 \
    --config.pretrained.image=VIT_B32_384

Instead of rn50x16 also vit_b32, vit_b16 and rn50x4, with that encoder's file as CLIP_RN50X16: OpenAI's .pt, or for the
first two Hugging Face's safetensors; the file decides which encoder it is. VIT_B32_384: timm's vit_base_patch32_384, or
the original .npz. ROOT holds ADEChallengeData2016 as it is unpacked.

Images in an update (12, or the paper's 6) and rates are those of configs/lseg_ade20k.py.

Hardware: one accelerator with 40 GB. Time: not run.
Expected pixel accuracy and mIoU, published (LSeg paper); ours not run. The paper says neither the schedule nor which
checkpoint was scored; the schedule here is that of configs/lseg_ade20k.py:

    vit_b32    79.70  37.83
    vit_b16    79.77  38.69
    rn50x4     79.85  38.93
    rn50x16    80.26  40.36

Evaluate with: python -m lseg_jax.evaluate --checkpoint=runs/rn50x16/model --data=ade20k:ROOT --multi_scale
"""

import ml_collections

from vlseg.settings import check_argument

VIT_B32 = {"patch": 32, "width": 768, "heads": 12, "layers": 12, "grid": 12, "reassembled": (96, 192, 384, 768)}
RN50X4, RN50X16 = ({"width": width, "heads": width // 64, "features": width} for width in (640, 768))
TEXTS = {"vit_b32": {}, "vit_b16": {}, "rn50x4": RN50X4, "rn50x16": RN50X16}


def get_config(text: str = "vit_b32") -> ml_collections.ConfigDict:
    """The settings for ADE20K with the smaller image encoder; `text` is the text encoder.

    Raises:
        ConfigError: another text encoder than the four.
    """
    check_argument("configs/lseg_text_encoders.py", text, TEXTS)
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.model = {"text": TEXTS[text], "image": VIT_B32}
    for section in ("data", "evaluation", "validation"):
        config[section] = {"folder": {"ignore_zero": True}}
    return config
