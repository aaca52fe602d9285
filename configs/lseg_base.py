"""What the LSeg configurations share: the official settings for ADE20K. Not an experiment of its own."""

import ml_collections

from configs.ifseg_base import add_run_settings, data_section
from lseg_jax.config import LSegConfig


def get_config() -> ml_collections.ConfigDict:
    """Official settings (isl-org/lang-seg) without a data set."""
    config = ml_collections.ConfigDict()
    config.checkpoint = ""  # an LSeg model to go on from; without one, a fresh `model` with `pretrained` encoders
    config.tokenizer = ""  # directory with Hugging Face tokenizer files of CLIP; by default the installed one
    config.model = ml_collections.ConfigDict(LSegConfig().to_dict())
    config.pretrained = ml_collections.ConfigDict({"text": "", "image": ""})
    config.label_sets = "names"  # or "others": each image against "others" and one of its classes
    config.training = ml_collections.ConfigDict(
        {
            "epochs": 240,
            "steps": ml_collections.config_dict.placeholder(int),  # instead of epochs
            "stop_after": ml_collections.config_dict.placeholder(int),  # epochs; the schedule is that of all of them
            "batch_size": 16,
            "accumulation_steps": 1,  # parts of a batch, computed one after another
            "learning_rate": 0.004,
            "decoder_factor": 10.0,
            "optimizer": "sgd",
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "power": 0.9,
            "warmup_steps": 0,
            "clip_norm": 0.0,
            "base_size": 520,
            "crop_size": 480,
            "scale_range": (0.5, 2.0),
            "margin": 0.0,
            "row_block": 16,
            "seed": 0,
        }
    )
    config.benchmark = ml_collections.ConfigDict({"name": "", "root": "", "fold": 0})  # few-shot, instead of `data`
    config.data = data_section(split="train", count=20000)
    config.data.weights = ""  # how often each of several sources comes, such as "2,1"; default: by their sizes
    config.evaluation = data_section(split="test", count=500)  # at the end of a run; none if there is no source
    add_run_settings(config)
    return config
