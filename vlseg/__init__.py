"""Shared library code: data, layers, training, evaluation, files."""

from vlseg import starting

starting.watch()
