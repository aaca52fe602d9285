"""Adapts the OFA of `configs/clothing_pretrain.py` to 59 words; `:supervised` trains it on photographs instead.

python -m ifseg_jax.train --config=configs/ifseg_clothing.py --workdir=runs/ifseg_clothing
python -m ifseg_jax.train --config=configs/ifseg_clothing.py:supervised --config.data.source=clothing:ROOT:train

Hardware: two CPU cores, some minutes. Expected: what docs/ifseg_photographs.md says, measured by `python -m
benchmarks.ifseg_clothing`.
"""

import ml_collections

from vlseg.settings import check_argument


def get_config(mode: str = "image_free") -> ml_collections.ConfigDict:
    """Settings of the table; `mode` is "image_free" or "supervised".

    Raises:
        ConfigError: another mode.
    """
    check_argument("configs/ifseg_clothing.py", mode, ("image_free", "supervised"))
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.checkpoint = "runs/clothing_pretrain/model"
    config.mode = mode
    config.categories = "clothing_59"
    config.adaptation = {"steps": 150, "batch_size": 8, "learning_rate": 1e-3}
    if mode == "image_free":
        config.adaptation.artificial_image_type = "rand_k-1-17"
    config.checkpoint_every = 50
    return config
