"""CLIP's text encoder (Radford et al. 2021; openai/CLIP)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lseg_jax import transformer
from lseg_jax.config import TextConfig
from vlseg.nn.layer_norm import LayerNorm

NORM_EPSILON = 1e-5


class CLIPText(nn.Module):
    """Causal transformer over tokens, read out where the text ends."""

    config: TextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeddings of texts, not normalised.

        Args:
            tokens: int [N, context]; the end-of-text token has the highest id, as in CLIP's vocabulary.

        Returns:
            float32 [N, features].
        """
        config = self.config
        normal = nn.initializers.normal
        table = self.param("token_embedding", normal(0.02), (config.vocabulary, config.width))
        position = self.param("positions", normal(0.01), (config.context, config.width))
        projection = self.param("projection", normal(config.width**-0.5), (config.width, config.features))
        x = table[tokens] + position[: tokens.shape[1]]
        stack = transformer.layers(
            config.layers, config.heads, transformer.quick_gelu, NORM_EPSILON, "float32", "layers", causal=True
        )
        x, _ = stack(x, None)
        x = LayerNorm(NORM_EPSILON, name="norm")(x)
        ends = jnp.argmax(tokens, axis=-1)
        return x[jnp.arange(tokens.shape[0]), ends] @ projection
