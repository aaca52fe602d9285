"""A procedural world of scenes: one to three named objects over two named textures, with a label for every pixel.

Everything is computed on the device from a key, so an endless supply of scenes needs no files. A scene is a function
on the unit square that is sampled at the pixel centres: the same key at another size is the same scene, finer.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from vlseg.data.examples import IGNORE_LABEL, Example, LazySequence
from vlseg.data.tiny_world import patterns, shapes
from vlseg.errors import ConfigError
from vlseg.fields import Count, check_value

TEXTURES, OBJECTS = tuple(patterns.TEXTURES), tuple(shapes.OBJECTS)
NAMES = TEXTURES + OBJECTS
"""A label id is an index into these."""

HYPERNYMS = {name: hypernym for name, (hypernym, *_) in (patterns.TEXTURES | shapes.OBJECTS).items()}
SYNONYMS = {name: tuple(synonyms) for name, (_, *synonyms) in (patterns.TEXTURES | shapes.OBJECTS).items()}
MAX_OBJECTS = 3
SPLITS: tuple[str, ...] = ("train", "validation", "test")
_SMALLEST_SIZE = 16
_CHUNK = 50  # scenes of a data set that are made at a time
_TRIES = 4  # draws of the object positions, of which the one with the least overlap is taken


class Scene(NamedTuple):
    """One scene, or a batch of them with a leading axis in every field."""

    image: Array  # float32 [S, S, 3] in [-1, 1], RGB
    label: Array  # int32 [S, S], ids into NAMES
    object_ids: Array  # int32 [MAX_OBJECTS], ids into NAMES, all different, -1 where absent or wholly hidden
    object_boxes: Array  # float32 [MAX_OBJECTS, 4], x0, y0, x1, y1 in [0, 1] around the visible pixels, 0 if absent
    texture_ids: Array  # int32 [2], ids into NAMES, different


class _Draws(NamedTuple):
    """All the chance in a scene: numbers uniform in [0, 1)."""

    texture_order: Array  # [len(TEXTURES)], the two smallest are chosen
    texture_look: Array  # [2, 10]: scale, orientation, phase (2), two colours (6)
    boundary: Array  # [5]: direction, amplitude, frequency, phase, level
    how_many: Array  # [1]
    object_order: Array  # [len(OBJECTS)], the smallest are chosen
    object_look: Array  # [MAX_OBJECTS, 7]: radius, angle, stretch, mirror, colour (3)
    places: Array  # [_TRIES, MAX_OBJECTS, 2]
    light: Array  # [6]: gain, tint (3), direction and strength of the gradient
    salts: Array  # [3]: of the noise of either texture and of the grain


_SHAPES: list[Any] = [len(TEXTURES), (2, 10), 5, 1, len(OBJECTS), (MAX_OBJECTS, 7), (_TRIES, MAX_OBJECTS, 2), 6, 3]
"""Of the fields of `_Draws`."""


class _Objects(NamedTuple):
    """Which objects, where and how; every field has the leading axis MAX_OBJECTS, in order of painting."""

    kind: Array  # int32, index into OBJECTS
    present: Array  # bool
    centre: Array  # float32 [.., 2], x and y (down) in image sides
    to_local: Array  # float32 [.., 2, 2], from image offsets to local coordinates
    palette: Array  # float32 [.., MAX_PARTS, 3], RGB


def _between(uniform: Array, low: Array | float, high: Array | float) -> Array:
    return low + uniform * (high - low)


def _rgb(hsv: Array) -> Array:
    """HSV (hue in turns, any real number) to RGB in [0, 1], on the last axis."""
    hue, saturation, value = hsv[..., :1], hsv[..., 1:2], hsv[..., 2:]
    ramp = jnp.abs((hue + jnp.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    return value * (1 - saturation * (1 - jnp.clip(ramp, 0.0, 1.0)))


def _draw(key: Array) -> _Draws:
    # One call for everything, because each use of the generator costs compile time.
    ends = np.cumsum([np.prod(shape) for shape in _SHAPES])
    pieces = jnp.split(jax.random.uniform(key, (int(ends[-1]),)), ends[:-1])
    return _Draws(*(piece.reshape(shape) for piece, shape in zip(pieces, _SHAPES, strict=True)))


def _smallest(values: Array, count: int) -> Array:
    """Indices (int32 [count]) of the smallest values, in ascending order of value."""
    return jax.lax.top_k(-values, count)[1].astype(jnp.int32)


def _salt(uniform: Array) -> Array:
    return (uniform * 2.0**24).astype(jnp.uint32) * np.uint32(2654435761)


def _objects(draws: _Draws) -> _Objects:
    kind = _smallest(draws.object_order, MAX_OBJECTS)
    present = jnp.arange(MAX_OBJECTS) <= jnp.floor(draws.how_many * MAX_OBJECTS)

    look = draws.object_look
    radius = _between(look[:, 0], 0.15, 0.26)
    angle = _between(look[:, 1], -0.4, 0.4)
    stretch = _between(look[:, 2], 0.9, 1.1)
    mirror = jnp.where(look[:, 3] < 0.5, -1.0, 1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along = jnp.stack([cos, sin], -1) * (mirror / (radius * stretch))[:, None]
    up = jnp.stack([sin, -cos], -1) * (stretch / radius)[:, None]

    low, high = jnp.asarray(shapes.COLOURS)[kind, :, 0], jnp.asarray(shapes.COLOURS)[kind, :, 1]
    palette = _rgb(_between(look[:, None, 4:7], low, high))
    return _Objects(kind, present, _place(draws.places, radius, present), jnp.stack([along, up], -2), palette)


def _place(uniform: Array, radius: Array, present: Array) -> Array:
    """Centres [MAX_OBJECTS, 2] inside the image, with as little overlap as a few draws allow."""
    margin = 0.85 * radius[:, None]
    centres = _between(uniform, margin, 1 - margin)
    distance = jnp.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1)
    gap = distance - (radius[:, None] + radius)
    matters = present[:, None] & present & ~jnp.eye(MAX_OBJECTS, dtype=bool)
    tightest = jnp.min(jnp.where(matters, gap, 1.0), axis=(1, 2))
    return centres[jnp.argmax(tightest)]


def _paint_objects(objects: _Objects, x: Array, y: Array) -> tuple[Array, Array]:
    """Which part covers each pixel (object * MAX_PARTS + part, or -1) and its shade (about 0.75 to 1.1)."""
    forms = (jnp.asarray(table)[objects.kind] for table in (shapes.INSIDE, shapes.OUTSIDE, shapes.PLANES))
    first_part = jnp.arange(MAX_OBJECTS, dtype=jnp.int32) * shapes.MAX_PARTS

    def paint(canvas: tuple[Array, Array], item: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        cover, shade = canvas
        first, present, centre, turn, inside, outside, planes = item
        dx, dy = x - centre[0], y - centre[1]
        lx, ly = turn[0, 0] * dx + turn[0, 1] * dy, turn[1, 0] * dx + turn[1, 1] * dy
        xx, xy, yy = lx * lx, lx * ly, ly * ly
        for part in range(shapes.MAX_PARTS):
            depth = jnp.where(present, 1.0, -1.0)
            for conic in (inside[part], outside[part]):
                value = conic[0] * xx + conic[1] * xy + conic[2] * yy + conic[3] * lx + conic[4] * ly + conic[5]
                depth = jnp.minimum(depth, value)
            for edge in planes[part]:
                depth = jnp.minimum(depth, edge[0] * lx + edge[1] * ly + edge[2])
            covered = depth > 0
            cover = jnp.where(covered, first + part, cover)
            # Darker towards the rim of a part, so that neighbouring parts of one colour stay apart.
            shade = jnp.where(covered, 0.78 + 0.3 * jnp.minimum(1.0, 3.0 * depth) + 0.08 * ly, shade)
        return (cover, shade), None

    # A loop, because an unrolled one is compiled into each of the uses of its result and computed as often.
    blank = (jnp.full(x.shape, -1, jnp.int32), jnp.ones_like(x))
    items = (first_part, objects.present, objects.centre, objects.to_local, *forms)
    return jax.lax.scan(paint, blank, items)[0]


def _far_side(uniform: Array, x: Array, y: Array) -> Array:
    """Which pixels lie beyond a random wavy line that leaves each side about 0.3 of the image or more."""
    angle = 2 * jnp.pi * uniform[0]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    amplitude = 0.1 * uniform[1]
    frequency = _between(uniform[2], 0.5, 2.0)

    def height(x: Array, y: Array) -> Array:
        along, across = cos * x + sin * y, cos * y - sin * x
        return across + amplitude * patterns.wave(frequency * along + uniform[3])

    # The level is a quantile on a grid of its own, hence the same at every image size.
    grid = (jnp.arange(12) + 0.5) / 12
    sample = jnp.sort(height(*jnp.meshgrid(grid, grid)).ravel())
    level = sample[jnp.floor(_between(uniform[4], 0.3, 0.7) * sample.size).astype(jnp.int32)]
    return height(x, y) > level


def _paint_textures(draws: _Draws, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The two texture ids, the label map of the background and its colours [S, S, 3]."""
    ids = _smallest(draws.texture_order, 2)
    far = _far_side(draws.boundary, x, y)
    look, salt = draws.texture_look, _salt(draws.salts[:2])

    layout = jnp.asarray(patterns.LAYOUT)[ids]
    frequency = _between(look[:, 0], layout[:, 0], layout[:, 1])
    angle = 2 * jnp.pi * _between(look[:, 1], layout[:, 2], layout[:, 3])
    turn = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1) * frequency[:, None]
    noise = jnp.asarray(patterns.NOISE)[ids]
    low, high = jnp.asarray(patterns.COLOURS)[ids, :, 0], jnp.asarray(patterns.COLOURS)[ids, :, 1]
    palette = _rgb(_between(rearrange(look[:, 4:], "texture (end hsv) -> texture end hsv", hsv=3), low, high))

    def paint(item: tuple[Array, ...]) -> Array:
        texture, turn, phase, noise, salt = item
        u = turn[0] * x + turn[1] * y + phase[0]
        v = turn[0] * y - turn[1] * x + phase[1]
        fine = patterns.value_noise(noise[0] * u, noise[1] * v, salt)
        coarse = patterns.value_noise(noise[2] * u, noise[3] * v, salt + np.uint32(1))
        return patterns.tone(texture, u, v, fine, coarse)

    near_tone, far_tone = jax.lax.map(paint, (ids, turn, 50 * look[:, 2:4], noise, salt))
    tone = jnp.where(far, far_tone, near_tone)[..., None]
    dark, bright = (jnp.where(far[..., None], palette[1, end], palette[0, end]) for end in (0, 1))
    return ids, jnp.where(far, ids[1], ids[0]), dark + tone * (bright - dark)


