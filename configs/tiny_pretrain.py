"""Pre-trains the bundled OFA of 1.7 M parameters in the tiny world.

python -m ifseg_jax.pretrain --config=configs/tiny_pretrain.py --workdir=runs/tiny_pretrain
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The settings of the weights in ifseg_jax/tiny."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.image_size = 64
    config.batch_size = 32
    config.steps = 8000
    config.schedule_steps = 8000  # where the cosine ends
    config.warmup_steps = 300
    config.learning_rate = 1e-3
    config.b2 = 0.98
    config.weight_decay = 0.05
    config.log_every = 100
    config.checkpoint_every = 500
    config.model = {
        "width": 128,
        "ffn_width": 512,
        "heads": 4,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "resnet_stages": (1, 3),
        "resnet_width": 16,
        "image_grid": 8,
        "segmentation_grid": 8,
        "image_bucket": 16,
        "token_bucket": 32,
        "max_positions": 64,
        "dropout": 0.0,
        "drop_path": 0.0,
        "remat": "elementwise",
        "query_blocks": 1,
    }
    config.inference = {"short_side": 64, "long_side": 256, "knn_k": 3, "knn_iterations": 2}
    config.adaptation = {"steps": 200, "batch_size": 16, "learning_rate": 3e-4, "max_side": 8}
    return config
