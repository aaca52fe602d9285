"""What the textures of the tiny world look like: each paints with two colours, mixed by a tone in [0, 1].

Coordinates u, v are counted in periods of the pattern. Two value-noise fields are shared by all patterns, with cell
sizes of their own, because a pixel shows one texture only.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

TEXTURES: dict[str, tuple[str, ...]] = {
    "grass": ("plant", "lawn", "meadow"),
    "water": ("liquid", "sea", "lake"),
    "sand": ("ground", "beach", "desert"),
    "bricks": ("wall", "brickwork", "masonry"),
    "wood": ("floor", "planks", "timber"),
    "snow": ("weather", "powder", "frost"),
    "carpet": ("furnishing", "rug", "mat"),
    "marble": ("rock", "stone", "granite"),
}
"""Name -> hypernym and synonyms, in the order of their ids."""

#: For each texture: periods per image side (low, high) and orientation in turns (low, high).
_LAYOUT: dict[str, tuple[float, float, float, float]] = {
    "grass": (7.0, 10.0, -0.06, 0.06),
    "water": (8.0, 12.0, -0.08, 0.08),
    "sand": (7.0, 10.0, 0.0, 1.0),
    "bricks": (6.0, 8.5, -0.05, 0.05),
    "wood": (4.5, 6.5, 0.17, 0.33),
    "snow": (6.0, 9.0, 0.0, 1.0),
    "carpet": (5.5, 8.0, 0.0, 1.0),
    "marble": (4.5, 7.0, 0.0, 1.0),
}

#: Noise cells per period: fine along u, fine along v, coarse along u, coarse along v.
_NOISE: dict[str, tuple[float, float, float, float]] = {
    "grass": (4.5, 1.3, 1.0, 1.0),
    "water": (1.0, 4.0, 0.6, 0.6),
    "sand": (5.0, 5.0, 0.8, 0.8),
    "bricks": (4.0, 4.0, 1.0, 2.0),
    "wood": (0.6, 6.0, 0.2, 1.0),
    "snow": (5.0, 5.0, 0.8, 0.8),
    "carpet": (5.0, 5.0, 1.0, 1.0),
    "marble": (3.0, 3.0, 1.1, 1.1),
}

#: For each texture the two colours (tone 0, tone 1), each as a low and a high end of hue, saturation, value.
_COLOURS: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    "grass": (((0.25, 0.65, 0.25), (0.34, 0.85, 0.38)), ((0.22, 0.55, 0.62), (0.31, 0.75, 0.8))),
    "water": (((0.56, 0.65, 0.5), (0.62, 0.85, 0.68)), ((0.5, 0.3, 0.82), (0.56, 0.5, 0.97))),
    "sand": (((0.085, 0.42, 0.62), (0.12, 0.55, 0.76)), ((0.1, 0.25, 0.86), (0.13, 0.4, 0.98))),
    "bricks": (((-0.01, 0.6, 0.52), (0.035, 0.78, 0.72)), ((0.05, 0.08, 0.72), (0.1, 0.2, 0.88))),
    "wood": (((0.05, 0.6, 0.25), (0.08, 0.75, 0.36)), ((0.07, 0.45, 0.62), (0.1, 0.62, 0.8))),
    "snow": (((0.56, 0.1, 0.78), (0.62, 0.22, 0.88)), ((0.55, 0.0, 0.95), (0.6, 0.05, 1.0))),
    "carpet": (((0.8, 0.6, 0.42), (0.97, 0.8, 0.58)), ((0.78, 0.25, 0.72), (0.95, 0.45, 0.9))),
    "marble": (((0.5, 0.02, 0.84), (0.7, 0.08, 0.95)), ((0.55, 0.05, 0.3), (0.75, 0.2, 0.48))),
}

LAYOUT = np.array([_LAYOUT[name] for name in TEXTURES], np.float32)  # [textures, 4]
NOISE = np.array([_NOISE[name] for name in TEXTURES], np.float32)  # [textures, 4]
COLOURS = np.array([_COLOURS[name] for name in TEXTURES], np.float32)  # [textures, 2 tones, low/high, hsv]

_STEP_X, _STEP_Y = 374761393, 668265263  # odd numbers that spread neighbouring cells over the 32 bits


def _cell(x: Array, y: Array, salt: Array) -> Array:
    """uint32 number of a cell with whole-number coordinates; the cell to the right has this plus `_STEP_X`."""
    column, row = x.astype(jnp.int32).astype(jnp.uint32), y.astype(jnp.int32).astype(jnp.uint32)
    return column * np.uint32(_STEP_X) + row * np.uint32(_STEP_Y) + salt


def _scramble(cell: Array) -> Array:
    """Uniform-looking float32 in [0, 1) from the number of a cell."""
    bits = (cell ^ (cell >> 13)) * np.uint32(1274126177)
    bits = bits ^ (bits >> 16)
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)


def white_noise(x: Array, y: Array, salt: Array) -> Array:
    """Independent noise in [0, 1) for each cell of size one."""
    return _scramble(_cell(jnp.floor(x), jnp.floor(y), salt))


def value_noise(x: Array, y: Array, salt: Array) -> Array:
    """Smooth noise in [0, 1) with cells of size one: random values at the corners, smoothly interpolated."""
    x0, y0 = jnp.floor(x), jnp.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    corner = _cell(x0, y0, salt)
    right, below = np.uint32(_STEP_X), np.uint32(_STEP_Y)
    upper = _scramble(corner) * (1 - fx) + _scramble(corner + right) * fx
    lower = _scramble(corner + below) * (1 - fx) + _scramble(corner + below + right) * fx
    return upper * (1 - fy) + lower * fy


def wave(turns: Array) -> Array:
    """A sine made of parabolas, in [-1, 1] with period one: as smooth to the eye and far cheaper."""
    ramp = 2 * _fraction(turns) - 1
    return -4 * ramp * (1 - jnp.abs(ramp))


def _sharpen(tone: Array, gain: float) -> Array:
    return jnp.clip((tone - 0.5) * gain + 0.5, 0.0, 1.0)


def _fraction(x: Array) -> Array:
    return x - jnp.floor(x)


def _grass(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    return _sharpen(0.8 * fine + 0.2 * coarse, 2.2)


def _water(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    crest = wave(v + 0.35 * wave(0.45 * u) + 0.5 * coarse)
    return jnp.clip(0.35 + 0.55 * crest, 0.0, 1.0)


def _sand(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    return _sharpen(0.75 * fine + 0.25 * coarse, 1.6)


def _bricks(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    row = jnp.floor(2 * v)
    mortar = (_fraction(2 * v) < 0.26) | (_fraction(u + 0.5 * row) < 0.13)
    return jnp.where(mortar, 0.95, 0.3 * coarse * fine)


def _wood(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    gap = _fraction(v) < 0.14
    return jnp.where(gap, 0.0, 0.4 + 0.6 * _sharpen(fine, 1.4))


def _snow(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    return jnp.clip(1.1 * coarse + 0.5 * fine, 0.0, 1.0)


def _carpet(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    odd = _fraction(0.5 * (jnp.floor(2 * u) + jnp.floor(2 * v))) > 0.25
    return jnp.where(odd, 0.85, 0.1) + 0.15 * (fine - 0.5)


def _marble(u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    vein = jnp.abs(_fraction(u + 1.8 * coarse + 0.3 * fine) - 0.5)
    return jnp.clip(1.0 - 7.0 * vein, 0.0, 1.0) + 0.2 * coarse * coarse


_TONES = (_grass, _water, _sand, _bricks, _wood, _snow, _carpet, _marble)
"""In the order of `TEXTURES`."""


def tone(texture: Array, u: Array, v: Array, fine: Array, coarse: Array) -> Array:
    """Tone of each pixel: `texture` is an int32 map of texture ids, the rest float32 maps of the same shape."""
    result = jnp.zeros_like(u)
    for index, paint in enumerate(_TONES):
        result = jnp.where(texture == index, paint(u, v, fine, coarse), result)
    return result
