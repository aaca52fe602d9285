"""Inference as jitted pure functions, in a few static shapes whatever the images and however many the labels.

An image is seen through square windows (`vlseg.evaluation.sliding_window`), whose scores are put together at its own
size. Scores of many labels never exist at once: labels come in chunks, and only the best few of each pixel are kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax.config import LSegConfig
from lseg_jax.lseg import LOGIT_SCALE, LSegNet
from vlseg.errors import VocabularyError
from vlseg.evaluation import sliding_window
from vlseg.evaluation.sliding_window import Scheme
from vlseg.segmenter import Scores

State = TypeVar("State")

SCORES = 2**26
"""Scores, pixels times labels, that are held at a time."""

LABEL_STEP = 32
"""Chunks of labels are multiples of this."""

MIXED_LABELS = 2048
"""Labels that a block which mixes them can take: it needs all of them at once."""


class Ranking(NamedTuple):
    """The best k labels of every pixel, best first.

    similarities: float32 [H, W, k], mean logit over the windows, divided by the logit scale: the cosine of pixel and
        label, for a model without a block.
    labels: int32 [H, W, k], indices of labels. Of equal labels the first comes first.
    """

    similarities: jax.Array
    labels: jax.Array


def normalize(config: LSegConfig, images: jax.Array) -> jax.Array:
    """Pixels as the image encoder takes them, float32: uint8 is normalised, floats are taken as they are."""
    if images.dtype != jnp.uint8:
        return images.astype(jnp.float32)
    return (images.astype(jnp.float32) / 255.0 - jnp.asarray(config.mean)) / jnp.asarray(config.deviation)


@functools.partial(jax.jit, static_argnames="config")
def encode_pixels(config: LSegConfig, variables: Any, images: jax.Array) -> jax.Array:
    """Pixel embeddings float32 [B, H / 2, W / 2, C] of images [B, H, W, 3], uint8 or normalised."""
    model: Any = LSegNet(config)
    return model.apply(variables, normalize(config, images), method=LSegNet.encode_pixels)


@functools.partial(jax.jit, static_argnames="config")
def logits(config: LSegConfig, variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Logits float32 [B, H, W, N] of images as for `encode_pixels` and label embeddings [N, C]."""
    model: Any = LSegNet(config)
    return model.apply(variables, normalize(config, images), labels, method=LSegNet.segment)


@functools.partial(jax.jit, static_argnames=("config", "scheme"))
def encode_windows(
    config: LSegConfig, scheme: Scheme, variables: Any, image: jax.Array, size: jax.Array, batch: jax.Array
) -> jax.Array:
    """Pixel embeddings of some windows of an image.

    Args:
        image: uint8 [H, W, 3], the image in the top left corner. size: int32 [2], its height and width.
        batch: int32 [K, 4], see `sliding_window.batches`.

    Returns:
        float32 [R, K, g, g, C]: R is 1, or 2 with those of the mirrored windows.
    """
    black = -jnp.asarray(config.mean) / jnp.asarray(config.deviation)
    views = sliding_window.cut(normalize(config, image), (size[0], size[1]), batch, scheme, black)
    model: Any = LSegNet(config)

    def encode(views: jax.Array) -> jax.Array:
        return model.apply(variables, views, method=LSegNet.encode_pixels)

    if not scheme.flip:
        return encode(views)[None]
    return jnp.stack([encode(views), encode(sliding_window.mirror(views))])


def _summed(grids: Sequence[jax.Array]) -> jax.Array:
    """Grids [K, g, g, N] of windows, and of mirrored windows if there are any, as one."""
    return grids[0] if len(grids) == 1 else grids[0] + sliding_window.mirror(grids[1])


def _placed(scheme: Scheme, total: jax.Array, grids: jax.Array, size: jax.Array, batch: jax.Array) -> jax.Array:
    """The sum [H, W, N] with the grids [K, g, g, N] of some windows added."""
    padded = total.shape[0], total.shape[1]
    placed = sliding_window.placements((size[0], size[1]), batch, scheme, grids.shape[1], padded)
    return sliding_window.merge(total, grids, placed)


@functools.partial(jax.jit, static_argnames="scheme", donate_argnames="total")
def _add_embeddings(
    scheme: Scheme, total: jax.Array, pixels: jax.Array, size: jax.Array, batch: jax.Array
) -> jax.Array:
    """The sum of embeddings [H, W, C] with those of some windows added."""
    return _placed(scheme, total, _summed(list(pixels)), size, batch)


