"""Checkpoints on disk: renaming rules, model directories, downloads, PyTorch archives."""
