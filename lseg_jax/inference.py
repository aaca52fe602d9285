"""Inference as jitted pure functions, in a few static shapes whatever the images and however many the labels.

An image is seen through windows (`vlseg.evaluation.sliding_window`), whose scores are put together at its own
size, tile by tile. Scores of all labels never exist for all pixels: only the best few labels of each are kept, and many
labels come in chunks.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax.config import LSegConfig
from lseg_jax.lseg import LOGIT_SCALE, LSegNet
from vlseg.errors import VocabularyError
from vlseg.evaluation import sliding_window
from vlseg.evaluation.sliding_window import Layout, Scheme, Views
from vlseg.evaluation.tiles import TILE, Canvas, Tile
from vlseg.scores import NO_LABEL, Scores

SCORES = 2**23
"""Scores, pixels of a tile times labels, that are held at a time."""

CELL_SCORES = 2**25
"""Scores of windows before they are enlarged, cells times labels, where labels outnumber an embedding's entries."""

LABEL_STEP = 32
"""Chunks of labels are multiples of this."""

MIXED_LABELS = 2048
"""Labels that a block which mixes them can take: it needs all of them at once."""


class Ranking(NamedTuple):
    """The best k labels of every pixel of a tile or an image, best first.

    labels: int32 [H, W, k], indices of labels. Of equal labels the first comes first.
    similarities: float32 [H, W, k], mean logit over the windows, divided by the logit scale: the cosine of pixel and
        label, for a model without a block.
    """

    labels: Any
    similarities: Any


class Best(NamedTuple):
    """The best label of every pixel of a tile or an image.

    labels: int32 [H, W]. logits: float32 [H, W], its mean logit over the windows. total: float32 [H, W], the logarithm
        of the sum of all labels' exponentials.
    """

    labels: Any
    logits: Any
    total: Any


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


@functools.partial(jax.jit, static_argnames=("config", "flip"))
def encode_windows(config: LSegConfig, flip: bool, variables: Any, views: Views) -> jax.Array:
    """Pixel embeddings of some windows of an image.

    Returns:
        float32 [R, K, h / 2, w / 2, C] of K windows, h x w. R is 1, or 2 with those of the mirrored windows if `flip`;
        for a model without a block, whose scores are linear in the embeddings, it is always 1, with their sum.
    """
    images = _cut(config, views)
    model: Any = LSegNet(config)

    def encode(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, method=LSegNet.encode_pixels)

    if not flip:
        return encode(images)[None]
    grids = jnp.stack([encode(images), encode(sliding_window.mirror(images))])
    return _summed(grids)[None] if config.block == "none" else grids


def _cut(config: LSegConfig, views: Views) -> jax.Array:
    """The normalised pixels of windows, float32 [K, h, w, 3]."""
    return (sliding_window.cut(views) / 255.0 - jnp.asarray(config.mean)) / jnp.asarray(config.deviation)


def _summed(grids: jax.Array) -> jax.Array:
    """Grids [R, K, g, g, N] of windows, and of mirrored windows if R is 2, as one."""
    return grids[0] if len(grids) == 1 else grids[0] + sliding_window.mirror(grids[1])


@functools.partial(jax.jit, static_argnames=("config", "count"))
def score_windows(
    config: LSegConfig, count: int, variables: Any, pixels: jax.Array, labels: jax.Array, start: np.ndarray
) -> jax.Array:
    """Scores float32 [K, h / 2, w / 2, count] of embeddings as `encode_windows` gives them.

    Args:
        labels: [N, C], all that the scores of a label depend on. start: int32, the first of those that are wanted.
    """
    model: Any = LSegNet(config)
    params = {"params": {name: value for name, value in variables["params"].items() if name == "block"}}
    scores = [model.apply(params, view, labels, method=LSegNet.cell_logits) for view in pixels]
    return jax.lax.dynamic_slice_in_dim(_summed(jnp.stack(scores)), start, count, axis=-1)


@functools.partial(jax.jit, static_argnames=("config", "flip"))
def decode_windows(config: LSegConfig, flip: bool, variables: Any, views: Views) -> jax.Array:
    """What few labels are compared with, where there are a quarter of the pixels: see `LSegNet.decoded`.

    Returns:
        [R, K, h / 4, w / 4, F] of K windows, h x w; R is 1, or 2 with the mirrored windows' if `flip`.
    """
    images = _cut(config, views)
    model: Any = LSegNet(config)
    seen = [images, sliding_window.mirror(images)] if flip else [images]
    return jnp.stack([model.apply(variables, view, method=LSegNet.decoded) for view in seen])


