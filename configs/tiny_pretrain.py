"""Pre-trains the bundled OFA of 1.7 M parameters in the tiny world.

python -m ifseg_jax.pretrain --config=configs/tiny_pretrain.py --workdir=runs/tiny_pretrain

Hardware: two CPU cores. Time: 0.6 s a step, 75 minutes. Expected: accuracy 0.91 in the last lines of the log (measured,
ifseg_jax/tiny/pretrain.log).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The settings of the weights in ifseg_jax/tiny."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.image_size = 64
    config.batch_size = 32
    config.steps = 7000
    config.schedule_steps = 8000  # the cosine ends here; the last eighth of it is left out
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
    config.inference = {"short_side": 64, "long_side": 256, "knn_k": 3, "knn_iterations": 1}
    config.adaptation = {"steps": 400, "batch_size": 16, "learning_rate": 3e-4, "artificial_image_type": "rand_k-1-9"}
    return config
