"""Label maps without the pixels of their pictures: the same as of whole examples, also where a picture is damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from vlseg.data.examples import Encoded, Example, First, RecordDataset, label_of
from vlseg.data.formats import prepared
from vlseg.data.sources import open_dataset
from vlseg.errors import DatasetError, ImageError

NAMES = ("cat", "grass", "dog")


def picture(number, orientation=1, size=(80, 120)):
    """The content of a photograph of `size` as it is stored, shown upright or turned."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def ids(number):
    return np.random.default_rng(number).integers(0, 3, (80, 120)).astype(np.uint8)


def half(content):
    """A file whose header is sound and whose pixels are not all there."""
    return content[: len(content) // 2]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(3):
        (root / f"images/{number}.jpg").write_bytes(picture(number))
        Image.fromarray(ids(number)).save(root / f"labels/{number}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    return root


def records(*contents):
    """Pictures in records, with labels `ids` of their numbers."""
    return RecordDataset(
        names=NAMES,
        ignore_label=255,
        records=contents,
        unpack=lambda record, index: Encoded(record, index, f"record {index}"),
        decode=lambda label, name: ids(label).astype(np.int32),
        label_orientation="raw",
    )


def test_of_files_and_records_they_are_those_of_the_examples(folder, tmp_path):
    dataset = open_dataset(str(folder))
    prepared.write(dataset, tmp_path / "prepared")
    turned = records(*(picture(number, orientation) for number, orientation in enumerate((1, 3, 6))))
    for found in (dataset, First(dataset, 2), open_dataset(str(tmp_path / "prepared")), turned):
        for index, example in enumerate(found):
            label = label_of(found, index)
            assert label.dtype == np.int32 and label.shape == example.image.shape[:2]
            np.testing.assert_array_equal(label, example.label)
    with pytest.raises(IndexError):
        label_of(First(dataset, 2), 2)


def test_pixels_of_the_picture_are_not_needed(folder):
    path = folder / "images/1.jpg"
    path.write_bytes(half(path.read_bytes()))
    for damaged in (open_dataset(str(folder)), First(open_dataset(str(folder)), 2), records(b"", half(picture(1)))):
        with pytest.raises(ImageError):
            damaged[1]
        np.testing.assert_array_equal(label_of(damaged, 1), ids(1))


def test_what_does_not_fit_is_refused_all_the_same(folder):
    Image.fromarray(ids(0)[:70]).save(folder / "labels/0.png")
    with pytest.raises(DatasetError, match=r"0\.png: is 120 x 70 pixels, but its picture 120 x 80"):
        label_of(open_dataset(str(folder)), 0)
    with pytest.raises(DatasetError, match="record 0: is 120 x 80 pixels, but its picture 40 x 30"):
        label_of(records(half(picture(0, size=(30, 40)))), 0)
    with pytest.raises(ImageError, match="record 0: is not an image"):
        label_of(records(b"nothing of a picture"), 0)


def test_a_data_set_without_them_is_read_whole():
    examples = [Example(np.zeros((80, 120, 3), np.uint8), ids(number).astype(np.int32), "") for number in range(2)]
    np.testing.assert_array_equal(label_of(examples, 1), ids(1))
