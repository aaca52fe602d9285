"""Annotations of COCO, LabelMe and CVAT as data sets."""

import base64
import io
import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.commands import Commands
from vlseg.data.examples import PairDataset
from vlseg.data.formats import prepared
from vlseg.data.sources import kind, open_dataset, without_folders
from vlseg.errors import ConfigError, DatasetError

commands = Commands("vlseg.data")

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
SIZE = (12, 16)
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
LARGE = [0, 0, 10, 0, 10, 10, 0, 10]
EXPECTED = np.full(SIZE, 255)
EXPECTED[:10, :10] = 0
EXPECTED[2:8, 2:8] = 1
"""A square of class 1 on a larger one of class 0."""


def picture(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refused(source, match, error=DatasetError, **options):
    with pytest.raises(error, match=match) as caught:
        list(open_dataset(str(source), **options))
    assert "\n" not in str(caught.value)


# COCO


def annotation(number, image, category, segmentation, **others):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **others}


def coco(*annotations, **others):
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 12, "width": 16},
            {"id": 3, "file_name": "a.jpg", "height": 12, "width": 16},
        ],
        # Ids that do not count up, in another order.
        "categories": [{"id": 90, "name": "wet grass"}, {"id": 1, "name": "cat"}],
        "annotations": list(annotations),
        **others,
    }


@pytest.fixture
def instances(tmp_path):
    for number, name in enumerate("ab"):
        picture(tmp_path / f"val2017/{name}.jpg", number)
    content = coco(annotation(1, 7, 90, [SQUARE]), annotation(2, 7, 1, [LARGE]))
    return write(tmp_path / "annotations/instances_val2017.json", content)


@pytest.mark.parametrize(
    "name", ["https://host/x/b%20c.jpg?size=2", "upload/b%20c.jpg", "b c.JPG", "C:\\x\\b c.jpg", "/elsewhere/b c.jpg"]
)
def test_coco_names_of_pictures_as_they_were_elsewhere(name, instances, tmp_path):
    (tmp_path / "val2017/b.jpg").rename(tmp_path / "val2017/b c.jpg")
    content = coco(annotation(1, 7, 90, [SQUARE]))
    content["images"][0]["file_name"] = name
    write(instances, content)
    assert any((example.label == 1).any() for example in open_dataset(f"coco:{instances}"))


@pytest.mark.parametrize(("side", "name"), [("1e400", "b.jpg"), ("12", "b" * 5000)])
def test_coco_numbers_and_names_beyond_any_picture(side, name, instances):
    text = json.dumps(coco(annotation(1, 7, 90, [SQUARE])))
    write(instances, text.replace('"height": 12', f'"height": {side}').replace("b.jpg", name))
    refused(f"coco:{instances}", "says that|are missing")


def test_coco_instances(instances):
    for source in (
        f"coco:{instances}",
        str(instances),
        str(instances.parent.parent),
        f"coco:{instances.parent.parent}",
    ):
        assert kind(source) == "coco"
        dataset = open_dataset(source)
        assert dataset.names == ("cat", "wet grass") and dataset.ignore_label == 255
        first, second = dataset
        assert (first.name, second.name) == ("a", "b") and (first.label == 255).all()
        np.testing.assert_array_equal(second.label, EXPECTED)
        np.testing.assert_array_equal(dataset.label(1), EXPECTED)
        assert second.label.dtype == np.int32
        assert dataset.listing.is_complete
    assert [
        pair.image.name for pair in open_dataset(f"coco:{instances}:{instances.parent.parent / 'val2017'}").pairs
    ] == [
        "a.jpg",
        "b.jpg",
    ]


def test_coco_run_lengths_crowds_and_what_is_to_be_ignored(instances):
    # Two columns, two rows of it in another notation; a polygon in two parts; one that is to be ignored.
    size = [12, 16]
    described = coco(
        annotation(1, 3, 1, {"counts": [12 * 14, 24], "size": size}, iscrowd=1),
        annotation(2, 3, 90, {"counts": "\\50d4", "size": size}),
        annotation(3, 7, 90, [SQUARE, [12, 0, 14, 0, 14, 2, 12, 2]]),
        annotation(4, 7, 1, [[0, 10, 16, 10, 16, 12, 0, 12]], ignore=1),
    )
    described["annotations"][1]["segmentation"]["counts"] = compressed([0, 3, 9, 3, 177])
    write(instances, described)
    first, second = open_dataset(f"coco:{instances}")
    expected = np.full(SIZE, 255)
    expected[:, 14:] = 0
    expected[:3, :2] = 1
    np.testing.assert_array_equal(first.label, expected)
    expected = np.full(SIZE, 255)
    expected[2:8, 2:8] = expected[:2, 12:14] = 1
    np.testing.assert_array_equal(second.label, expected)


