"""What a segmentation gives: shares, masks, pictures, and COCO's annotations as pycocotools reads them."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from vlseg import coco_masks
from vlseg.labels import NONE
from vlseg.scores import Scores
from vlseg.segmentation import Segmentation

LABELS = ("dress", "hair", "hat", NONE)
MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


class Given(Scores):
    def __init__(self, probabilities):
        self._probabilities = probabilities

    def probabilities(self):
        return self._probabilities


@pytest.fixture
def segmentation():
    label_map = np.zeros((40, 30), np.int32)
    label_map[5:20, 3:9], label_map[7, 5], label_map[30:, 10:] = 1, 0, 3
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), (40, 30)).astype(np.float32)
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    return Segmentation(label_map, LABELS, label_map[..., None], np.ones((40, 30, 1)), image, Given(probabilities))


def drawn(outlines, mask):
    return coco.decode(coco.merge(coco.frPyObjects(outlines, *mask.shape))).astype(bool)


@given(MASKS)
def test_run_lengths_are_those_of_pycocotools(mask):
    found = coco_masks.run_lengths(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert found == {"size": list(mask.shape), "counts": expected["counts"].decode()}


def test_long_runs():
    mask = np.zeros((3000, 70), bool)
    mask[5:2900, 3:60], mask[10:2000, 5:7] = True, False
    assert (
        coco_masks.run_lengths(mask)["counts"]
        == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    )
    np.testing.assert_array_equal(drawn(coco_masks.polygons(mask), mask), mask)


@given(MASKS.filter(np.any))
def test_polygons_are_drawn_to_the_pixel(mask):
    np.testing.assert_array_equal(drawn(coco_masks.polygons(mask), mask), mask)


def test_outlines_of_parts_and_holes():
    rows = ["11100", "10101", "11100", "00010"]
    mask = np.array([[pixel == "1" for pixel in row] for row in rows])
    found = coco_masks.polygons(mask)
    assert [4.0, 1.0, 5.0, 1.0, 5.0, 2.0, 4.0, 2.0] in found  # a pixel
    assert [3.0, 3.0, 4.0, 3.0, 4.0, 4.0, 3.0, 4.0] in found  # one that touches at a corner is a part of its own
    ring = [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]
    assert [float(side) for corner in ring for side in corner] in found and len(found) == 3
    assert coco_masks.polygons(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_reads_equal_masks(segmentation, tmp_path, polygons):
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(segmentation.to_coco(7, "photo.jpg", polygons=polygons)))
    read = COCO(str(file))
    assert read.loadImgs(7)[0] == {"id": 7, "file_name": "photo.jpg", "height": 40, "width": 30}
    names = {category["id"]: category["name"] for category in read.loadCats(read.getCatIds())}
    assert names == {1: "dress", 2: "hair", 3: "hat"}
    masks = segmentation.masks()
    annotations = read.loadAnns(read.getAnnIds(imgIds=7))
    assert [annotation["category_id"] for annotation in annotations] == [1, 2]
    for annotation in annotations:
        mask = masks[names[annotation["category_id"]]]
        np.testing.assert_array_equal(read.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco.toBbox(coco.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist()


def test_shares_masks_and_confidence(segmentation):
    shares, masks = segmentation.shares(), segmentation.masks()
    assert list(shares) == list(masks) == list(LABELS)
    for label, mask in masks.items():
        assert mask.dtype == bool and mask.mean() == pytest.approx(shares[label])
    assert shares["hat"] == 0 and sum(shares.values()) == pytest.approx(1)
    np.testing.assert_array_equal(segmentation.confidence(), segmentation.probabilities.max(axis=-1))


def test_pixels_without_a_label_have_no_share(segmentation):
    segmentation.label_map[0, 0] = -1
    assert sum(segmentation.shares().values()) == pytest.approx(1 - 1 / 1200)


def test_it_shows_itself(segmentation):
    assert repr(segmentation) == "Segmentation(30 x 40 pixels: dress 76 %, none of these 17 %, hair 7 %)"
    picture = Image.open(io.BytesIO(segmentation._repr_png_()))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(segmentation.overlay()))
    many = Segmentation(
        *(np.arange(8, dtype=np.int32)[None], tuple("abcdefghi"), segmentation.top_labels),
        *(segmentation.top_similarities, segmentation.image, segmentation.scores),
    )
    assert repr(many).endswith("a 12 %, b 12 %, c 12 %, d 12 %, e 12 %, 3 more)")