@functools.partial(jax.jit, static_argnames=("config", "scheme"), donate_argnames="total")
def _add_scores(
    config: LSegConfig,
    scheme: Scheme,
    variables: Any,
    total: jax.Array,
    pixels: jax.Array,
    labels: jax.Array,
    start: jax.Array,
    size: jax.Array,
    batch: jax.Array,
) -> jax.Array:
    """The sum of scores [H, W, n] of the n labels from `start` with those of some windows added."""
    model: Any = LSegNet(config)
    params = {"params": {name: value for name, value in variables["params"].items() if name == "block"}}

    def score(pixels: jax.Array) -> jax.Array:
        cells = model.apply(params, pixels, labels, method=LSegNet.cell_logits)
        return jax.lax.dynamic_slice_in_dim(cells, start, total.shape[-1], axis=-1)

    return _placed(scheme, total, _summed([score(view) for view in pixels]), size, batch)


@jax.jit
def _compare(total: jax.Array, labels: jax.Array) -> jax.Array:
    """Scores [H, W, n] of summed embeddings [H, W, C] for n labels."""
    return LOGIT_SCALE * jnp.einsum("hwc,nc->hwn", total, labels)


@functools.partial(jax.jit, donate_argnames="ranking")
def _rank(ranking: Ranking, scores: jax.Array, start: jax.Array, labels: jax.Array, views: jax.Array) -> Ranking:
    """The ranking with the chunk of labels from `start` taken into account; those from `labels` on are filling."""
    ids = start + jnp.arange(scores.shape[-1], dtype=jnp.int32)
    fresh = jnp.where(ids < labels, scores / (views * LOGIT_SCALE), -jnp.inf)
    found = []
    for _ in range(ranking.labels.shape[-1]):
        place = jnp.argmax(fresh, axis=-1)
        found.append((jnp.max(fresh, axis=-1), start + place.astype(jnp.int32)))
        fresh = jnp.where(jnp.arange(scores.shape[-1]) == place[..., None], -jnp.inf, fresh)
    values = jnp.concatenate([ranking.similarities, jnp.stack([value for value, _ in found], axis=-1)], axis=-1)
    places = jnp.concatenate([ranking.labels, jnp.stack([place for _, place in found], axis=-1)], axis=-1)
    # Stable, so of equal labels the first stays first whatever the chunks.
    order = jnp.argsort(-values, axis=-1, stable=True)[..., : ranking.labels.shape[-1]]
    return Ranking(*(jnp.take_along_axis(array, order, axis=-1) for array in (values, places)))


