"""Layers and array functions shared by both models."""

from vlseg.nn.drop_path import DropPath
from vlseg.nn.resize import interpolation_matrix, resize_bilinear, resize_nearest_indices
from vlseg.nn.resnet import ResNet

__all__ = ["DropPath", "ResNet", "interpolation_matrix", "resize_bilinear", "resize_nearest_indices"]
