"""Vision transformer read out at four depths (Dosovitskiy et al. 2021; timm's `vit_*_384`, as in isl-org/lang-seg)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax import transformer
from lseg_jax.config import ViTConfig
from vlseg.nn.resize import resize_bilinear

NORM_EPSILON = 1e-6
DEPTHS = 4


class ViT(nn.Module):
    """Patches and a class token through a transformer."""

    config: ViTConfig
    dtype: str = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Tokens after a quarter, a half, three quarters and all of the layers, before any final norm.

        Args:
            images: float [B, H, W, 3]; sides are multiples of the patch.

        Returns:
            Four arrays [B, 1 + h * w, D], class token first; h = H / patch, w = W / patch.
        """
        config = self.config
        patch, width = config.patch, config.width
        dtype = jnp.dtype(self.dtype)
        normal = nn.initializers.normal(0.02)
        batch, rows, columns = images.shape[0], images.shape[1] // patch, images.shape[2] // patch
        kernel = self.param("patch_kernel", normal, (patch, patch, 3, width)).astype(dtype)
        bias = self.param("patch_bias", nn.initializers.zeros, (width,)).astype(dtype)
        class_token = self.param("class_token", normal, (width,))
        positions = self.param("positions", normal, (1 + config.grid**2, width))
        patches = images.astype(dtype).reshape(batch, rows, patch, columns, patch, 3)
        x = jnp.einsum("brycxp,yxpd->brcd", patches, kernel).reshape(batch, rows * columns, width) + bias
        square = positions[1:].reshape(1, config.grid, config.grid, width)
        resized = resize_bilinear(square, rows, columns).reshape(1, rows * columns, width)
        x = x + resized.astype(dtype)
        first = jnp.broadcast_to((class_token + positions[0]).astype(dtype), (batch, 1, width))
        x = jnp.concatenate([first, x], axis=1)
        depths = []
        for depth in range(DEPTHS):
            stack = transformer.layers(
                config.layers // DEPTHS,
                config.heads,
                transformer.exact_gelu,
                NORM_EPSILON,
                self.dtype,
                f"layers_{depth}",
                remat=self.remat == "layer",
            )
            x, _ = stack(x, None)
            depths.append(x)
        return depths
