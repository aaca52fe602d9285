"""Which way is up: the orientation that cameras write into EXIF, for photographs and for the label maps beside them."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from vlseg.errors import ConfigError, DatasetError

RAW, TURNED = "raw", "turned"
RULES = ("", RAW, TURNED)
"""What label maps were made of, photographs as files store them or as they are shown; "" where it is not known."""

_TAG = 0x0112
_WARNINGS = threading.Lock()


class Shape(NamedTuple):
    """Height and width of a picture as it is shown, and its EXIF orientation, 1 to 8."""

    height: int
    width: int
    orientation: int


class Picture(NamedTuple):
    """RGB pixels uint8 [H, W, 3], upright, and the EXIF orientation that they were turned by, 1 to 8."""

    pixels: NDArray[np.uint8]
    orientation: int

    @property
    def shape(self) -> Shape:
        """What the header says of it."""
        return Shape(self.pixels.shape[0], self.pixels.shape[1], self.orientation)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of large pictures and of odd EXIF; here the one is an error or fine, the other harmless."""
    # Threads that change the filters at the same time would leave them changed.
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def exif_orientation(image: Image.Image, header_only: bool = False) -> int:
    """EXIF orientation, 1 (upright) to 8.

    Args:
        image: of which pixels are decoded if that is needed. header_only: EXIF behind the pixels does not matter.
    """
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF files itself.
    try:
        with without_warnings():
            value = (Image.Image.getexif(image) if header_only else image.getexif()).get(_TAG, 1)
    except Exception:  # EXIF is often damaged, and a picture is worth reading without it
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] as they are stored -> [h, w, ...] as they are shown, for an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        pixels = rearrange(pixels, "h w ... -> w h ...")
    # Where the stored first row and first column lie in the upright picture: bottom, right.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def check_rule(rule: str) -> str:
    """`rule`; ConfigError if it is none of RULES."""
    if rule not in RULES:
        raise ConfigError(f"label_orientation {rule!r} is neither {RAW!r} nor {TURNED!r}, nor left out")
    return rule


def label_like(label: np.ndarray, shape: Shape, rule: str, name: object) -> np.ndarray:
    """A label map as its photograph is shown.

    One that has the size of the photograph as it is stored is turned with it; one of the size that is shown is not.

    Args:
        label: int [H, W], which no EXIF of its own has turned.
        shape: of the photograph.
        rule: of RULES, for photographs that have the same size either way.
        name: what errors call the label map.

    Raises:
        DatasetError: the sizes are the same, the photograph is turned or mirrored, and `rule` is "".
    """
    size, orientation = (shape.height, shape.width), shape.orientation
    raw = size[::-1] if orientation >= 5 else size
    if orientation == 1 or label.shape != raw:
        return label
    if raw == size and not rule:
        raise DatasetError(
            f"{name}: EXIF turns or mirrors its photograph (orientation {orientation}) to the same size: say with "
            f"label_orientation whether labels are {RAW!r} (as files store photographs) or {TURNED!r} (as they are "
            "shown), or save the photograph upright"
        )
    return label if raw == size and rule == TURNED else upright(label, orientation)
