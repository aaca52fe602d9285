"""PNG files whose structure, checksums or amount of data are wrong, and those that are sound in an unusual way."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vlseg.data import images
from vlseg.data.images import check_image, decode_image, decode_label
from vlseg.errors import ImageError

IDS = np.random.default_rng(0).integers(0, 18, (40, 50), dtype=np.uint8)


def encoded(ids=IDS, **options):
    stream = io.BytesIO()
    Image.fromarray(ids).save(stream, "PNG", **options)
    return stream.getvalue()


def chunks(data):
    """Kind and content of each chunk."""
    found, start = [], 8
    while start < len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        found.append((kind, data[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def written(parts):
    """A file of chunks; those with a third element have a wrong checksum."""
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content, *wrong in parts:
        checksum = zlib.crc32(content, zlib.crc32(kind)) ^ bool(wrong)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return data


def with_data(raw, **options):
    """`IDS` with other image data."""
    return written([(kind, raw if kind == b"IDAT" else content) for kind, content in chunks(encoded(**options))])


def scene(rng, classes=18):
    ids = np.zeros((48, 64), np.uint8)
    for _ in range(12):
        (row, column), (height, width) = rng.integers((48, 64)), rng.integers(4, 30, 2)
        ids[row : row + height, column : column + width] = rng.integers(classes)
    return ids


def flips(count):
    """How many of label maps with one flipped bit are read as other labels."""
    rng, wrong = np.random.default_rng(0), 0
    for number in range(count):
        if number % 50 == 0:
            ids = scene(rng)
            whole = encoded(ids)
        data, place = bytearray(whole), int(rng.integers(len(whole) * 8))
        data[place // 8] ^= 1 << place % 8
        try:
            found = decode_label(bytes(data), "a.png")
        except ImageError:
            continue
        wrong += found.shape != ids.shape or (found != ids).any()
    return wrong


def test_a_flipped_bit_never_gives_other_labels():
    assert flips(300) == 0


def test_a_flipped_bit_never_turns_a_photograph():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        whole = encoded(pixels, exif=exif)
        expected, read = decode_image(whole, "a.png"), 0
        for place in range(8 * len(whole)):
            data = bytearray(whole)
            data[place // 8] ^= 1 << place % 8
            try:
                found = decode_image(bytes(data), "a.png")
            except ImageError:
                continue
            np.testing.assert_array_equal(found, expected, str(place))
            read += 1
        assert read < 20


@pytest.mark.slow
def test_flipped_bits_in_1500_label_maps():
    assert flips(1500) == 0


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_what_decides_pixels(kind):
    picture = Image.fromarray(IDS).convert("P")
    picture.putpalette(bytes(range(54)))
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=b"\x00\x80\xff")
    parts = chunks(stream.getvalue())
    np.testing.assert_array_equal(decode_label(written(parts), "a.png"), IDS)
    damaged = written([(*part, True) if part[0] == kind else part for part in parts])
    for function in (decode_label, decode_image):
        with pytest.raises(ImageError, match=rf"a\.png: is damaged: wrong checksum in {kind.decode()}$"):
            function(damaged, "a.png")


@pytest.mark.parametrize("kind", [b"tEXt", b"pHYs", b"iCCP", b"eXIf", b"tIME", b"zzZz"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_wrong_checksum_of_what_does_not_is_passed_over(kind, behind):
    first, *middle, last = chunks(encoded())
    odd = (kind, b"anything", True)
    data = written([first, *middle, odd, last] if behind else [first, odd, *middle, last])
    np.testing.assert_array_equal(decode_label(data, "a.png"), IDS)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_large_texts(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1 << 16)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 4 << 16)
    text = "long " * (1 << 14)
    info = PngImagePlugin.PngInfo()
    for number in range(4 if kind == "tEXt" else 1):
        if kind == "iCCP":
            info.add(b"iCCP", b"name\0\0" + zlib.compress(text.encode()))
        elif kind == "iTXt":
            info.add_itxt("comment", text, zip=True)
        else:
            info.add_text(f"comment {number}", text, zip=kind == "zTXt")
    data = encoded(pnginfo=info)
    np.testing.assert_array_equal(decode_label(data, "a.png"), IDS)
    (tmp_path / "a.png").write_bytes(data)
    assert check_image(tmp_path / "a.png") == IDS.shape


def test_orientation_in_texts_of_exif_and_xmp():
    for kind, text in (
        ("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>'),
        ("Raw profile type exif", "\nexif\n      34\n" + (b"Exif\0\0" + _exif(6)).hex() + "\n"),
    ):
        info = PngImagePlugin.PngInfo()
        (info.add_itxt if kind.startswith("XML") else info.add_text)(kind, text)
        assert decode_image(encoded(pnginfo=info), "a.png").shape == (50, 40, 3), kind


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


RAW = b"".join(b"\0" + row.tobytes() for row in IDS)


@pytest.mark.parametrize(
    "raw",
    [
        zlib.compress(RAW[:-51]),  # a row less
        zlib.compress(RAW + RAW[:51]),
        zlib.compress(RAW)[:-1],
        zlib.compress(RAW)[:-4] + b"abcd",  # Adler-32
        zlib.compress(b""),
        b"",
        RAW,
    ],
)
def test_image_data_that_are_not_what_the_header_says(raw):
    for function in (decode_label, decode_image):
        with pytest.raises(ImageError, match=r"a\.png: is truncated or damaged"):
            function(with_data(raw), "a.png")


def test_sound_files_of_unusual_form():
    whole = chunks(encoded())
    (_, data), empty = whole[1], (b"IDAT", b"")
    many = [(b"IDAT", data[start : start + 7]) for start in range(0, len(data), 7)]
    for parts in ([whole[0], empty, *many, empty, whole[-1]], [*whole, (b"IDAT", b"behind the end")]):
        np.testing.assert_array_equal(decode_label(written(parts), "a.png"), IDS)
    np.testing.assert_array_equal(decode_label(encoded() + b"trailing", "a.png"), IDS)


@pytest.mark.parametrize("cut", ["end", "half", "text", "header"])
def test_a_truncated_file_is_told_from_its_headers(cut, tmp_path):
    data = encoded()
    length = {"end": -12, "half": len(data) // 2, "text": -5, "header": 30}[cut]
    (tmp_path / "a.png").write_bytes(data[:length])
    for function in (check_image, images.read_label):
        with pytest.raises(ImageError, match=r"a\.png: is (truncated|damaged|not an image)"):
            function(tmp_path / "a.png")


@pytest.mark.parametrize(
    "header",
    [
        (50, 40, 3, 0, 0, 0, 0),
        (50, 40, 16, 3, 0, 0, 0),
        (50, 40, 8, 1, 0, 0, 0),
        (50, 40, 8, 0, 1, 0, 0),
        (50, 40, 8, 0, 0, 1, 0),
        (50, 40, 8, 0, 0, 0, 2),
        (0, 40, 8, 0, 0, 0, 0),
    ],
)
def test_headers_that_no_file_has(header):
    data = written([(b"IHDR", struct.pack(">IIBBBBB", *header)), *chunks(encoded())[1:]])
    with pytest.raises(ImageError, match="is not an image, or is damaged"):
        decode_label(data, "a.png")


def test_parts_in_a_wrong_order_or_unknown():
    header, data, end = chunks(encoded())
    for parts in ([data, header, end], [header, header, data, end], [header, (b"ABCD", b""), data, end], [header, end]):
        with pytest.raises(ImageError, match="damaged"):
            decode_label(written(parts), "a.png")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_interlaced(depth):
    ids = np.random.default_rng(1).integers(0, min(2**depth, 200), (11, 13))
    raw = b""
    for left, top, across, down in images.png._PASSES:
        part = ids[top::down, left::across]
        for row in part if part.size else ():
            bits = "".join(f"{value:0{depth}b}" for value in row)
            raw += b"\0" + int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    header = struct.pack(">IIBBBBB", 13, 11, depth, 0, 0, 0, 1)
    data = written([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])
    np.testing.assert_array_equal(decode_label(data, "a.png"), ids)
    with pytest.raises(ImageError, match="less image data"):
        decode_label(written([(b"IHDR", header), (b"IDAT", zlib.compress(raw[:-2])), (b"IEND", b"")]), "a.png")


def test_animations_are_pictures_and_no_labels():
    frames = [Image.fromarray(IDS), Image.fromarray(IDS + 1)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(stream.getvalue(), "a.png")[..., 0], IDS)
    with pytest.raises(ImageError, match="several pictures"):
        decode_label(stream.getvalue(), "a.png")


def test_the_size_is_checked_before_anything_is_unpacked():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = written([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")])
    with pytest.raises(ImageError, match="is too large"):
        decode_label(data, "a.png")