def _light(draws: _Draws, colours: Array, x: Array, y: Array) -> Array:
    """Global illumination: gain, tint, a gradient in a random direction and a little noise, then [-1, 1]."""
    uniform = draws.light
    gain = _between(uniform[0], 0.82, 1.08) * _between(uniform[1:4], 0.95, 1.05)
    angle = 2 * jnp.pi * uniform[4]
    slope = 0.25 * uniform[5] * (jnp.cos(angle) * (x - 0.5) + jnp.sin(angle) * (y - 0.5))
    size = x.shape[0]
    grain = patterns.white_noise(x * size, y * size, _salt(draws.salts[2])) - 0.5
    lit = colours * gain * (1 + slope)[..., None] + 0.06 * grain[..., None]
    return 2 * jnp.clip(lit, 0.0, 1.0) - 1


def _boxes(label: Array, ids: Array) -> tuple[Array, Array]:
    """For ids [N]: whether any pixel has the id, and the box around those pixels (x0, y0, x1, y1 in [0, 1])."""
    size = label.shape[0]
    mask = label[None] == ids[:, None, None]
    position = jnp.arange(size)

    def extent(line: Array) -> tuple[Array, Array]:
        return jnp.min(jnp.where(line, position, size), axis=1), jnp.max(jnp.where(line, position + 1, 0), axis=1)

    x0, x1 = extent(mask.any(axis=1))
    y0, y1 = extent(mask.any(axis=2))
    visible = x1 > 0
    boxes = jnp.stack([x0, y0, x1, y1], axis=-1).astype(jnp.float32) / size
    return visible, jnp.where(visible[:, None], boxes, 0.0)


