"""Pictures as people have them: taken, or refused by name."""

import io

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from vlseg.data import arrays
from vlseg.data.arrays import is_batch, is_picture, plain, several
from vlseg.data.images import check_images, read_image
from vlseg.errors import ImageError
from vlseg.nn.inputs import check_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def read(value):
    return read_image(plain(value))


class Tensor:
    """PyTorch's manners: no array before it is detached, brought to the host and, in bfloat16, converted."""

    def __init__(self, array, steps=("detach", "cpu")):
        self.array, self.steps, self.shape = array, steps, array.shape

    @property
    def dtype(self):
        return f"torch.{self.array.dtype.name}"

    def _without(self, step):
        return Tensor(self.array, tuple(other for other in self.steps if other != step))

    def detach(self):
        return self._without("detach")

    def cpu(self):
        return self._without("cpu")

    def float(self):
        return Tensor(self.array.astype(np.float32), self.steps)

    def __array__(self, dtype=None, copy=None):
        if self.steps or self.array.dtype.name == "bfloat16":
            raise TypeError("not yet")
        return self.array


class EagerTensor:
    """TensorFlow's."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self.array


def png(pixels=PIXELS):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")  # the stream stands at its end
    return stream


FLOATS = (PIXELS / 255).astype(np.float32)


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        np.asfortranarray(PIXELS),
        np.dstack([PIXELS, GREY]),
        PIXELS.astype(np.int64),
        PIXELS.astype(np.uint32),
        FLOATS,
        FLOATS.astype(np.float64),
        FLOATS.transpose(2, 0, 1),
        jnp.asarray(PIXELS),
        jnp.asarray(FLOATS),
        Tensor(PIXELS),
        Tensor(FLOATS.transpose(2, 0, 1)),
        EagerTensor(PIXELS),
        EagerTensor(FLOATS),
        png(),
        png().getvalue(),
        bytearray(png().getvalue()),
        memoryview(png().getvalue()),
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_taken(value):
    assert is_picture(value) and not is_batch(value)
    np.testing.assert_array_equal(read(value), PIXELS)


@pytest.mark.parametrize("value", [GREY, GREY[..., None], GREY[None], GREY / 255, Tensor(GREY), Image.fromarray(GREY)])
def test_grey(value):
    np.testing.assert_array_equal(read(value), np.stack([GREY] * 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_short_floats(dtype):
    for value in (FLOATS.astype(dtype), jnp.asarray(FLOATS, dtype), Tensor(FLOATS.astype(dtype))):
        assert np.abs(read(value).astype(int) - PIXELS).max() <= 1


def test_files_that_are_open(tmp_path):
    (tmp_path / "a.png").write_bytes(png().getvalue())
    with open(tmp_path / "a.png", "rb") as file:
        np.testing.assert_array_equal(read(file), PIXELS)
        np.testing.assert_array_equal(read(file), PIXELS)
    with pytest.raises(ImageError, match="a BufferedReader cannot be read"):
        read(file)
    with open(tmp_path / "a.png", encoding="latin-1") as text, pytest.raises(ImageError, match="in binary mode"):
        read(text)
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(ImageError, match=r"a\.png: its file was closed before its pixels were read"):
        read(image)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (PIXELS.astype(np.float32), r"float32 has values from .* floats must be in \[0, 1\]"),
        (FLOATS * 2 - 1, r"float32 has values from -.* floats must be in \[0, 1\]"),
        (np.where(FLOATS > 0.5, np.nan, FLOATS), "float32 has values from nan"),
        (np.where(FLOATS > 0.5, np.inf, FLOATS), "float32 has values from .* to inf"),
        (PIXELS.astype(np.int64) + 1, r"int64 has values from .* to 256: integers must be in \[0, 255\]"),
        (PIXELS.astype(np.int8), "int8 has values from -"),
        (PIXELS.astype(np.uint16), "an array of uint16 is no picture"),
        (PIXELS > 99, "an array of bool is no picture"),
        (PIXELS.astype(complex), "an array of complex128 is no picture"),
        (PIXELS.astype(object), "an array of object is no picture"),
        (PIXELS.astype(str), "an array of str"),
        (PIXELS[:, :, :2], r"\[9, 12, 2\] is no picture"),
        (np.zeros((9, 12, 5), np.uint8), r"\[9, 12, 5\] is no picture"),
        (np.zeros((3, 9, 3), np.uint8), r"\[3, 9, 3\] may be \[H, W, C\] or \[C, H, W\]"),
        (np.zeros(9, np.uint8), r"\[9\] is no picture"),
        (np.zeros((2, 9, 12, 3), np.uint8), r"\[2, 9, 12, 3\] is no picture"),
        (np.zeros((0, 12, 3), np.uint8), "12 x 0 is a picture without pixels"),
        (np.uint8(3), r"\[\] is no picture"),
        (None, "a NoneType is no picture"),
        (7, "a int is no picture"),
        ({"bytes": b""}, "a dict is no picture"),
        ([PIXELS.tolist()], "a list is no picture"),
        (b"", "is an empty file"),
        (b"text", "is not an image"),
    ],
)
def test_what_is_refused_by_name(value, problem):
    with pytest.raises(ImageError, match=problem) as error:
        read(value)
    assert "\n" not in str(error.value)


def test_what_has_no_values():
    def traced(array):
        with pytest.raises(ImageError, match="Tracer has no pixels to read"):
            read(array)
        return array

    jax.make_jaxpr(traced)(PIXELS)


class Shapeless:
    """As PyTorch's nested tensors, which have a property `shape` that raises."""

    dtype = "float32"

    @property
    def shape(self):
        raise RuntimeError("no sizes")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no values\nin many lines")


