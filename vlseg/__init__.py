"""What both systems need and neither owns: data, layers, training, evaluation, files."""

from vlseg import starting

starting.watch()
