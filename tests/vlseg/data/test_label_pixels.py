"""Label files of every format and mode: ids come back as they were, or the file is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vlseg.data.catalog.pascal import PALETTE, bits_palette
from vlseg.data.images import decode_image, decode_label, read_label, read_label_colours
from vlseg.errors import ImageError

SAVINGS = {
    "PNG": [{}, {"bits": 1}, {"bits": 2}, {"bits": 4}, {"optimize": True}, {"transparency": 0}],
    "GIF": [{}, {"optimize": False}],
    "BMP": [{}],
    "DIB": [{}],
    "PPM": [{}],
    "WEBP": [{"lossless": True}, {}],
    "JPEG": [{"quality": 100}],
    "TIFF": [
        {},
        {"tiffinfo": {262: 0}},
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma")),
        *({"compression": name} for name in ("zstd", "jpeg", "webp", "raw", "group3", "group4", "tiff_ccitt")),
    ],
}


def forms(ids):
    """Ways in which a program may hold ids: images of every mode that can."""
    grey = Image.fromarray(ids.astype(np.uint8))
    yield grey
    yield from (grey.convert(mode) for mode in ("LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"))
    rng = np.random.default_rng(0)
    greys, black_and_white = np.repeat(np.arange(256), 3), np.repeat([0, 255], 3)
    for colours in (rng.integers(0, 256, 768), greys, rng.permutation(greys), black_and_white):
        if len(colours) <= 3 * ids.max():
            continue
        palette = grey.convert("P")
        palette.putpalette(colours.astype(np.uint8).tobytes())
        yield palette
        yield from (palette.convert(mode) for mode in ("RGB", "RGBA"))
        palette = palette.convert("PA")
        yield palette
    yield from (Image.fromarray(ids.astype(dtype)) for dtype in (np.uint16, np.int32, np.float32))
    if ids.max() < 2:
        yield Image.fromarray(ids > 0)


SLOW = [pytest.param(count, marks=pytest.mark.slow) for count in (3, 4, 16, 256)]


@pytest.mark.parametrize("classes", [2, 17, *SLOW])
def test_what_was_written_is_read_or_refused(classes, capfd):  # libtiff prints what it cannot write
    ids = np.random.default_rng(classes).integers(0, classes, (11, 13))
    ids.flat[:classes] = np.arange(classes)[: ids.size]
    read, refused = set(), set()
    for image in forms(ids):
        for kind, savings in SAVINGS.items():
            for options in savings:
                if kind == "PNG" and classes > 2 ** options.get("bits", 8):
                    continue  # they are lost on writing
                stream = io.BytesIO()
                try:
                    image.save(stream, kind, **options)
                except (OSError, ValueError, KeyError, RuntimeError, TypeError):
                    continue
                case = (kind, image.mode, str(options))
                try:
                    found = decode_label(stream.getvalue(), "a")
                except ImageError:
                    refused.add(case)
                    continue
                np.testing.assert_array_equal(found, ids, str(case))
                read.add(case)
    assert {(kind, mode) for kind, mode, _ in read} >= {
        *(("PNG", mode) for mode in ("L", "P", "LA", "I;16")),
        *(("TIFF", mode) for mode in ("L", "P", "LA", "I;16", "I", "F")),
        *((kind, "L") for kind in ("BMP", "PPM")),
        *((kind, "I;16") for kind in ("PPM",)),
    }
    assert {kind for kind, _, _ in refused} >= {"GIF", "WEBP", "JPEG"}
    capfd.readouterr()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits(bits, tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**bits, (9, 17), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(ids).save(path, bits=bits)
    assert Image.open(path).mode == ("1" if bits == 1 else "L")
    np.testing.assert_array_equal(read_label(path), ids)
    width = -(-17 * bits // 8)
    packed = ["".join(f"{value:0{bits}b}" for value in (*row, *[0] * 7))[: 8 * width] for row in ids]
    stored = b"".join(int(row, 2).to_bytes(width, "big") for row in packed)
    np.testing.assert_array_equal(decode_label(tiff(17, 9, bits, stored), "a.tif"), ids)
    with pytest.raises(ImageError, match="stored inverted"):
        decode_label(tiff(17, 9, bits, stored, photometric=0), "a.tif")
    with pytest.raises(ImageError, match="stored inverted"):
        decode_label(tiff(9, 17, 8, ids.tobytes(), photometric=0), "a.tif")


def tiff(width, height, bits, stored, photometric=1, offset=None, **others):
    """A TIFF of one strip, `offset` from the start; `others` are further tags of one number, as t339=2."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: len(stored)}
    tags |= {int(name[1:]): value for name, value in others.items()}
    if 324 in tags:
        del tags[273], tags[279]
    tags |= {273: offset or 8 + 2 + 12 * len(tags) + 4} if 273 in tags else {}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    gap = 4 if offset is None else offset - 10 - len(entries)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(gap) + stored


