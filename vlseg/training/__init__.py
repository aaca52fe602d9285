"""Training: optimizers, state, loop, checkpoints and metric writers."""
