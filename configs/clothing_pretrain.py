"""Pre-trains a small OFA on photographs with words and boxes only, on top of a frozen EfficientNet-Lite0.

python -m ifseg_jax.pretrain --config=configs/clothing_pretrain.py --config.source=clothing:ROOT:train \
    --workdir=runs/clothing_pretrain

source: photographs to train on, with label maps, of which the words in them and boxes around their parts are used,
never a mask; the data set by name, or a folder. encoder: weights by name (found installed, else fetched), or a file.

Hardware: two CPU cores. Time: 3 minutes for the features of 718 photographs, then 0.2 s of a core an update
with grids of 12 x 12 (measured), about twice that with these. Expected: accuracy 0.80 and token_accuracy 0.76 in the
last line of the log (measured with grids of 12 x 12); what comes of it is in docs/ifseg_photographs.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The settings of docs/ifseg_photographs.md."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.source = ""
    config.encoder = "efficientnet_lite0"
    config.short_side = 256
    config.batch_size = 16
    config.steps = 400
    config.warmup_steps = 40
    config.learning_rate = 3e-3
    config.b2 = 0.98
    config.weight_decay = 0.05
    config.shares = {
        "collage": 0.55,
        "window": 0.25,
        "caption": 0.05,
        "yes_no": 0.05,
        "where": 0.05,
        "infill": 0.05,
    }
    config.word_share = 0.3
    config.candidates = 22
    config.alignment = 1.0
    config.log_every = 50
    config.checkpoint_every = 200
    config.model = {
        "width": 96,
        "ffn_width": 192,
        "heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "backbone": "efficientnet",
        "image_grid": 16,
        "segmentation_grid": 16,
        "image_bucket": 16,
        "token_bucket": 32,
        "max_positions": 128,
        "dropout": 0.0,
        "drop_path": 0.0,
        "prompt_prefix": "what are the objects in the image? object:",
        "remat": "none",
        "query_blocks": 1,
    }
    config.inference = {"short_side": 256, "long_side": 768, "knn_k": 3, "knn_iterations": 1}
    config.adaptation = {"steps": 150, "batch_size": 8, "learning_rate": 1e-3, "artificial_image_type": "rand_k-1-17"}
    return config
