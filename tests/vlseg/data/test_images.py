import math
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vlseg.data import images
from vlseg.data.images import (
    check_image,
    read_image,
    read_label,
    rescaled_size,
    resize_image,
    resize_nearest,
    resize_window,
)
from vlseg.errors import ImageError

ORIENTATION = 0x0112


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def one_line(error):
    return "\n" not in str(error.value)


# Reading pictures


def test_path_pil_and_array_agree(tmp_path):
    pixels = noise(10, 14)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    for source in (path, str(path), Image.open(path), Image.fromarray(pixels), pixels):
        result = read_image(source)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "tif", "webp"])
def test_lossless_formats(tmp_path, extension):
    pixels = noise(12, 9)
    options = {"lossless": True} if extension == "webp" else {}
    np.testing.assert_array_equal(
        read_image(save(tmp_path / f"a.{extension}", Image.fromarray(pixels), **options)), pixels
    )


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_comes_out_upright(tmp_path, extension, orientation):
    # Four flat quadrants survive JPEG well enough to tell the eight orientations apart.
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = next(
        candidate
        for method in [None, *Image.Transpose]
        for candidate in [Image.fromarray(upright) if method is None else Image.fromarray(upright).transpose(method)]
        if np.array_equal(_transposed_by_pillow(candidate, exif), upright)
    )
    path = save(tmp_path / f"a.{extension}", stored, exif=exif)
    result = read_image(path)
    assert result.shape == upright.shape
    assert (
        np.abs(result[[4, 4, 28, 28], [4, 44, 4, 44]].astype(int) - upright[[4, 4, 28, 28], [4, 44, 4, 44]]).max() < 9
    )
    assert check_image(path) == (32, 48)
    np.testing.assert_array_equal(read_image(Image.open(path)), result)


def _transposed_by_pillow(image, exif):
    copy = image.copy()
    copy.info["exif"] = exif.tobytes()
    return np.asarray(ImageOps.exif_transpose(copy))


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    pixels = noise(10, 20)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = save(tmp_path / "front.png", Image.fromarray(pixels), exif=exif).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    chunk, rest = data[start:end], data[:start] + data[end:]
    iend = rest.index(b"IEND") - 4
    (tmp_path / "behind.png").write_bytes(rest[:iend] + chunk + rest[iend:])
    assert check_image(tmp_path / "behind.png") == read_image(tmp_path / "behind.png").shape[:2] == (20, 10)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b""])
def test_damaged_exif_is_not_in_the_way(tmp_path, exif):
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(10, 14)), exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (10, 14, 3)
        assert check_image(path) == (10, 14)


def test_grey_and_alpha(tmp_path):
    grey = noise(9, 11, 1)[..., 0]
    three = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "l.png", Image.fromarray(grey))), three)
    np.testing.assert_array_equal(read_image(grey), three)
    for mode in ("LA", "RGBA"):
        picture = Image.fromarray(grey).convert(mode)
        picture.putalpha(0)
        np.testing.assert_array_equal(read_image(save(tmp_path / f"{mode}.png", picture)), three)
    four = noise(9, 11, 4)
    np.testing.assert_array_equal(read_image(four), four[..., :3])
    assert read_image(four).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette(tmp_path, transparency):
    indices = np.tile(np.arange(3, dtype=np.uint8), (8, 4))
    picture = Image.fromarray(indices).convert("P")
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 7]], np.uint8)
    picture.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = save(tmp_path / "p.png", picture, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(path), colours[indices])


def test_one_bit(tmp_path):
    bits = noise(8, 8, 1)[..., 0] > 127
    path = save(tmp_path / "b.png", Image.fromarray(bits))
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(read_image(path)[..., 1], bits * 255)


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, extension):
    levels = np.linspace(0, 65535, 80).astype(np.uint16).reshape(8, 10)
    result = read_image(save(tmp_path / f"a.{extension}", Image.fromarray(levels)))
    np.testing.assert_array_equal(result[..., 0], np.rint(levels / 257))
    assert result.max() == 255
    assert (result[..., 0] == result[..., 2]).all()


def test_big_endian_sixteen_bits(tmp_path):
    levels = np.arange(80).reshape(8, 10) * 800
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 10 8 65535\n" + levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(path)[..., 0], np.rint(levels / 257))