@pytest.mark.parametrize("maximum", [1, 2, 3, 7, 18, 100, 254, 255, 256, 300, 1000, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_with_any_maximum(maximum, plain):
    ids = np.linspace(0, maximum, 99).round().astype(int).reshape(9, 11)
    header = f"{'P2' if plain else 'P5'}\n# made by hand\n11 9\n# and here\n{maximum}\n".encode()
    stored = ids.astype("u1" if maximum < 256 else ">u2").tobytes()
    data = header + (" ".join(map(str, ids.ravel())).encode() if plain else stored)
    np.testing.assert_array_equal(decode_label(data, "a.pgm"), ids)
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_label(data[:-9], "a.pgm")


def test_pgm_with_a_level_above_its_maximum():
    with pytest.raises(ImageError, match="damaged: it has level 9 above its maximum 7"):
        decode_label(b"P5 11 9 7\n" + bytes([9] * 99), "a.pgm")


def test_jpeg_in_other_files(tmp_path):
    ids = np.random.default_rng(0).integers(0, 18, (16, 16), dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "a.tif", compression="jpeg")
    with pytest.raises(ImageError, match=r"a\.tif: its compression may not keep label ids"):
        read_label(tmp_path / "a.tif")
    # Cameras write a second picture behind the first, and then it is of another format to Pillow.
    Image.fromarray(ids).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(ids)])
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    with pytest.raises(ImageError, match="a JPEG does not keep label ids exactly"):
        read_label(tmp_path / "a.jpg")


def test_transparency():
    ids = np.random.default_rng(0).integers(0, 18, (9, 9), dtype=np.uint8)
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(ids).convert(mode)
        alpha = np.full((9, 9), 255, np.uint8)
        alpha[3, 3] = 254
        image.putalpha(Image.fromarray(alpha))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        with pytest.raises(ImageError, match="transparent pixels"):
            decode_label(stream.getvalue(), "a.png")


def test_floats_that_are_no_ids(tmp_path):
    whole = np.arange(99, dtype=np.float32).reshape(9, 11)
    for value, fits in ((65535, True), (0.5, False), (-1, False), (65536, False), (np.nan, False), (np.inf, False)):
        whole[0, 0] = value
        Image.fromarray(whole).save(tmp_path / "a.tif")
        if fits:
            np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), whole)
        else:
            with pytest.raises(ImageError, match="floating point pixels that are not whole numbers"):
                read_label(tmp_path / "a.tif")


def test_pages(tmp_path):
    ids = np.arange(99, dtype=np.uint8).reshape(9, 11)
    pages = [Image.fromarray(ids), Image.fromarray(ids[::-1])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="holds several pictures"):
        read_label(tmp_path / "a.tif")
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}  # a preview of the first
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), ids)


def test_signed_levels():
    levels = np.arange(99, dtype=np.uint8).reshape(9, 11)
    with pytest.raises(ImageError, match="signed 8-bit"):
        decode_label(tiff(11, 9, 8, levels.tobytes(), t339=2), "a.tif")