def compressed(counts):
    """COCO's string of run lengths, written as its description has it."""
    text = ""
    for place, count in enumerate(counts):
        value, more = count - (counts[place - 2] if place > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def test_coco_has_more_classes_than_a_byte(tmp_path):
    """As LVIS, which names pictures by their address only."""
    picture(tmp_path / "val2017/000000397133.jpg")
    described = coco(annotation(1, 1, 256, [SQUARE]))
    described["images"] = [{"id": 1, "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"}]
    described["categories"] = [{"id": number + 1, "name": f"class {number}"} for number in range(300)]
    (example,) = dataset = open_dataset(f"coco:{write(tmp_path / 'lvis_v1_val.json', described)}")
    assert dataset.ignore_label == -1 and example.label[3, 3] == 255 and example.label[0, 0] == -1


def test_coco_of_other_tools(tmp_path):
    """Roboflow's category for the whole project, VIA's sizes of -1, Windows' paths, and accents."""
    described = coco(annotation(1, 3, 2, [LARGE]), annotation(2, 3, 5, [SQUARE]))
    described["categories"] = [
        {"id": 0, "name": "grass", "supercategory": "none"},
        {"id": 2, "name": "cat", "supercategory": "grass"},
        {"id": 5, "name": "grass", "supercategory": "grass"},
    ]
    name = unicodedata.normalize("NFD", "é.JPG")
    picture(tmp_path / "train/é.jpg")
    described["images"] = [{"id": 3, "file_name": f"C:\\photos\\{name}", "width": -1, "height": -1}]
    write(tmp_path / "train/_annotations.coco.json", described)
    (example,) = dataset = open_dataset(str(tmp_path / "train"))
    assert dataset.names == ("cat", "grass")
    np.testing.assert_array_equal(example.label, EXPECTED)
    described["annotations"].append(annotation(3, 3, 0, [SQUARE]))
    write(tmp_path / "train/_annotations.coco.json", described)
    refused(tmp_path / "train", "are the same category")


def test_coco_annotations_without_pixels_are_reported(instances, capsys):
    described = coco(
        annotation(11, 7, 90, [SQUARE]),
        annotation(12, 7, 1, []),
        annotation(13, 7, 1, None, bbox=[0, 0, 3, 3]),
        annotation(14, 7, 1, [[1, 1, 5, 5]]),  # a box, which official tools draw as one
        annotation(15, 3, 1, [[1, 1, 5, 5, 9, 9]]),
        annotation(16, 3, 1, [[20, 1, 30, 1, 30, 9]]),
    )
    write(instances, described)
    picture(instances.parent.parent / "val2017/other.jpg")
    dataset = open_dataset(f"coco:{instances}")
    assert dataset.listing.line == (
        f"{instances}: 2 of 3 read: 1 not named in the annotations: other.jpg; 2 annotations without an outline: 12, "
        "13; 1 annotations with fewer than three points: 14; 1 annotations without an area: 15; 1 annotations outside "
        "of the picture: 16"
    )
    refused(f"coco:{instances}", "not named in the annotations: other.jpg.*strict", strict=True)
    # One line of every command.
    out = commands.output("prepare", f"--data=coco:{instances}", f"--out={instances.parent / 'packed'}")
    assert out.count("2 of 3 read") == 1
    assert commands.call("prepare", f"--data=coco:{instances}", "--strict", f"--out={instances.parent / 'no'}") == 2
    described["annotations"] = described["annotations"][1:3]
    write(instances, described)
    refused(f"coco:{instances}", "no outline to learn from: 2 annotations without an outline")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"segmentation": SQUARE}, "annotation 1: segmentation is neither"),
        ({"segmentation": [[0, 0, 1, 1, 5, 5, 7]]}, "annotation 1: points are not pairs"),
        ({"segmentation": [["0", "0", "1", "1", "5", "0"]]}, "annotation 1: points are not pairs"),
        ({"segmentation": [[0, 0, 1, 1, 5, 1e99]]}, "annotation 1: points lie beyond"),
        (
            {"segmentation": {"counts": [12 * 16], "size": [16, 12]}},
            "b.* a mask is 12 x 16 pixels, but the picture 16 x 12",
        ),
        ({"segmentation": {"counts": [12 * 16 + 1], "size": [12, 16]}}, "run lengths of a mask do not fill"),
        ({"segmentation": {"counts": [12 * 16], "size": [12.0, 16]}}, "have no size"),
        ({"segmentation": {"size": [12, 16]}}, "neither a list nor a string"),
        ({"image_id": "7"}, "annotation 1: is of picture '7', which is not listed"),
        ({"category_id": 2}, "annotation 1: is of category 2, which is not listed"),
        ({"category_id": [2]}, "is of category"),
    ],
)
def test_coco_that_is_refused(instances, change, match):
    write(instances, coco(annotation(1, 7, 90, [SQUARE]) | change))
    refused(f"coco:{instances}", match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": []}, "names no pictures"),
        ({"images": {"7": {}}}, "no lists of objects"),
        ({"images": [{"id": 7, "file_name": "c.jpg"}, {"id": 8, "file_name": "a.jpg"}]}, "1 of 2 .*missing: c.jpg"),
        ({"images": [{"id": 7, "file_name": "c.jpg"}]}, "name the folder: coco:"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "a.jpg"}]}, "names a picture twice"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "a.JPG"}]}, "named in two ways"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]}, "that of another one"),
        ({"images": [{"id": 7}]}, "has no file_name"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 9, "height": 12}]}, "says that a is 9 x 12 pixels"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "two categories have one id"),
        ({"categories": [{"id": "1", "name": "cat"}]}, "no whole number as its id"),
        ({"categories": []}, "there are no categories"),
    ],
)  # fmt: skip
def test_coco_files_that_are_refused(instances, change, match):
    write(instances, coco() | change)
    refused(f"coco:{instances}", match)


