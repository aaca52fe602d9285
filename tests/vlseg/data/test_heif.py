"""HEIC and AVIF: read by what is installed, and named where nothing is."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from vlseg.data import heif
from vlseg.data.images import check_image, read_image, read_label
from vlseg.errors import ImageError

HEIC = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic"
AVIF = (24).to_bytes(4, "big") + b"ftypmif1" + bytes(4) + b"mif1avif"


class Toy(ImageFile.ImageFile):
    """In place of HEIC: behind the head stand raw pixels of 16 x 8."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size = "RGB", (16, 8)
        self.tile = [ImageFile._Tile("raw", (0, 0, 16, 8), len(HEIC), "RGB")]


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


@pytest.fixture
def installed(monkeypatch):
    """A package that registers `Toy`."""
    for table in (Image.OPEN, Image.ID):
        before = table.copy()
        monkeypatch.setattr(Image, "OPEN" if table is Image.OPEN else "ID", before)
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: Image.register_open("HEIF", Toy, lambda head: head[4:8] == b"ftyp")
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (HEIC, "HEIC"),
        (AVIF, "AVIF"),
        ((16).to_bytes(4, "big") + b"ftypmif1" + bytes(4), "HEIC"),
        ((16).to_bytes(4, "big") + b"ftypisom" + bytes(4), ""),
        (b"\xff\xd8\xff\xe0", ""),
        (b"", ""),
    ],
)
def test_kinds_are_told_by_content(head, kind):
    assert heif.kind(head) == kind


def test_what_is_missing_is_named(tmp_path, without, monkeypatch):
    monkeypatch.setattr(heif, "_pillow_reads_avif", lambda: False)
    for content, name, remedy in (
        (HEIC, "HEIC", "pip install pillow-heif"),
        (AVIF, "AVIF", "pip install --upgrade pillow"),
    ):
        path = tmp_path / "a.jpg"  # whatever it is called
        path.write_bytes(content + bytes(400))
        for function in (read_image, check_image, read_label):
            with pytest.raises(ImageError, match=rf"a\.jpg: is {name}: {remedy}"):
                function(path)


def test_folders_are_searched_for_what_can_be_read(without, monkeypatch):
    assert ".heic" not in heif.extensions() and ".heif" not in heif.extensions()
    monkeypatch.setattr(heif, "_pillow_reads_avif", lambda: False)
    assert heif.extensions() == ()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pillow_heif")
    assert heif.extensions() == (".heic", ".heif")


def test_heic_is_read_where_the_package_is(tmp_path, installed):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    (tmp_path / "a.heic").write_bytes(HEIC + pixels.tobytes())
    assert check_image(tmp_path / "a.heic") == (8, 16)
    np.testing.assert_array_equal(read_image(tmp_path / "a.heic"), pixels)
    np.testing.assert_array_equal(read_image((tmp_path / "a.heic").read_bytes()), pixels)
    with pytest.raises(ImageError, match="a HEIC does not keep label ids exactly"):
        read_label(tmp_path / "a.heic")


@pytest.mark.skipif("avif" not in features.get_supported_modules(), reason="this Pillow does not read AVIF")
def test_avif_is_read_by_pillow(tmp_path, without):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (250, 10, 10)).save(stream, "AVIF", exif=exif)
    (tmp_path / "a.avif").write_bytes(stream.getvalue())
    found = read_image(tmp_path / "a.avif")
    assert check_image(tmp_path / "a.avif") == found.shape[:2] == (24, 16)
    assert np.abs(found.astype(int) - (250, 10, 10)).max() < 6
    with pytest.raises(ImageError, match="an AVIF does not keep label ids exactly"):
        read_label(tmp_path / "a.avif")
