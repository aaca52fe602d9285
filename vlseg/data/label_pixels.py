"""The ids of a label file from its pixels, where the file tells them exactly."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from vlseg.data import png
from vlseg.errors import ImageError

_LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "AVIF": "an AVIF", "HEIF": "a HEIC"}
_PAGE_KIND, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 254, 258, 259, 262, 339
_GREY, _PALETTE = 1, 3
_SIGNED = 2
_REDUCED_OR_MASK = 5
# None, CCITT's three, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
_LOSSLESS_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000)
_LARGEST = 65535
_INSTEAD = "save labels as palette or greyscale PNG"


def ids(
    image: Image.Image, name: str, structure: png.Structure | None, palette: NDArray[np.uint8] | None
) -> NDArray[np.int32]:
    """The ids that the pixels of a file stand for.

    Grey levels and palette indices are ids. Levels of 2 or 4 bits, or of a PNM file with a small maximum, which are
    scaled on reading, are scaled back. Floats are ids where they are whole numbers. Alpha may be there if nothing is
    transparent. Colours are ids where the data set's palette is known.

    Args:
        image: opened, not decoded yet. name: what errors call it. structure: of a PNG.
        palette: uint8 [K, 3], the colour of each id, or None.

    Returns:
        int32 [H, W], values in [0, 65535].

    Raises:
        ImageError: ids are not kept exactly by the file's format or compression, or colours, transparency, fractions,
            numbers out of range or several pictures leave open what they are.
    """
    _check_one_lossless(image, name, structure)
    if image.format == "GIF":
        raise ImageError(f"{name}: a GIF may have renumbered its colours when it was saved; {_INSTEAD}")
    scale = 1
    if structure is not None:
        scale = _scale(structure.header.depth) if structure.header.colour == png.GREY else 1
    elif isinstance(image, TiffImageFile):
        scale = _tiff_scale(image, name)
    elif isinstance(image, PpmImageFile) and image.mode in ("L", "I"):
        return _pnm_levels(image, name)
    found = _pixels(image, name, palette)
    return found // scale if image.mode == "L" else found


def colours(image: Image.Image, name: str, structure: png.Structure | None) -> NDArray[np.uint8]:
    """The colours of a label file in which they mean something, uint8 [H, W, 3]; arguments as for `ids`.

    Raises:
        ImageError: the file's format or compression does not keep them exactly, or pixels are transparent.
    """
    _check_one_lossless(image, name, structure)
    image.load()
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"{name}: has {image.mode} pixels, not colours; {_INSTEAD}")
    return _opaque(np.asarray(image.convert("RGBA")), name)


def _check_one_lossless(image: Image.Image, name: str, structure: png.Structure | None) -> None:
    if image.format in _LOSSY:
        raise ImageError(f"{name}: {_LOSSY[image.format]} does not keep label ids exactly; save labels as PNG")
    if structure is not None and structure.frames > 1:
        raise _several(name)
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(_COMPRESSION, 1) not in _LOSSLESS_COMPRESSIONS:
            raise ImageError(f"{name}: its compression may not keep label ids exactly; save labels as PNG")
        for page in range(1, getattr(image, "n_frames", 1)):
            image.seek(page)
            if not image.tag_v2.get(_PAGE_KIND, 0) & _REDUCED_OR_MASK:
                raise _several(name)
        image.seek(0)


def sixteen_bits(image: Image.Image, name: str) -> NDArray[np.int32]:
    """Values in [0, 65535] of a mode I or I;16* image; Pillow reads some 16-bit files into the 32 bits of mode I."""
    levels = np.asarray(image).astype(np.int32)
    if levels.min() < 0 or levels.max() > _LARGEST:
        raise ImageError(f"{name}: has 32-bit pixels; save it with 8 or 16 bits")
    return levels


def _pixels(image: Image.Image, name: str, palette: NDArray[np.uint8] | None) -> NDArray[np.int32]:
    image.load()
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.int32)
    if image.mode in ("LA", "PA"):
        return _opaque(np.asarray(image), name)[..., 0].astype(np.int32)
    if image.mode.startswith("I"):
        return sixteen_bits(image, name)
    if image.mode == "F":
        return _whole(np.asarray(image), name)
    if image.mode in ("RGB", "RGBA"):
        pixels = np.asarray(image)
        colours = _opaque(pixels, name) if image.mode == "RGBA" else pixels
        return _of_colours(colours, name, image.mode, palette)
    raise ImageError(f"{name}: has {image.mode} pixels, not label ids; {_INSTEAD}")


def _opaque(pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Pixels [H, W, C] without their last channel, alpha."""
    if (pixels[..., -1] != 255).any():
        raise ImageError(f"{name}: has transparent pixels, whose labels are unknown; {_INSTEAD}")
    return pixels[..., :-1]