@functools.partial(jax.jit, static_argnames="config")
def score_decoded(config: LSegConfig, variables: Any, decoded: jax.Array, labels: jax.Array) -> jax.Array:
    """Scores float32 [K, h / 2, w / 2, N] of what `decode_windows` gives for all labels [N, C].

    The same as `score_windows` of what `encode_windows` gives; no embeddings of pixels are made.
    """
    model: Any = LSegNet(config)
    kept = ("projection", "block")
    params = {"params": {name: value for name, value in variables["params"].items() if name in kept}}
    return _summed(jnp.stack([model.apply(params, view, labels, method=LSegNet.decoded_cells) for view in decoded]))


@jax.jit
def _compare(total: jax.Array, labels: jax.Array) -> jax.Array:
    """Scores [H, W, n] of summed embeddings [H, W, C] for n labels."""
    return LOGIT_SCALE * jnp.einsum("hwc,nc->hwn", total, labels)


@jax.jit
def _rank(ranking: Ranking, scores: jax.Array, start: np.ndarray, counted: np.ndarray, views: np.ndarray) -> Ranking:
    """The ranking with the chunk of labels from `start` taken into account, of which `counted` says which count."""
    count = ranking.labels.shape[-1]
    fresh = jnp.where(counted & ~jnp.isnan(scores), scores / (views * LOGIT_SCALE), -jnp.inf)
    found = []
    for number in range(count):
        place = jnp.argmax(fresh, axis=-1)
        found.append((start + place.astype(jnp.int32), jnp.max(fresh, axis=-1)))
        if number + 1 < count:
            fresh = jnp.where(jnp.arange(scores.shape[-1]) == place[..., None], -jnp.inf, fresh)
    labels, values = (jnp.stack(parts, axis=-1) for parts in zip(*found, strict=True))
    if count == 1:  # which needs no sorting
        better = values > ranking.similarities
        return Ranking(jnp.where(better, labels, ranking.labels), jnp.maximum(values, ranking.similarities))
    values = jnp.concatenate([ranking.similarities, values], axis=-1)
    labels = jnp.concatenate([ranking.labels, labels], axis=-1)
    # Stable, so of equal labels the first stays first whatever the chunks.
    order = jnp.argsort(-values, axis=-1, stable=True)[..., :count]
    return Ranking(*(jnp.take_along_axis(array, order, axis=-1) for array in (labels, values)))


@jax.jit
def _improve(best: Best, scores: jax.Array, start: np.ndarray, counted: np.ndarray, views: np.ndarray) -> Best:
    """The best labels with a chunk taken into account; arguments as for `_rank`."""
    fresh = jnp.where(counted & ~jnp.isnan(scores), scores / views, -jnp.inf)
    highest = jnp.max(fresh, axis=-1)
    better = highest > best.logits  # of equal labels the first stays
    return Best(
        jnp.where(better, start + jnp.argmax(fresh, axis=-1).astype(jnp.int32), best.labels),
        jnp.maximum(highest, best.logits),
        jnp.logaddexp(best.total, jax.nn.logsumexp(fresh, axis=-1)),
    )


