"""What both systems need and neither owns: data, layers, training, evaluation, files."""