class Symbolic:
    """As Keras's inputs: a batch without values, which cannot be gone through either."""

    shape, dtype = (None, 9, 12, 3), "float32"

    __array__ = Shapeless.__array__

    def __iter__(self):
        raise NotImplementedError


def test_arrays_of_other_libraries_without_plain_values():
    assert is_picture(Shapeless())
    with pytest.raises(ImageError, match="a Shapeless has no pixels to read: give a dense array with values"):
        read(Shapeless())
    with pytest.raises(ImageError, match="a Symbolic has no pixels"):
        list(several(Symbolic()))


def test_batches():
    for batch in (PIXELS[None], jnp.asarray(PIXELS[None]), Tensor(PIXELS[None])):
        assert is_batch(batch) and not is_picture(batch)


# What networks take


def test_range_of_what_networks_take():
    images = PIXELS[None] / np.float32(127.5) - 1
    for fits in (images, PIXELS[None], images.astype(np.float16), np.full((1, 8, 8, 3), 1.001, np.float32)):
        assert check_pixels(jnp.asarray(fits), (-1.0,), (1.0,)).shape == fits.shape
    for wrong in (images * 127.5, images + 0.5, np.where(images > 0, np.nan, images)):
        with pytest.raises(ImageError, match=r"images have values from .*; floats must be normalised, from -1 to 1"):
            check_pixels(jnp.asarray(wrong), (-1.0,), (1.0,))
    with pytest.raises(ImageError, match="dtype int32 are neither"):
        check_pixels(jnp.asarray(PIXELS[None], jnp.int32), (-1.0,), (1.0,))
    with pytest.raises(ImageError, match=r"shape \[9, 12, 3\] are not"):
        check_pixels(jnp.asarray(PIXELS), (-1.0,), (1.0,))
    low, high = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
    channels = np.broadcast_to(np.float32(high), (1, 8, 8, 3))
    assert check_pixels(jnp.asarray(channels), low, high) is not None
    with pytest.raises(ImageError, match=r"from -2\.1 to 2\.6"):
        check_pixels(jnp.asarray(channels[..., ::-1]), low, high)
    # Inside a compiled function there are no values to look at.
    jax.make_jaxpr(lambda images: check_pixels(images, (-1.0,), (1.0,)))(images * 127.5)


# Many files at a time


def test_many_headers(tmp_path):
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.png")
        if number % 10 != 3:
            Image.new("L", (10 + number, 9)).save(paths[-1])
    found = check_images(paths)
    assert [size if isinstance(size, tuple) else str(size) for size in found] == [
        f"{path}: no such file" if number % 10 == 3 else (9, 10 + number) for number, path in enumerate(paths)
    ]
    assert check_images([]) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 9, 3), (4, 3, 3)])
def test_pixels_that_are_known_to_be_such(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with pytest.raises(ImageError, match="may be"):
        arrays.plain(pixels)
    found = arrays.plain(pixels.view(arrays.Pixels))
    np.testing.assert_array_equal(found, pixels)
    assert type(found) is np.ndarray
