"""Image backbones of OFA: a ResNet, as the official models have, or an EfficientNet-Lite for small models on CPUs."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax.config import OFAConfig
from vlseg.checkpoints import efficientnet as weights
from vlseg.checkpoints.rules import flatten
from vlseg.nn import efficientnet
from vlseg.nn.efficientnet import EfficientNet
from vlseg.nn.layers import halve
from vlseg.nn.resize import Size, interpolation_matrix
from vlseg.nn.resnet import ResNet

LEVELS = slice(1, 4)
"""The maps of an EfficientNet-Lite that a token is made of: those at strides 8, 16 and 32."""


class EfficientNetTokens(EfficientNet):
    """An EfficientNet-Lite whose maps at strides 8, 16 and 32 are joined at stride 16.

    A token then knows the texture of its square, the mean of the finer map, and what is around it, the coarser map
    bilinearly resized. Nothing here is trained besides the network itself.
    """

    def __call__(self, x: jax.Array, size: jax.Array | None = None, *, train: bool = False) -> list[jax.Array]:
        """Runs the network and joins its maps.

        Args:
            x: float [B, H, W, 3] in [-1, 1].
            size: int32 [B, 2], valid height and width of each image, multiples of 32, or None when nothing is padded.
            train: as in `EfficientNet`.

        Returns:
            [B, ceil(H / 16), ceil(W / 16), C], the only entry; C is `OFAConfig.feature_width`.
        """
        pixels = (x + 1.0) * 127.5
        normal = (pixels - 255.0 * efficientnet.MEAN[0]) / (255.0 * efficientnet.DEVIATION[0])
        fine, middle, coarse = super().__call__(normal, size, train=train)[LEVELS]
        _, height, width, _ = middle.shape
        tokens: list[Size] = [height, width] if size is None else [size[:, 0] // 16, size[:, 1] // 16]
        rows, columns = (
            interpolation_matrix((each + 1) // 2, each, coarse.shape[axis], middle.shape[axis])
            .reshape(-1, middle.shape[axis], coarse.shape[axis])
            .astype(coarse.dtype)
            for axis, each in enumerate(tokens, start=1)
        )
        batch = (len(coarse),)
        around = jnp.einsum("bqa,bawc->bqwc", jnp.broadcast_to(rows, batch + rows.shape[1:]), coarse)
        around = jnp.einsum("bqa,bhac->bhqc", jnp.broadcast_to(columns, batch + columns.shape[1:]), around)
        return [jnp.concatenate([_halved(fine, height, width), middle, around], axis=-1)]


def _halved(x: jax.Array, height: int, width: int) -> jax.Array:
    """Means of squares of 2 x 2 cells, [B, h, w, C] -> [B, height, width, C]; an odd side repeats its last cell."""
    odd = (2 * height - x.shape[1], 2 * width - x.shape[2])
    x = jnp.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    return x.reshape(x.shape[0], height, 2, width, 2, x.shape[-1]).mean(axis=(2, 4))


def _resnet(config: OFAConfig) -> nn.Module:
    return ResNet(config.resnet_stages, config.resnet_width, jnp.dtype(config.dtype))


def _efficientnet(config: OFAConfig) -> nn.Module:
    return EfficientNetTokens(config.efficientnet_variant, jnp.dtype(config.dtype))


MODULES: Mapping[str, Callable[[OFAConfig], nn.Module]] = {"resnet": _resnet, "efficientnet": _efficientnet}
"""By `OFAConfig.backbone`: a module from images [B, H, W, 3] in [-1, 1] and valid sizes to maps, the last of which are
the features of image tokens."""


def grid_size(size: jax.Array | None, config: OFAConfig) -> jax.Array | None:
    """Valid tokens int32 [B, 2] of images with valid pixels `size` int32 [B, 2]: halved once per stride-2 layer."""
    for _ in range(config.stride.bit_length() - 1):
        size = halve(size)
    return size


def read_image_encoder(source: str, config: OFAConfig) -> dict[str, np.ndarray]:
    """Variables of a model's EfficientNet-Lite from published weights: float32, by the model's names, flat.

    Args:
        source: a name such as "efficientnet_lite0", a file or a folder, see `vlseg.checkpoints.efficientnet.read`.
        config: of the model, with backbone="efficientnet".

    Raises:
        CheckpointError, DownloadError: as in `vlseg.checkpoints.efficientnet.read`.
    """
    return flatten(weights.read(source, config.efficientnet_variant, "encoder/efficientnet"))
