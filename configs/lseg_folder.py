"""Trains LSeg on a folder of labelled photographs: the bundled small model, on a laptop or one accelerator.

python -m lseg_jax.train --config=configs/lseg_folder.py --config.data.source=FOLDER --config.evaluation.source=FOLDER \
    --workdir=runs/mine

The label map's names are the folder's own; any words may be asked for afterwards. With an official checkpoint instead
(--config.checkpoint=demo_e200.ckpt --config.training.base_size=520 --config.training.crop_size=480) this fine-tunes the
authors' model.

Hardware: two CPU cores. Time: a second a step. Expected: far above always guessing the most frequent class; a model of
five million parameters that has never seen a photograph is no match for the official ones.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Settings for small data sets and a small model."""
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.model = {"text": {"kind": "minilm"}, "image": {"kind": "efficientnet"}, "features": 128}
    config.pretrained = {"image": "efficientnet_lite0"}
    config.training = {
        "steps": 1000,
        "batch_size": 8,
        "learning_rate": 5e-4,
        "decay": "step",
        "loss_mean": "pixels",
        "decoder_factor": 1.0,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "warmup_steps": 50,
        "clip_norm": 1.0,
        "base_size": 192,
        "crop_size": 128,
        "scale_range": (0.75, 1.5),
        "row_block": 64,
    }
    config.checkpoint_every = 250
    return config
