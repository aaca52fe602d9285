"""Pre-training of the bundled tiny model: `python -m ifseg_jax.pretrain`."""