def test_cmyk(tmp_path):
    pixels = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(pixels).convert("CMYK"), quality=100, subsampling=0)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(read_image(path).astype(int) - pixels).max() <= 6


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, extension):
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue", "lime")]
    path = save(tmp_path / f"a.{extension}", frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(read_image(path).astype(int) - (255, 0, 0)).max() < 6


# Files and arrays that are no pictures


def test_missing_directory_and_empty(tmp_path):
    (tmp_path / "empty.png").touch()
    for path, problem in [("no.png", "no such file"), (".", "is a directory"), ("empty.png", "is an empty file")]:
        for function in (read_image, read_label, check_image):
            with pytest.raises(ImageError, match=problem) as error:
                function(tmp_path / path)
            assert one_line(error)
            assert str(tmp_path / path) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n" * 9, b"\x89PNG\r\n\x1a\n" + b"\x00" * 99, b"\xff\xd8\xff"]
)
def test_not_an_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for function in (read_image, read_label, check_image):
        with pytest.raises(ImageError, match=r"a\.png: is not an image, or is damaged") as error:
            function(path)
        assert one_line(error)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "tif", "webp", "ppm", "gif"])
def test_truncated(tmp_path, extension):
    path = save(tmp_path / f"a.{extension}", Image.fromarray(noise(64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.\w+: is (truncated or damaged|not an image, or is damaged)") as error:
        read_image(path)
    assert one_line(error)


def test_truncated_pixels_pass_the_header_check(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(64, 48)))
    path.write_bytes(path.read_bytes()[:-500])
    assert check_image(path) == (64, 48)
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (2000, 3)])
def test_the_smallest(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    assert check_image(path) == size[::-1]
    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(read_image(Image.open(path)), pixels)


@pytest.mark.parametrize("size", [(10_001, 10_000), (12_000, 12_000), (20_000, 20_000), (60_000, 60_000)])
def test_too_large_is_seen_in_the_header_without_a_warning(tmp_path, size):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 %d %d 255\n" % size)  # decoding would fail: there are no pixels
    for function in (read_image, read_label, check_image):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ImageError, match=r"a\.ppm: is too large; at most 100,000,000 pixels") as error:
                function(path)
        assert one_line(error)


def test_largest_size_passes_without_a_warning(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 10000 10000 255\n")  # more than Pillow takes without a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_image(path) == (10_000, 10_000)


def test_large_pil_image_and_array_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    for source in (Image.new("L", (10, 11)), np.zeros((10, 11), np.uint8)):
        with pytest.raises(ImageError, match="too large"):
            read_image(source)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9, 3), np.float32),
        np.zeros((9, 9, 3), np.int64),
        np.zeros((9, 9, 2), np.uint8),
        np.zeros((9,), np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
        np.zeros((9, 9), bool),
    ],
)
def test_wrong_arrays(array):
    with pytest.raises(ImageError, match=r"must be uint8 \[H, W\], \[H, W, 3\] or \[H, W, 4\], not"):
        read_image(array)


def test_floating_point_and_32_bit_pixels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="floating point"):
        read_image(save(tmp_path / "f.tif", Image.fromarray(np.ones((9, 9), np.float32))))
    with pytest.raises(ImageError, match="32-bit"):
        read_image(save(tmp_path / "i.tif", Image.fromarray(np.full((9, 9), 70_000, np.int32))))
    # Levels of 8 bits would come out black.
    for dark in (
        save(tmp_path / "i.tif", Image.fromarray(np.full((9, 9), 200, np.int32))),
        Image.new("I", (9, 9), 255),
    ):
        with pytest.raises(ImageError, match="32-bit pixels of unknown range, up to 2"):
            read_image(dark)


def test_a_file_that_cannot_be_read_on():
    """Its first byte is at an address that no process has."""
    with pytest.raises(ImageError, match=r"mem: cannot be read: Input/output error"):
        read_image("/proc/self/mem")


# Label maps


def test_palette_label_gives_indices(tmp_path):
    ids = noise(9, 13, 1)[..., 0]
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette(noise(1, 256).tobytes())
    label = read_label(save(tmp_path / "a.png", picture))
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, ids)


def test_grey_labels(tmp_path):
    eight = noise(9, 13, 1)[..., 0]
    np.testing.assert_array_equal(read_label(save(tmp_path / "8.png", Image.fromarray(eight))), eight)
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_label(save(tmp_path / "16.png", Image.fromarray(sixteen))), sixteen)
    one = eight > 100
    np.testing.assert_array_equal(read_label(save(tmp_path / "1.png", Image.fromarray(one))), one)


def test_colour_and_lossy_labels_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png: has RGB pixels, not label ids"):
        read_label(save(tmp_path / "a.png", Image.fromarray(noise(9, 9))))
    with pytest.raises(ImageError, match="JPEG does not keep label ids"):
        read_label(save(tmp_path / "a.jpg", Image.fromarray(noise(9, 9)[..., 0])))


def test_label_turns_with_its_picture(tmp_path):
    pixels = noise(9, 13)
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    image = read_image(save(tmp_path / "i.png", Image.fromarray(pixels), exif=exif))
    label = read_label(save(tmp_path / "l.png", Image.fromarray(pixels[..., 0]), exif=exif))
    assert label.shape == (13, 9)
    np.testing.assert_array_equal(label, image[..., 0])