def test_other_files_are_no_coco(instances, tmp_path):
    refused(f"coco:{write(tmp_path / 'x.json', '[]')}", "is no file of COCO's")
    refused(f"coco:{write(tmp_path / 'x.json', '[' * 1000)}", "x.json: is")
    refused(f"coco:{tmp_path / 'none.json'}", "no such file")
    refused("coco:gs://bucket/x.json", "copy them to a local disk", ConfigError)
    refused(f"coco:{instances}", "has no option names", ConfigError, names="cat")
    write(tmp_path / "annotations/instances_train2017.json", coco())
    refused(tmp_path, "several, name one")


def test_coco_panoptic(tmp_path):
    picture(tmp_path / "images/a.jpg")
    numbers = np.zeros(SIZE, int)
    numbers[:10, :10], numbers[2:8, 2:8] = 300, 70000
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)
    (tmp_path / "panoptic_val").mkdir()
    Image.fromarray(colours).save(tmp_path / "panoptic_val/a.png")
    segments = [{"id": 300, "category_id": 1, "iscrowd": 0}, {"id": 70000, "category_id": 90}]
    described = coco({"image_id": 3, "file_name": "a.png", "segments_info": segments})
    described["images"] = described["images"][1:]
    path = write(tmp_path / "panoptic_val.json", described)
    for source in (
        path,
        f"coco:{path}:{tmp_path / 'images'}",
        f"coco:{path}:{tmp_path / 'images'}:{tmp_path / 'panoptic_val'}",
    ):
        (example,) = dataset = open_dataset(str(source))
        assert isinstance(dataset, PairDataset) and dataset.names == ("cat", "wet grass")
        np.testing.assert_array_equal(example.label, EXPECTED)
    described["annotations"][0]["segments_info"] = segments[:1]
    write(path, described)
    refused(path, "has segment 70000")
    described["annotations"] = []
    write(
        path, coco(segments and {"image_id": 3, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 4}]})
    )
    (tmp_path / "images/b.jpg").write_bytes((tmp_path / "images/a.jpg").read_bytes())
    refused(path, "segment 1 is of category 4")
    (tmp_path / "panoptic_val/a.png").unlink()
    write(path, described | {"annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": []}]})
    refused(path, "PNGs with segments are missing: a.png")


