"""Label maps beside photographs that EXIF turns: they end up as their photographs are shown, or are asked for."""

import json

import numpy as np
import pytest
from PIL import Image

from vlseg.data.examples import Pair, PairDataset
from vlseg.data.formats import prepared
from vlseg.data.images import read_label, read_picture, read_shape
from vlseg.data.orientation import upright
from vlseg.data.sources import open_dataset, open_section
from vlseg.errors import ConfigError, DatasetError

ORIENTATION = 0x0112


def exif(orientation):
    found = Image.Exif()
    found[ORIENTATION] = orientation
    return found


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of one photograph of a size with an EXIF orientation, and a label map; returns its path."""

    def write(raw_size, orientation, label, extension="png", **options):
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (*raw_size, 3), dtype=np.uint8)
        options = {"lossless": True} if extension == "webp" else {}
        Image.fromarray(pixels).save(tmp_path / f"images/a.{extension}", exif=exif(orientation), **options)
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / "labels/a.png")
        (tmp_path / "names.txt").write_text("\n".join(f"class {number}" for number in range(200)))
        return tmp_path

    return write


def ids(height, width):
    return np.arange(height * width).reshape(height, width) % 200


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_the_size_tells_what_a_label_was_made_of(folder, orientation, extension):
    raw = ids(10, 14)
    for rule in ({}, {"label_orientation": "raw"}, {"label_orientation": "turned"}):
        (example,) = open_dataset(str(folder((10, 14), orientation, raw, extension)), **rule)
        np.testing.assert_array_equal(example.label, upright(raw, orientation))
        assert example.label.shape == example.image.shape[:2] == (14, 10)
        (example,) = open_dataset(str(folder((10, 14), orientation, ids(14, 10), extension)), **rule)
        np.testing.assert_array_equal(example.label, ids(14, 10))


@pytest.mark.parametrize(("size", "orientation"), [((10, 14), 2), ((10, 14), 3), ((10, 14), 4), ((12, 12), 6)])
def test_where_both_sizes_agree_it_is_asked_for(folder, size, orientation):
    root = folder(size, orientation, ids(*size))
    with pytest.raises(
        DatasetError, match=rf"a\.png: EXIF .*\(orientation {orientation}\).*label_orientation"
    ) as error:
        open_dataset(str(root))[0]
    assert "\n" not in str(error.value)
    (turned,) = open_dataset(str(root), label_orientation="turned")
    np.testing.assert_array_equal(turned.label, ids(*size))
    (raw,) = open_dataset(str(root), label_orientation="raw")
    np.testing.assert_array_equal(raw.label, upright(ids(*size), orientation))
    with pytest.raises(ConfigError, match="label_orientation 'up' is neither"):
        open_dataset(str(root), label_orientation="up")


@pytest.mark.parametrize("size", [(10, 14), (12, 12)])
def test_an_upright_photograph_asks_for_nothing(folder, size):
    (example,) = open_dataset(str(folder(size, 1, ids(*size))))
    np.testing.assert_array_equal(example.label, ids(*size))


def test_another_size_is_an_error_as_ever(folder):
    with pytest.raises(DatasetError, match=r"a\.png: is 10 x 12 pixels, but its picture 10 x 14"):
        open_dataset(str(folder((10, 14), 6, ids(12, 10))))[0]


@pytest.mark.parametrize("size", [(10, 14), (12, 12)])
def test_exif_of_the_label_itself_decides(folder, size):
    root = folder(size, 6, ids(*size))
    Image.fromarray(ids(*size).astype(np.uint8)).save(root / "labels/a.png", exif=exif(6))
    (example,) = open_dataset(str(root))
    np.testing.assert_array_equal(example.label, upright(ids(*size), 6))
    np.testing.assert_array_equal(example.label, read_label(root / "labels/a.png"))


def test_what_was_prepared_asks_for_nothing(folder, tmp_path):
    dataset = open_dataset(str(folder((12, 12), 6, ids(12, 12))), label_orientation="raw")
    prepared.write(dataset, tmp_path / "prepared")
    (example,) = open_dataset(str(tmp_path / "prepared"))
    np.testing.assert_array_equal(example.label, upright(ids(12, 12), 6))
    np.testing.assert_array_equal(example.image, dataset[0].image)


def test_the_header_alone_says_the_same(folder):
    for orientation in range(1, 9):
        root = folder((10, 14), orientation, ids(10, 14), "jpg")
        picture = read_picture(root / "images/a.jpg")
        assert read_shape(root / "images/a.jpg") == picture.shape == (*picture.pixels.shape[:2], orientation)
        dataset = open_dataset(str(root), label_orientation="raw")
        np.testing.assert_array_equal(dataset.label(0), dataset[0].label)


def test_a_label_that_is_no_picture(folder):
    """A reader of other files says itself what its labels are; their sizes count the same."""
    root = folder((10, 14), 6, ids(10, 14))
    pair = Pair(root / "images/a.png", root / "names.txt", "a")
    dataset = PairDataset(("a",), (pair,), lambda _: ids(10, 14).astype(np.int32), 255)
    np.testing.assert_array_equal(dataset[0].label, upright(ids(10, 14), 6))


def test_annotations_of_photographs_as_files_store_them(tmp_path):
    """The size that annotations say tells; where both agree it is asked for."""
    corner = {"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]], "id": 1}
    for raw, said, rule, turned in (
        ((10, 14), (10, 14), "", True),
        ((10, 14), (14, 10), "", False),
        ((12, 12), (12, 12), "raw", True),
        ((12, 12), (12, 12), "turned", False),
    ):
        Image.new("RGB", raw[::-1]).save(tmp_path / "a.jpg", exif=exif(6))
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": said[0], "width": said[1]}],
            "annotations": [corner],
            "categories": [{"id": 7, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        source = f"coco:{tmp_path}/a.json:{tmp_path}"
        if rule:
            with pytest.raises(DatasetError, match="label_orientation"):
                open_dataset(source)[0]
            section = {"folder": {"label_orientation": rule}}
            again = open_dataset(source, label_orientation=rule)[0].label
            np.testing.assert_array_equal(open_section(source, section)[0].label, again)
        dataset = open_dataset(source, **({"label_orientation": rule} if rule else {}))
        expected = np.full(said, dataset.ignore_label)
        expected[:3, :4] = 0
        np.testing.assert_array_equal(dataset[0].label, upright(expected, 6) if turned else expected)
        np.testing.assert_array_equal(dataset.label(0), dataset[0].label)