# Finding pictures


# Sizes and resizing


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (512, 683)),
        ((640, 480), (683, 512)),
        ((512, 512), (512, 512)),
        ((100, 1000), (205, 2048)),
        ((8, 40000), (1, 2048)),
    ],
)
def test_rescaled_size(size, expected):
    assert rescaled_size(*size) == expected


@given(st.integers(8, 5000), st.integers(8, 5000))
def test_rescaled_size_keeps_aspect_and_limits(height, width):
    h, w = rescaled_size(height, width)
    assert min(h, w) <= 512 and max(h, w) <= 2048
    assert min(h, w) == 512 or max(h, w) == 2048
    scale = min(512 / min(height, width), 2048 / max(height, width))
    assert abs(h - height * scale) <= 0.5 + 1e-9 and abs(w - width * scale) <= 0.5 + 1e-9


def test_resize_matches_opencv_on_a_literal():
    source = np.array([[0, 255, 10], [90, 7, 200]], np.uint8)
    expected = [[0, 102, 255, 108, 10], [23, 90, 193, 111, 58], [68, 68, 69, 119, 153], [90, 57, 7, 123, 200]]
    result = resize_image(np.stack([source] * 3, axis=-1), (4, 5))
    assert result.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(result[..., channel], expected)


@pytest.mark.parametrize(
    ("size", "crc"),
    [
        ((64, 91), 1520489563),
        ((20, 31), 2205269563),
        ((37, 53), 1829590387),
        ((18, 26), 2241210123),
        ((74, 106), 1792209188),
        ((11, 90), 504275483),
        ((307, 408), 1266451522),  # double precision weights would differ
    ],
)
def test_resize_matches_opencv_exactly(size, crc):
    # Checksums of cv2.resize(..., INTER_LINEAR), the same from OpenCV 4.10 and 5.0.
    i = np.arange(37 * 53 * 3, dtype=np.uint64)
    image = ((i * i * 7 + i * 13) % 256).astype(np.uint8).reshape(37, 53, 3)
    assert zlib.crc32(resize_image(image, size).tobytes()) == crc


def _bilinear(image, size):
    def axis(source, target):
        centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        first = np.minimum(np.floor(centres).astype(int), source - 2)
        return first, centres - first

    (top, down), (left, right) = (axis(s, t) for s, t in zip(image.shape, size, strict=False))
    down, right = down[:, None, None], right[:, None]
    image = image.astype(np.float64)
    rows = image[top] * (1 - down) + image[top + 1] * down
    return rows[:, left] * (1 - right) + rows[:, left + 1] * right


sides = st.integers(8, 70)


@settings(deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 99))
def test_resize_is_bilinear_within_one_level(height, width, new_height, new_width, seed):
    image = noise(height, width, seed=seed)
    result = resize_image(image, (new_height, new_width))
    assert np.abs(result - _bilinear(image, (new_height, new_width))).max() <= 1


@settings(deadline=None)
@given(st.data())
def test_resize_window_is_a_part_of_the_whole(data):
    image = noise(23, 31)
    size = data.draw(st.tuples(sides, sides))
    rows, columns = (
        slice(start := data.draw(st.integers(0, side - 1)), data.draw(st.integers(start + 1, side))) for side in size
    )
    np.testing.assert_array_equal(resize_window(image, size, rows, columns), resize_image(image, size)[rows, columns])


def test_resize_leaves_its_input_alone():
    image = noise(16, 16)
    copy = image.copy()
    same = resize_image(image, (16, 16))
    resize_image(image, (9, 33))
    np.testing.assert_array_equal(image, copy)
    np.testing.assert_array_equal(same, copy)


@given(sides, sides, sides, sides)
def test_nearest_takes_the_pixel_to_the_upper_left(height, width, new_height, new_width):
    label = np.arange(height * width, dtype=np.int32).reshape(height, width)
    rows, columns = np.divmod(resize_nearest(label, (new_height, new_width)), width)
    # Within rounding of the scale, which OpenCV does too.
    for index, source, target in ((rows[:, 0], height, new_height), (columns[0], width, new_width)):
        exact = np.arange(target) * source / target
        assert ((index <= exact) & (index > exact - 1 - 1e-9)).all()
    assert (rows == rows[:, :1]).all() and (columns == columns[:1]).all()


def test_nearest_rounds_the_scale_as_opencv():
    # Row 49 is exactly source row 4, but 49 * (1 / (98 / 8)) falls just below it.
    rows = resize_nearest(np.arange(8)[:, None], (98, 1))[:, 0]
    assert rows[49] == 3
    assert math.floor(49 * 8 / 98) == 4
    np.testing.assert_array_equal(rows[[0, 12, 13, 50, 97]], [0, 0, 1, 4, 7])
