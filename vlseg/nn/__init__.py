"""Layers and array functions shared by both models."""

from vlseg.nn.broadcast import broadcast_batch
from vlseg.nn.drop_path import DropPath
from vlseg.nn.layer_norm import LayerNorm
from vlseg.nn.resize import interpolation_matrix, resize_bilinear, resize_nearest_indices
from vlseg.nn.resnet import ResNet

__all__ = [
    "DropPath",
    "LayerNorm",
    "ResNet",
    "broadcast_batch",
    "interpolation_matrix",
    "resize_bilinear",
    "resize_nearest_indices",
]
