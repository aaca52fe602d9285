"""What the IFSeg configurations share: the official settings for OFA-Base. Not an experiment of its own."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Official image-free settings (alinlab/ifseg) without categories."""
    config = ml_collections.ConfigDict()
    config.checkpoint = "ofa_base"
    config.tokenizer = ""  # directory with the official utils/BPE files, or Hugging Face tokenizer files of OFA
    config.mode = "image_free"
    config.categories = ""
    config.model = ml_collections.ConfigDict({"dtype": "float32", "remat": "elementwise"})
    config.adaptation = ml_collections.ConfigDict(
        {
            "steps": 2000,
            "batch_size": 16,
            "learning_rate": 5e-5,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "max_side": 32,
            "seed": 0,
        }
    )
    config.data = ml_collections.ConfigDict({"source": "", "options": {}})
    config.evaluation = ml_collections.ConfigDict({"data": "", "options": {}})
    config.log_every = 50
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    return config