def test_colours_of_a_known_palette(tmp_path):
    ids = np.random.default_rng(0).choice([*range(21), 255], (9, 11)).astype(np.uint8)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette(bits_palette(256).tobytes())
    for mode in ("P", "RGB", "RGBA"):
        picture.convert(mode).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png", PALETTE), ids)
    with pytest.raises(ImageError, match="has RGBA pixels, not label ids"):
        read_label(tmp_path / "a.png")
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"has colour \[7, 7, 7\], which is none of this data set's"):
        read_label(tmp_path / "a.png", PALETTE)
    with pytest.raises(ImageError, match="its channels are equal"):
        read_label(tmp_path / "a.png")


def bmp(bits, greys, rows):
    """A BMP with a palette of a few greys."""
    stored = b""
    for row in rows[::-1]:
        line = bytes(row) if bits == 8 else bytes(a << 4 | b for a, b in zip(row[::2], row[1::2], strict=True))
        stored += line + bytes(-len(line) % 4)
    start = 54 + 4 * len(greys)
    head = b"BM" + struct.pack("<IHHI", start + len(stored), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, len(rows[0]), len(rows), 1, bits, 0, len(stored), 0, 0, len(greys), 0)
    return head + b"".join(bytes((grey, grey, grey, 0)) for grey in greys) + stored


@pytest.mark.parametrize(("bits", "greys"), [(8, [0, 255]), (4, [0, 255]), (4, range(16))])
def test_bmp_of_few_greys_is_not_misread(bits, greys):
    """Pillow takes one bit of each byte of such a file for a pixel."""
    ids = np.random.default_rng(0).integers(0, len(greys), (12, 16))
    for function in (decode_label, decode_image):
        with pytest.raises(ImageError, match=f"is a BMP of {bits} bits with a grey palette"):
            function(bmp(bits, list(greys), ids.tolist()), "a.bmp")
    np.testing.assert_array_equal(decode_label(bmp(8, list(range(16)), ids.tolist()), "a.bmp"), ids)


def test_a_tiff_of_one_huge_tile():
    data = tiff(16, 16, 8, bytes(256), t322=40_000, t323=40_000, t324=8, t325=256)
    for function in (decode_label, decode_image):
        with pytest.raises(ImageError, match="tiles that are too large"):
            function(data, "a.tif")


@pytest.mark.parametrize("tiled", [False, True])
def test_a_flipped_bit_in_a_deflated_tiff(tiled):
    ids = np.random.default_rng(0).integers(0, 18, (16, 32), dtype=np.uint8)
    stored = zlib.compress(ids.tobytes())
    others = {"t322": 32, "t323": 16, "t324": 200, "t325": len(stored)} if tiled else {}

    def file(stored):
        return tiff(32, 16, 8, stored, **{"t259": 8, **others}, offset=200)

    for function in (decode_label, decode_image):
        assert (function(file(stored), "a.tif").reshape(16, 32, -1)[..., 0] == ids).all()
    refused = 0
    for place in range(0, 8 * len(stored), 29):
        data = bytearray(stored)
        data[place // 8] ^= 1 << place % 8
        try:
            np.testing.assert_array_equal(decode_label(file(bytes(data)), "a.tif"), ids)
        except ImageError:
            refused += 1
    assert refused > len(stored) * 8 // 29 - 3
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_image(file(zlib.compress(bytes(1 << 22))), "a.tif")


def test_colours_that_mean_something(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for extension in ("png", "tif", "bmp", "ppm"):
        Image.fromarray(colours).save(tmp_path / f"a.{extension}")
        np.testing.assert_array_equal(read_label_colours(tmp_path / f"a.{extension}"), colours)
    Image.fromarray(colours).save(tmp_path / "a.jpg", quality=100)
    with pytest.raises(ImageError, match="a JPEG does not keep label ids exactly"):
        read_label_colours(tmp_path / "a.jpg")
    Image.fromarray(np.dstack([colours, colours[..., 0]])).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="transparent pixels"):
        read_label_colours(tmp_path / "a.png")