def chunk_size(labels: int, width: int, cells: int) -> int:
    """Labels to score at a time.

    Args:
        labels: their number. width: that of an embedding. cells: of all windows.
    """
    room = SCORES // TILE**2
    if labels > width:
        # The embeddings of all windows are held, or all labels' scores, which are larger.
        room = min(room, CELL_SCORES // cells)
    return min(labels, max(room // LABEL_STEP, 1) * LABEL_STEP)


def views(scheme: Scheme) -> int:
    """How many scores are summed for each pixel."""
    return len(scheme.scales) * (2 if scheme.flip else 1)


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

    def chunks(self) -> Iterator[tuple[Tile, int, jax.Array]]:
        """Summed scores of all pixels for all labels, tile by tile and chunk by chunk.

        Yields:
            (tile, index of the chunk's first label, float32 [TILE, TILE, n]), every tile's chunks in order. The scores
            hold until the next are asked for. Beyond the last label, and outside the image, they are without meaning.

        Raises:
            VocabularyError: more labels than a block that mixes them can take.
        """
        config, scheme = self.config, self.scheme
        height, width = self.image.shape[:2]
        count, features = self.labels.shape
        mixed = config.block == "bottleneck"
        if mixed and count > MIXED_LABELS:
            raise VocabularyError(
                f"{count} labels are too many for a bottleneck block, which compares every label with all others: it "
                f"takes at most {MIXED_LABELS}; give fewer, or use a model without a block"
            )
        found = sliding_window.windows(height, width, scheme)
        rows, columns = (side // 2 for side in sliding_window.window_size(height, width, scheme))
        cells = len(found) * rows * columns
        chunk = chunk_size(count, features, cells)
        starts = range(0, count, chunk)
        # Fillers repeat the last label, which changes no maximum over labels.
        labels = np.pad(np.asarray(self.labels), ((0, -count % chunk), (0, 0)), mode="edge")
        layout = Layout((height, width), found, scheme, (rows, columns))
        batches = sliding_window.batches(found, self.batch_size)
        seen = (sliding_window.views(self.image, batch, scheme) for batch in batches)
        if len(starts) == 1:
            decoded = (decode_windows(config, scheme.flip, self.variables, views) for views in seen)
            grids = [score_decoded(config, self.variables, part, labels) for part in decoded]
            for tile, total in self._merged_tiles(layout, grids, chunk):
                yield tile, 0, total
            return
        encoded = (encode_windows(config, scheme.flip, self.variables, views) for views in seen)

        def scored(pixels: jax.Array, start: int) -> jax.Array:
            part, first = (labels, start) if mixed else (labels[start : start + chunk], 0)
            return score_windows(config, chunk, self.variables, pixels, part, np.int32(first))

        if config.block == "none" and cells > height * width:
            # Scores are linear in the embeddings, so these can be put together first, once for all labels, if that
            # leaves fewer of them to be kept and compared.
            for tile, total in self._totals(layout, encoded, features):
                for start in starts:
                    yield tile, start, _compare(total, labels[start : start + chunk])
            return
        kept = list(encoded)
        for start in starts:
            grids = [scored(pixels, start) for pixels in kept]
            for tile, total in self._merged_tiles(layout, grids, chunk):
                yield tile, start, total

    def _merged_tiles(self, layout: Layout, grids: Sequence[jax.Array], count: int) -> Iterator[tuple[Tile, jax.Array]]:
        """The summed scores of all tiles, float32 [TILE, TILE, count] each, which holds until the next is asked for."""
        total = jnp.zeros((TILE, TILE, count))
        for tile, parts in layout.tiles():
            for number, part in enumerate(parts):
                total = self._merged(total, number == 0, grids[part.window // self.batch_size], part)
            yield tile, total

    def _totals(self, layout: Layout, encoded: Iterator[jax.Array], features: int) -> Iterator[tuple[Tile, jax.Array]]:
        """The summed embeddings of all pixels, float32 [TILE, TILE, C] for each tile."""
        totals: dict[Tile, jax.Array] = {}
        for number, pixels in enumerate(encoded):
            grids = pixels[0]
            for tile, parts in layout.tiles():
                for part in parts:
                    if part.window // self.batch_size == number:
                        fresh = tile not in totals
                        total = jnp.zeros((TILE, TILE, features)) if fresh else totals[tile]
                        totals[tile] = self._merged(total, fresh, grids, part)
        yield from totals.items()

    def _merged(self, total: jax.Array, fresh: bool, grids: jax.Array, part: sliding_window.Part) -> jax.Array:
        return sliding_window.merge(total, fresh, grids, part.corner(self.batch_size), part.rows, part.columns)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scores.top`; scores are `Ranking.similarities`."""
        shape = (TILE, TILE, count)
        initial = Ranking(np.full(shape, NO_LABEL, np.int32), np.full(shape, -np.inf, np.float32))
        return self._folded(_rank, initial, np.ones(len(self.labels), bool))

    def label_map(self) -> np.ndarray:
        return self.top(1)[0][..., 0]

    def most_probable(self, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Scores.most_probable`."""
        counted = np.full(len(self.labels), among is None)
        if among is not None:
            counted[among] = True
        lowest = np.full((TILE, TILE), -np.inf, np.float32)
        found = self._folded(_improve, Best(np.full(lowest.shape, NO_LABEL, np.int32), lowest, lowest), counted)
        probabilities = np.subtract(found.logits, found.total, out=found.logits)
        return found.labels, np.exp(probabilities, out=probabilities)

    def probabilities(self) -> np.ndarray:
        """The softmax over labels of the mean logits: float32 [H, W, N]."""
        found = np.empty((*self.image.shape[:2], len(self.labels)), np.float32)
        for tile, start, scores in self.chunks():
            into = found[tile.pixels][..., start : start + scores.shape[-1]]
            into[:] = np.asarray(scores)[tuple(map(slice, into.shape))]
        for row in found:
            row /= views(self.scheme)
            row -= row.max(axis=-1, keepdims=True)
            np.exp(row, out=row)
            row /= row.sum(axis=-1, keepdims=True)
        return found

    def _folded(self, add: Callable[..., Any], initial: Any, counted: np.ndarray) -> Any:
        """A state, `_rank`'s or `_improve`'s, of all pixels with all chunks taken into account; arrays of NumPy.

        Args:
            initial: the state of a tile that no label was taken into account for.
            counted: bool [N], the labels that count.
        """
        height, width = self.image.shape[:2]
        canvas, seen = Canvas(height, width, initial), np.float32(views(self.scheme))
        for tile, start, scores in self.chunks():
            state = type(initial)(*canvas.take(tile)) if start else initial
            some = np.zeros(scores.shape[-1], bool)
            some[: len(counted) - start] = counted[start : start + len(some)]
            canvas.put(tile, add(state, scores, np.int32(start), some, seen))
        return type(initial)(*canvas.arrays())
