"""Averaging of probabilities over nearest neighbours in feature space (IFSeg, Eq. 18)."""

import functools

import jax
import jax.numpy as jnp

from vlseg.errors import ConfigError

MASKED_SIMILARITY = -2.0
"""Below every cosine."""


@functools.partial(jax.jit, static_argnames=("k", "iterations"))
def knn_average(
    probabilities: jax.Array, features: jax.Array, k: int = 3, iterations: int = 25, mask: jax.Array | None = None
) -> jax.Array:
    """Replaces each cell's probabilities by the mean over its nearest neighbours, again and again.

    Neighbours are the `k` cells of highest cosine similarity in the image trunk's features, the cell itself among
    them; similarities are computed at full float32 precision on every backend, because neighbours are a discrete
    choice. Equal similarities go to the cell that comes first.

    Args:
        probabilities: float [B, N, M].
        features: float [B, N, C].
        k: neighbours per cell; more than there are cells means all of them.
        iterations: rounds of averaging.
        mask: bool [B, N], False at padding, or None. Padding is nobody's neighbour and its own output is 0.

    Returns:
        float32 [B, N, M]; rows keep summing to what they summed to.

    Raises:
        ConfigError: `k` is below 1, or `iterations` below 0.
    """
    if k < 1 or iterations < 0:
        raise ConfigError(f"kNN averaging needs k >= 1 and iterations >= 0, not {k} and {iterations}")
    features = features.astype(jnp.float32)
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    features = features / jnp.maximum(norm, 1e-12)
    similarity = jnp.einsum("bnc,bmc->bnm", features, features, precision="highest")
    if mask is not None:
        similarity = jnp.where(mask[:, None, :], similarity, MASKED_SIMILARITY)
    k = min(k, features.shape[1])
    weights, neighbours = jax.lax.top_k(similarity, k)
    valid = (weights > MASKED_SIMILARITY).astype(jnp.float32)[..., None]
    count = jnp.maximum(valid.sum(axis=2), 1.0)

    def average(_: int, current: jax.Array) -> jax.Array:
        gathered = jax.vmap(lambda values, index: values[index])(current, neighbours)
        return (gathered * valid).sum(axis=2) / count

    averaged = jax.lax.fori_loop(0, iterations, average, probabilities.astype(jnp.float32))
    return averaged if mask is None else jnp.where(mask[..., None], averaged, 0.0)
