"""The authors' LSeg (isl-org/lang-seg) at sizes that their code does not offer, for the recording scripts beside it.

The scripts were run with torch 1.9.1, torchvision 0.10.1, timm 0.4.12 and clip-anytorch 2.6.0; they need nothing of
ours.
"""

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any
from unittest import mock

import clip
import clip.model
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.resnet import Bottleneck, ResNet

BLOCKS = {"none": 0, "bottleneck": 1, "depthwise": 2}


def import_authors(clone: str) -> None:
    """Makes the modules of a checkout importable, without what they import and do not use."""
    sys.path.insert(0, clone)
    for name in ("pandas", "cv2", "matplotlib", "matplotlib.pyplot"):
        sys.modules.setdefault(name, types.ModuleType(name))


def vit(
    text: clip.model.CLIP,
    *,
    width: int,
    heads: int,
    layers: int,
    grid: int,
    reassembled: Sequence[int],
    features: int,
    block: str = "none",
    depth: int = 0,
    activation: str = "lrelu",
) -> torch.nn.Module:
    """LSegNet with a ViT of patch 32 (`clip_vitb32_384`); the arguments are those of our configuration.

    Its labels are not tokenised: `text` computes their features whatever it is given.
    """
    net, blocks, encoder = (importlib.import_module(f"modules.models.lseg_{part}") for part in ("net", "blocks", "vit"))
    sizes = {"img_size": 32 * grid, "patch_size": 32, "embed_dim": width, "depth": layers, "num_heads": heads}
    hooks = [layers * quarter // 4 - 1 for quarter in range(1, 5)]
    backbone, scratch = encoder._make_vit_b32_backbone, blocks._make_scratch

    def make_backbone(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
        return backbone(model, **options | {"features": list(reassembled), "vit_features": width, "hooks": hooks})

    with (
        mock.patch.object(clip, "load", return_value=(text, None)),
        mock.patch.object(clip, "tokenize", return_value=torch.zeros(1, 1)),
        mock.patch.object(timm, "create_model", return_value=VisionTransformer(**sizes)),
        mock.patch.object(encoder, "_make_vit_b32_backbone", make_backbone),
        mock.patch.object(blocks, "_make_scratch", lambda _, out, **rest: scratch(list(reassembled), out, **rest)),
    ):
        options = {"arch_option": BLOCKS[block], "block_depth": depth, "activation": activation}
        return net.LSegNet(["sky"], backbone="clip_vitb32_384", features=features, **options)


def vit_large(text: clip.model.CLIP) -> torch.nn.Module:
    """LSegNet with `clip_vitl16_384`, whose transformer has four layers."""
    net = importlib.import_module("modules.models.lseg_net")
    make = net._make_encoder
    sizes = {"img_size": 384, "patch_size": 16, "embed_dim": 1024, "depth": 4, "num_heads": 16}
    with (
        mock.patch.object(clip, "load", return_value=(text, None)),
        mock.patch.object(timm, "create_model", return_value=VisionTransformer(**sizes)),
        mock.patch.object(net, "_make_encoder", lambda *args, **kept: make(*args, **kept | {"hooks": [0, 1, 2, 3]})),
    ):
        options = {"arch_option": 0, "block_depth": 0, "activation": "lrelu"}
        return net.LSegNet(["sky"], backbone="clip_vitl16_384", features=256, **options)


def resnet(text: clip.model.CLIP) -> torch.nn.Module:
    """LSegRNNetZS, whose ResNet has one block in each stage."""
    net = importlib.import_module("modules.models.lseg_net_zs")
    with (
        mock.patch.object(clip, "load", return_value=(text, None)),
        mock.patch.object(torchvision.models, "resnet101", return_value=ResNet(Bottleneck, [1] * 4)),
    ):
        options = {"arch_option": 0, "use_pretrained": False, "features": 256}
        return net.LSegRNNetZS(["sky"], backbone="clip_resnet101", **options)