@functools.partial(jax.jit, static_argnames="size")
def scene(key: Array, size: int = 64) -> Scene:
    """Draw one scene; compiled once for each size.

    Args:
        key: a typed JAX key, scalar. The same key at another size is the same scene, finer (its grain differs).
        size: side of the square image in pixels, at least 16; static.

    Returns:
        A `Scene` without batch axis. For batches vmap this function.

    Raises:
        ConfigError: the size is too small for objects to be seen.
    """
    if size < _SMALLEST_SIZE:
        raise ConfigError(f"a tiny-world scene of {size} pixels is too small: ask for {_SMALLEST_SIZE} or more")
    draws = _draw(key)
    centres = (jnp.arange(size) + 0.5) / size
    x, y = jnp.meshgrid(centres, centres)

    texture_ids, label, colours = _paint_textures(draws, x, y)
    objects = _objects(draws)
    cover, shade = _paint_objects(objects, x, y)
    covered = cover >= 0
    names = objects.kind + len(TEXTURES)
    label = jnp.where(covered, names[cover // shapes.MAX_PARTS], label)
    painted = rearrange(objects.palette, "object part rgb -> (object part) rgb")[cover] * shade[..., None]
    image = _light(draws, jnp.where(covered[..., None], painted, colours), x, y)

    visible, boxes = _boxes(label, names)
    return Scene(image, label, jnp.where(visible, names, -1), boxes, texture_ids)


def check_split(split: str) -> None:
    """Raises ConfigError for what is none of SPLITS."""
    if split not in SPLITS:
        raise ConfigError(f"there is no tiny-world split {split!r}: choose one of {', '.join(SPLITS)}")


def split_key(split: str, seed: int) -> Array:
    """The key of one of SPLITS, else ConfigError: fold the scene number in to get a scene's own key."""
    check_split(split)
    return jax.random.fold_in(jax.random.key(seed), SPLITS.index(split))


@dataclass(frozen=True)
class TinyWorldDataset(LazySequence[Example]):
    """The first `count` scenes of a split, [size, size] pixels each, made as they are asked for; "scene_INDEX".

    split: "train", "validation" or "test"; scenes of different splits or seeds are different.
    """

    split: str = "test"
    count: int = 500
    seed: int = 0
    size: int = 64
    names: tuple[str, ...] = NAMES
    ignore_label: int = IGNORE_LABEL

    def __post_init__(self) -> None:
        check_split(self.split)
        check_value(self.count, Count, "count of the tiny world")

    def __len__(self) -> int:
        return self.count

    def _read(self, index: int) -> Example:
        return next(self._examples(np.asarray([index])))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, self.count, _CHUNK):
            yield from itertools.islice(self._examples(np.arange(start, start + _CHUNK)), self.count - start)

    def _examples(self, indices: np.ndarray) -> Iterator[Example]:
        keys = jax.vmap(functools.partial(jax.random.fold_in, split_key(self.split, self.seed)))(indices)
        scenes = _scenes(keys, self.size)
        images = np.clip(np.round((np.asarray(scenes.image) + 1.0) * 127.5), 0, 255).astype(np.uint8)
        for index, image, label in zip(indices, images, np.asarray(scenes.label), strict=True):
            yield Example(image, label, f"scene_{index:05d}")


_scenes = jax.jit(lambda keys, size: jax.vmap(lambda key: scene(key, size))(keys), static_argnums=1)