# LabelMe


def shape(label, points, shape_type="polygon", **others):
    return {"label": label, "points": points, "shape_type": shape_type, "flags": {}, **others}


def pairs(values):
    return [values[place : place + 2] for place in range(0, len(values), 2)]


def labelme(*shapes, image="a.jpg", **others):
    return {
        "version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None,
        "imageHeight": 12, "imageWidth": 16, **others,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.json", labelme(shape("wet grass", pairs(SQUARE)), shape("cat", pairs(LARGE))))
    return tmp_path


def test_labelme(folder):
    assert kind(str(folder)) == "labelme"
    for source in (str(folder), f"labelme:{folder}", f"labelme:{folder}:{folder}"):
        (example,) = dataset = open_dataset(source)
        assert dataset.names == ("cat", "wet grass") and example.name == "a"
        np.testing.assert_array_equal(example.label, EXPECTED)
    # In the order of its own list, in which what is to be ignored and classes without a shape may stand too.
    write(folder / "labels.txt", "__ignore__\n_background_\ncat\n")
    write(folder / "a.json", labelme(shape("cat", pairs(SQUARE)), shape("_background_", pairs(LARGE))))
    (example,) = dataset = open_dataset(str(folder))
    assert dataset.names == ("background", "cat")
    np.testing.assert_array_equal(example.label, EXPECTED)
    write(folder / "labels.txt", "__ignore__\ndog\nwet grass\ncat\n")
    write(folder / "a.json", labelme(shape("cat", pairs(LARGE)), shape("__ignore__", pairs(SQUARE))))
    (example,) = dataset = open_dataset(str(folder))
    assert dataset.names == ("dog", "wet grass", "cat") and dataset.listing.is_complete
    assert example.label[0, 0] == 2 and example.label[3, 3] == 255
    assert open_dataset(str(folder), names="cat,dog").names == ("cat", "dog")
    refused(folder, "1 labels are none of the names in dog: cat", names="dog")


def test_labelme_shapes(folder):
    mask = io.BytesIO()
    Image.fromarray(np.array([[1, 0], [1, 1]], np.uint8) * 255).save(mask, "PNG")
    encoded = base64.b64encode(mask.getvalue()).decode()
    content = labelme(
        shape("a", [[9, 9], [1, 1]], "rectangle"),
        shape("b", [[4, 4], [6, 4]], "circle"),
        # Corners belong to a mask, and may be written as other numbers.
        shape("c", [[12.0, 3.0], [13.0, 4.0]], "mask", mask=encoded),
        shape("d", pairs([12, 6, 13, 6, 13, 7, 12, 7]), group_id=4),
        shape("d", pairs([14, 6, 15, 6, 15, 7, 14, 7]), None, group_id=4),
        shape("e", [[0, 0], [5, 5]], "line"),
        shape("e", [[0, 0]], "point"),
        shape("e", []),
    )
    del content["shapes"][4]["flags"]
    write(folder / "a.json", content)
    (example,) = dataset = open_dataset(str(folder))
    rows, columns = np.mgrid[:12, :16] + 0.5
    expected = np.full(SIZE, 255)
    expected[1:9, 1:9] = 0
    expected[(rows - 4) ** 2 + (columns - 4) ** 2 <= 4] = 1
    expected[3, 12] = expected[4, 12:14] = 2
    expected[6, 12] = expected[6, 14] = 3
    np.testing.assert_array_equal(example.label, expected)
    assert dataset.names == ("a", "b", "c", "d")
    assert dataset.listing.line == (
        f"{folder}: 1 of 1 read: 2 annotations without an area: a.json (line), a.json (point); 1 annotations "
        "with fewer than three points: a.json"
    )


def test_labelme_pictures(folder, tmp_path):
    """They may lie elsewhere, be written as Windows does, or be in the file alone."""
    original = open_dataset(str(folder))[0]
    (folder / "photos").mkdir()
    (folder / "a.jpg").rename(folder / "photos/a.jpg")
    for path in ("photos/a.jpg", "photos\\a.jpg", "photos/a.JPG"):
        write(folder / "a.json", labelme(shape("cat", pairs(SQUARE)), image=path))
        assert (open_dataset(str(folder))[0].image == original.image).all()
    (folder / "json").mkdir()
    write(folder / "json/a.json", labelme(shape("cat", pairs(SQUARE)), image="D:\\old\\a.jpg"))
    source = f"labelme:{folder / 'json'}:{folder / 'photos'}"
    assert (open_dataset(source)[0].image == original.image).all()
    data = base64.b64encode((folder / "photos/a.jpg").read_bytes()).decode()
    (folder / "photos/a.jpg").unlink()
    refused(source, "its picture .* is not in .*, and not in the file")
    write(folder / "json/a.json", labelme(shape("cat", pairs(SQUARE)), image="a.jpg", imageData=data))
    (example,) = dataset = open_dataset(source)
    assert (example.image == original.image).all()
    assert prepared.write(dataset, tmp_path / "packed") == 1
    np.testing.assert_array_equal(open_dataset(str(tmp_path / "packed"))[0].image, original.image)
    write(folder / "json/a.json", labelme(shape("cat", pairs(SQUARE)), image="a.jpg", imageData=data[:-3]))
    refused(source, "imageData is no base64, or is cut off")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (labelme(shape("", [])), "shape 0 has no label"),
        (labelme(shape(3, [])), "shape 0 has no label"),
        (labelme(shape("a", [[1, 2], [3]])), r"shape 0 \(a\): points"),
        (labelme(shape("a", None)), r"shape 0 \(a\): points"),
        (labelme(shape("a", [[1, 2], [3, 4]], "cube")), "type 'cube' with 2 points are not known"),
        (labelme(shape("a", [[1, 2], [3, 4]], "mask", mask="xx")), "no base64|is no PNG"),
        (labelme(shape("a", pairs(SQUARE), group_id=[])), "group_id"),
        (labelme(shapes={}), "shapes is no list"),
        (labelme(shape("a", pairs(SQUARE)), imageWidth=99), "says that a is 99 x 12 pixels"),
        (labelme(shape("a", [[0, 0]], "point")), "no shape has an area"),
        ({"hello": 1}, "holds no JSON files of LabelMe's"),
    ],
)
def test_labelme_that_is_refused(folder, content, match):
    write(folder / "a.json", content)
    refused(f"labelme:{folder}", match)


