"""The LSeg of `lseg_jax` in PyTorch, to time the two side by side.

Modules have the names of official checkpoints, so that `lseg_jax.official.to_official` gives a state dict for it.
"""

import timm
import torch
from einops.layers.torch import Rearrange
from torch import nn
from torch.nn import functional

from lseg_jax.config import LSegConfig, ResNetConfig, ViTConfig
from lseg_jax.dpt import SCALES
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.encoders.vit import DEPTHS
from lseg_jax.lseg import LOGIT_SCALE


class Readout(nn.Module):
    """The class token joins every other token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, 1 + n, D] -> [B, n, D]."""
        rest = tokens[:, 1:]
        return self.project(torch.cat([rest, tokens[:, :1].expand_as(rest)], dim=-1))


def resample(channels: int, scale: float) -> list[nn.Module]:
    """The layer that brings a level to its resolution, if it needs one."""
    if scale == 1:
        return []
    if scale < 1:
        return [nn.Conv2d(channels, channels, 3, round(1 / scale), 1)]
    return [nn.ConvTranspose2d(channels, channels, round(scale), round(scale))]


class ViTLevels(nn.Module):
    """A vision transformer and the reassembly of four of its layers; the size of the images is fixed."""

    def __init__(self, config: ViTConfig, height: int, width: int) -> None:
        super().__init__()
        self.model = timm.models.VisionTransformer(
            img_size=(height, width),
            patch_size=config.patch,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            num_classes=0,
        )
        self.last = [config.layers // DEPTHS * number - 1 for number in range(1, DEPTHS + 1)]
        for number, (channels, scale) in enumerate(zip(config.reassembled, SCALES[config.patch], strict=True), 1):
            layers = nn.Sequential(
                Readout(config.width),
                Rearrange("b (h w) c -> b c h w", h=height // config.patch),
                nn.Conv2d(config.width, channels, 1),
                *resample(channels, scale),
            )
            setattr(self, f"act_postprocess{number}", layers)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, H, W] -> four maps, finest first."""
        depths = self.model.forward_intermediates(
            images,
            indices=self.last,
            return_prefix_tokens=True,
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [
            getattr(self, f"act_postprocess{number}")(torch.cat([prefix, rest], dim=1))
            for number, (rest, prefix) in enumerate(depths, 1)
        ]


class ResNetLevels(nn.Module):
    """A ResNet whose four stages are the levels."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        trunk = timm.models.ResNet(timm.models.resnet.Bottleneck, config.stages, num_classes=0, stem_width=config.width)
        self.layer1 = nn.Sequential(trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool, trunk.layer1)
        self.layer2, self.layer3, self.layer4 = trunk.layer2, trunk.layer3, trunk.layer4

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, H, W] -> four maps, finest first."""
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            images = layer(images)
            levels.append(images)
        return levels


class EfficientNetLevels(nn.Module):
    """An EfficientNet-Lite whose four maps are the levels; below `model`, parameters have timm's names."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        name = f"tf_efficientnet_{config.variant}"
        self.model = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, H, W] -> four maps, finest first."""
        return self.model(images)


class ResidualUnit(nn.Module):
    """Twice ReLU, 3x3 convolution and batch norm, and the sum with the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same shape."""
        y = self.bn1(self.conv1(torch.relu(x)))
        return self.bn2(self.conv2(torch.relu(y))) + x


def doubled(x: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, C, 2h, 2w], bilinear with aligned corners."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Fusion(nn.Module):
    """Adds a level to the coarser ones, refines, and doubles the resolution."""

    def __init__(self, features: int, *, coarsest: bool) -> None:
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: torch.Tensor, level: torch.Tensor | None) -> torch.Tensor:
        """[B, C, h, w] -> [B, C, 2h, 2w]."""
        if level is not None:
            x = x + self.resConfUnit1(level)
        return self.out_conv(doubled(self.resConfUnit2(x)))


class Decoder(nn.Module):
    """Four levels, finest first, into one map of the common space."""

    def __init__(self, channels: list[int], features: int, width: int) -> None:
        super().__init__()
        for number, count in enumerate(channels, 1):
            setattr(self, f"layer{number}_rn", nn.Conv2d(count, features, 3, padding=1, bias=False))
            setattr(self, f"refinenet{number}", Fusion(features, coarsest=number == len(channels)))
        self.head1 = nn.Conv2d(features, width, 1)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """[B, C1, H / 4, W / 4] ... [B, C4, H / 32, W / 32] -> [B, width, H / 2, W / 2]."""
        x = None
        for number in range(len(levels), 0, -1):
            level = getattr(self, f"layer{number}_rn")(levels[number - 1])
            fusion = getattr(self, f"refinenet{number}")
            x = fusion(level, None) if x is None else fusion(x, level)
        return self.head1(x)


class LSeg(nn.Module):
    """Logits of every pixel for labels whose embeddings are given; a model without block."""

    def __init__(self, config: LSegConfig, height: int, width: int) -> None:
        super().__init__()
        if isinstance(config.image, ViTConfig):
            self.pretrained: nn.Module = ViTLevels(config.image, height, width)
        elif isinstance(config.image, EfficientNetConfig):
            self.pretrained = EfficientNetLevels(config.image)
        else:
            assert isinstance(config.image, ResNetConfig)
            self.pretrained = ResNetLevels(config.image)
        self.scratch = Decoder(list(config.image.channels), config.features, config.text.features)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] and labels [N, C], l2-normalised -> [B, N, H, W]."""
        pixels = self.scratch(self.pretrained(images))
        pixels = pixels / pixels.norm(dim=1, keepdim=True)
        return doubled(torch.einsum("bchw,nc->bnhw", LOGIT_SCALE * pixels, labels))
