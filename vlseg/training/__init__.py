"""Training: optimizers, programs, loop, checkpoints and what is told of a run."""