def test_labelme_without_partners(folder):
    picture(folder / "deep/b.jpg")
    refused(folder, "1 JSON files of pictures are missing: deep/b.jpg")
    write(folder / "deep/b.json", labelme(image="c.jpg"))
    refused(folder, "its picture c.jpg is not in")
    write(folder / "deep/b.json", labelme(image="../a.jpg"))
    refused(folder, "a.json and b.json are both of a.jpg")
    (folder / "deep/c.jpg").symlink_to(folder / "gone.jpg")
    write(folder / "deep/b.json", labelme(image="c.jpg"))
    refused(folder, "c.jpg: is a link to .*gone.jpg, which is not there")


# CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
<label><name>wet  grass</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
<label><name>cat</name><type>polygon</type><attributes><attribute><name>name</name></attribute></attributes></label>
<label><name>1</name><type>points</type><parent>body</parent></label>
</labels></task></meta>
<image id="0" name="a.jpg" width="16" height="12">%s</image>
</annotations>"""
TWO = """<polygon label="cat" points="2.00,2;8.00,2;8,8;2,8" z_order="0"><attribute name="name">x</attribute></polygon>
<box label="wet grass" xtl="0.0" ytl="0" xbr="10" ybr="10" z_order="9" occluded="0"/>"""


@pytest.fixture
def export(tmp_path):
    picture(tmp_path / "images/a.jpg")
    return write(tmp_path / "annotations.xml", CVAT % TWO)


def test_cvat(export):
    for source in (
        export,
        export.parent,
        f"cvat:{export}",
        f"cvat:{export.parent}",
        f"cvat:{export}:{export.parent}/images",
    ):
        assert kind(str(source)) == "cvat"
        (example,) = dataset = open_dataset(str(source))
        assert dataset.names == ("wet grass", "cat") and example.name == "a"
        np.testing.assert_array_equal(example.label, EXPECTED)


def test_cvat_shapes(export):
    write(
        export,
        CVAT
        % """<mask label="cat" rle="1, 2, 1" left="3" top="4" width="2" height="2"/>
        <ellipse label="wet grass" cx="9" cy="6" rx="2" ry="2"/>
        <box label="cat" xtl="12" ytl="2" xbr="16" ybr="4" rotation="90.0"/>
        <polygon label="cat" points="0,9;1,9;1,10;0,10" group_id="5"/>
        <polygon label="cat" points="2,9;3,9;3,10;2,10" group_id="5"/>
        <polyline label="cat" points="1,1;3,3"/><points label="cat" points="1,1"/><tag label="cat"/>
        <polygon label="cat" points="1,1;2,2"/>""",
    )
    (example,) = dataset = open_dataset(str(export))
    rows, columns = np.mgrid[:12, :16] + 0.5
    expected = np.full(SIZE, 255)
    expected[(rows - 6) ** 2 + (columns - 9) ** 2 <= 4] = 0
    expected[4, 4] = expected[5, 3] = 1
    expected[1:5, 13:15] = 1
    expected[9, 0] = expected[9, 2] = 1
    np.testing.assert_array_equal(example.label, expected)
    assert dataset.listing.line == (
        f"{export}: 1 of 1 read: 2 annotations without an area: a.jpg (polyline), a.jpg (points); 1 annotations of "
        "whole pictures (tags): a.jpg; 1 annotations with fewer than three points: a.jpg"
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CVAT % '<polygon label="dog" points="1,1;2,2;3,1"/>', "line 8: polygon has the label 'dog'"),
        (CVAT % '<polygon label="cat"/>', "line 8: polygon: lacks 'points'"),
        (CVAT % '<polygon label="cat" points="1,1;2;3,1"/>', "line 8: polygon: points"),
        (CVAT % '<polygon label="cat" points="1,1;nan,2;3,1"/>', "points lie beyond"),
        (CVAT % '<polygon label="cat" points="1,1;a,2;3,1"/>', "line 8: polygon: could not convert"),
        (CVAT % '<mask label="cat" rle="1,9" left="0" top="0" width="2" height="2"/>', "do not fill its 2 x 2"),
        (CVAT % '<mask label="cat" rle="1e9" left="0" top="0" width="2" height="2"/>', "line 8: mask"),
        (CVAT % '<mask label="cat" rle="1" left="0" top="0" width="1e999" height="2"/>', "line 8: mask"),
        (CVAT % '<blob label="cat"/>', "are not known"),
        (CVAT.replace('width="16"', 'width="17"') % "", "says that a is 17 x 12 pixels"),
        (CVAT.replace('width="16"', 'width="w"') % "", "width and height are no numbers"),
        (CVAT.replace(' name="a.jpg"', "") % "", "a picture has no name"),
        (CVAT.replace("a.jpg", "c.jpg") % "", "name the folder: cvat:"),
        (CVAT % "", ""),
        ("<annotations><track/></annotations>", "export it as 'CVAT for images 1.1'"),
        ("<annotations/>", "has no picture"),
        ("<html/>", "is XML of 'html'"),
        ("<annotations>", "no XML, or is damaged"),
        ("", "annotations.xml: is"),
        ("<annotations>" + 100 * "<a>" + 100 * "</a>" + "</annotations>", "nested deeper than 32"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "document type definition"),
        ('<!DOCTYPE annotations SYSTEM "file:///etc/passwd"><annotations/>', "document type definition"),
    ],
)
def test_cvat_that_is_refused(export, text, match):
    write(export, text)
    if match:
        refused(export, match)
    else:
        (example,) = open_dataset(str(export))
        assert (example.label == 255).all()


def test_cvat_of_a_project_with_subsets(export):
    picture(export.parent / "images/train/deep/b.jpg")
    text = (CVAT % TWO).replace("</annotations>", '<image id="1" name="deep/b.jpg" subset="train"/></annotations>')
    write(export, text.replace('name="a.jpg"', 'name="train/a.jpg"'))
    picture(export.parent / "images/train/a.jpg")
    assert [example.name for example in open_dataset(str(export))] == ["train/a", "train/deep/b"]


# All of them


def test_check_and_resumed_runs_know_them(instances, capsys):
    assert commands.call("check", "--dataset=coco", f"--root={instances}") == 0
    assert "2 of 2 pairs can be used" in capsys.readouterr().out
    assert without_folders("coco:/a/b/instances.json:/c/val2017") == "coco:instances.json:val2017"
    assert without_folders("labelme:/a/b") == "labelme:b"