def chunk_size(pixels: int, labels: int) -> int:
    """Labels to score at a time for an image of so many pixels."""
    room = max(SCORES // pixels // LABEL_STEP, 1) * LABEL_STEP
    return min(labels, room)


def _filled(labels: jax.Array, multiple: int) -> jax.Array:
    """Label embeddings, the last repeated until their number is a multiple; that changes no maximum over labels."""
    return jnp.pad(labels, ((0, -len(labels) % multiple), (0, 0)), mode="edge")


def cells(scheme: Scheme, batches: np.ndarray) -> int:
    """Pixel embeddings of all windows int32 [M, K, 4], those of mirrored windows included."""
    grid = scheme.crop_size // 2
    return batches.shape[0] * batches.shape[1] * grid**2 * (2 if scheme.flip else 1)


def views(scheme: Scheme) -> int:
    """How many scores are summed for each pixel."""
    return len(scheme.scales) * (2 if scheme.flip else 1)


class Best(NamedTuple):
    """The best label of every pixel.

    labels: int32 [H, W]. logits: float32 [H, W], its mean logit over the windows. total: float32 [H, W], the logarithm
        of the sum of all labels' exponentials.
    """

    labels: jax.Array
    logits: jax.Array
    total: jax.Array


@functools.partial(jax.jit, donate_argnames="best")
def _improve(best: Best, scores: jax.Array, start: jax.Array, labels: jax.Array, views: jax.Array) -> Best:
    """The best labels with a chunk taken into account; arguments as for `_rank`."""
    ids = start + jnp.arange(scores.shape[-1], dtype=jnp.int32)
    fresh = jnp.where(ids < labels, scores / views, -jnp.inf)
    highest = jnp.max(fresh, axis=-1)
    better = highest > best.logits  # of equal labels the first stays
    return Best(
        jnp.where(better, start + jnp.argmax(fresh, axis=-1).astype(jnp.int32), best.labels),
        jnp.maximum(highest, best.logits),
        jnp.logaddexp(best.total, jax.nn.logsumexp(fresh, axis=-1)),
    )


@dataclasses.dataclass(frozen=True)
class WindowScores(Scores):
    """The scores of one image seen through windows, computed anew by each of the methods.

    Attributes:
        image: uint8 [H, W, 3].
        labels: float32 [N, C].
        batch_size: windows of a forward pass.
    """

    kind = "similarities"

    config: LSegConfig
    scheme: Scheme
    variables: Any
    image: np.ndarray
    labels: jax.Array
    batch_size: int = 1

    def chunks(self) -> Iterator[tuple[int, jax.Array]]:
        """Summed scores for all labels, chunk by chunk.

        Yields:
            (index of the chunk's first label, float32 [H', W', n]); H' and W' are the image's sides rounded up. Beyond
            the last label scores are without meaning.

        Raises:
            VocabularyError: more labels than a block that mixes them can take.
        """
        config, scheme, labels = self.config, self.scheme, self.labels
        height, width = self.image.shape[:2]
        padded = self._padded()
        canvas = np.zeros((*padded, 3), np.uint8)
        canvas[:height, :width] = self.image
        count, features = labels.shape
        chunk = chunk_size(padded[0] * padded[1], count)
        mixed = config.block == "bottleneck"
        if mixed and count > MIXED_LABELS:
            raise VocabularyError(
                f"{count} labels are too many for a bottleneck block, which compares every label with all others: it "
                f"takes at most {MIXED_LABELS}; give fewer, or use a model without a block"
            )
        size = jnp.asarray([height, width], jnp.int32)
        batches = sliding_window.batches(sliding_window.windows(height, width, scheme), self.batch_size)
        encoded = ((encode_windows(config, scheme, self.variables, canvas, size, batch), batch) for batch in batches)
        starts = range(0, count, chunk)
        if len(starts) > 1 and config.block == "none" and cells(scheme, batches) > padded[0] * padded[1]:
            # Scores are linear in the embeddings, so these can be put together first, once for all labels, if that
            # leaves fewer of them to be kept and compared.
            total = jnp.zeros((*padded, features))
            for pixels, batch in encoded:
                total = _add_embeddings(scheme, total, pixels, size, batch)
            for start in starts:
                yield start, _compare(total, _filled(labels[start : start + chunk], chunk))
            return
        kept = list(encoded) if len(starts) > 1 else encoded
        for start in starts:
            scores = jnp.zeros((*padded, chunk))
            part = _filled(labels, chunk) if mixed else _filled(labels[start : start + chunk], chunk)
            first = jnp.asarray(start if mixed else 0)
            for pixels, batch in kept:
                scores = _add_scores(config, scheme, self.variables, scores, pixels, part, first, size, batch)
            yield start, scores

    def top(self, count: int) -> tuple[jax.Array, jax.Array]:
        """See `Scores.top`; scores are `Ranking.similarities`."""
        shape = (*self._padded(), count)
        ranking = self._folded(_rank, Ranking(jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32)))
        return self._cropped(ranking.labels), self._cropped(ranking.similarities)

    def label_map(self) -> jax.Array:
        return self.top(1)[0][..., 0]

    def most_probable(self) -> tuple[jax.Array, jax.Array]:
        lowest = jnp.full(self._padded(), -jnp.inf)
        best = self._folded(_improve, Best(jnp.full(lowest.shape, -1, jnp.int32), lowest, jnp.copy(lowest)))
        return self._cropped(best.labels), self._cropped(jnp.exp(best.logits - best.total))

    def probabilities(self) -> np.ndarray:
        """The softmax over labels of the mean logits: float32 [H, W, N]."""
        parts = [self._cropped(np.asarray(scores)) for _, scores in self.chunks()]
        mean = np.concatenate(parts, axis=-1)[..., : len(self.labels)] / views(self.scheme)
        return np.asarray(jax.nn.softmax(mean, axis=-1))

    def _padded(self) -> tuple[int, int]:
        """The image's sides rounded up."""
        height, width = self.image.shape[:2]
        return sliding_window.bucket(height), sliding_window.bucket(width)

    def _cropped(self, array: Any) -> Any:
        """[H', W', ...] -> [H, W, ...]."""
        height, width = self.image.shape[:2]
        return array[:height, :width]

    def _folded(self, add: Callable[..., State], state: State) -> State:
        """A state, `_rank`'s or `_improve`'s, with all chunks taken into account."""
        count, seen = jnp.asarray(len(self.labels)), jnp.asarray(views(self.scheme), jnp.float32)
        for start, scores in self.chunks():
            state = add(state, scores, jnp.asarray(start, jnp.int32), count, seen)
        return state