def _whole(levels: NDArray[np.floating], name: str) -> NDArray[np.int32]:
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > _LARGEST or (levels % 1).any():
        raise ImageError(f"{name}: has floating point pixels that are not whole numbers up to {_LARGEST}; {_INSTEAD}")
    return levels.astype(np.int32)


def _of_colours(
    colours: NDArray[np.uint8], name: str, mode: str, palette: NDArray[np.uint8] | None
) -> NDArray[np.int32]:
    """Ids of colours [H, W, 3]."""
    if palette is None:
        grey = (colours == colours[..., :1]).all()
        hint = "its channels are equal: if they hold ids, save one of them as a greyscale PNG" if grey else _INSTEAD
        raise ImageError(f"{name}: has {mode} pixels, not label ids; {hint}")
    keys, packed = _packed(palette), _packed(colours)
    order = np.argsort(keys, kind="stable")
    places = np.minimum(np.searchsorted(keys[order], packed), len(keys) - 1)
    unknown = keys[order][places] != packed
    if unknown.any():
        raise ImageError(f"{name}: has colour {colours[unknown][0].tolist()}, which is none of this data set's")
    return order[places].astype(np.int32)


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    return colours.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def _scale(bits: int) -> int:
    """What Pillow multiplies grey levels of so many bits with."""
    return 255 // (2**bits - 1) if bits in (2, 4) else 1


def _tiff_scale(image: TiffImageFile, name: str) -> int:
    """`_scale` of a TIFF file; refuses one whose levels are not what it was given."""
    tags = image.tag_v2
    if image.mode in ("1", "L", "LA") and tags.get(_PHOTOMETRIC) != _GREY:
        raise ImageError(f"{name}: its grey levels are stored inverted, so ids may be either; {_INSTEAD}")
    bits = tags.get(_BITS, (1,))[0]
    if image.mode == "L" and tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        raise ImageError(f"{name}: has signed 8-bit pixels; {_INSTEAD}")
    return _scale(bits)


def _pnm_levels(image: PpmImageFile, name: str) -> NDArray[np.int32]:
    """The numbers of a grey PNM file, which Pillow scales from the file's maximum to that of 8 or 16 bits."""
    codec, _, offset, arguments = image.tile[0]
    arguments = arguments if isinstance(arguments, tuple) else ()
    if codec == "ppm":
        maximum = int(arguments[1])
        assert image.fp is not None
        image.fp.seek(offset)
        dtype = np.dtype(np.uint8 if maximum < 256 else ">u2")
        count = image.width * image.height
        content = image.fp.read(count * dtype.itemsize)
        levels = np.frombuffer(content, dtype, count).astype(np.int32).reshape(image.height, image.width)
        if levels.max() > maximum:
            raise ImageError(f"{name}: is damaged: it has level {levels.max()} above its maximum {maximum}")
        return levels
    levels = _pixels(image, name, None)
    if codec == "ppm_plain":
        maximum, full = int(arguments[1]), 255 if image.mode == "L" else _LARGEST
        # The products of 16-bit numbers do not fit into 32 bits.
        return ((levels.astype(np.int64) * maximum + full // 2) // full).astype(np.int32)
    return levels


def _several(name: str) -> ImageError:
    return ImageError(f"{name}: holds several pictures, and only one can be a label map; {_INSTEAD}")
