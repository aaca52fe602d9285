"""Annotations that are broken in any way end in one line, or are read."""

import base64
import copy
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from tests.vlseg.data.formats import test_annotations as whole
from vlseg.data.sources import open_dataset
from vlseg.errors import VlsegError

ODD = [
    *(None, True, -1, 0, 1e308, -1e9, 10**30, 2**63, -(2**63), 2**31, 3.5, "", "x", "\ud800", "a\0b", "../../x", "1e9"),
    *("nan", [], {}, [[]], {"a": 1}, [None], [1, 2, 3], ["a.jpg"], {"counts": [1], "size": [12, 16]}),
]
ODD_TEXTS = [
    *("", "nan", "inf", "-1", "1e999", "1,1;2", "9" * 40, "x", "&#0;", "&amp;", "1_0", "\u0663", "0x1", "-5", "1e7"),
    "1,1;1e8,3;4,4",
]


def places(content, path=()):
    """The paths of all parts of a JSON document."""
    yield path
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield from places(content[key], (*path, key))


def broken(content, rng):
    """A JSON document of which a part is missing or another one."""
    content = copy.deepcopy(content)
    *above, last = rng.choice([path for path in places(content) if path])
    part = content
    for key in above:
        part = part[key]
    if rng.random() < 0.15:
        del part[last]
    else:
        part[last] = rng.choice(ODD)
    return json.dumps(content).encode()


def broken_xml(text, rng):
    """An XML document of which bytes, or the value of an attribute, are others."""
    if rng.random() < 0.5:
        content = bytearray(text.encode())
        for _ in range(rng.choice([1, 2, 5])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    found = rng.choice(list(re.finditer(r'="([^"]*)"', text)))
    return f"{text[: found.start(1)]}{rng.choice(ODD_TEXTS)}{text[found.end(1) :]}".encode()


def instances(root):
    runs = [whole.annotation(2, 7, 1, {"counts": [168, 24], "size": [12, 16]})]
    runs += [whole.annotation(3, 3, 1, {"counts": whole.compressed([0, 3, 9, 3, 177]), "size": [12, 16]}, iscrowd=1)]
    for name in "ab":
        whole.picture(root / f"val2017/{name}.jpg")
    return root / "instances_val2017.json", whole.coco(whole.annotation(1, 7, 90, [whole.SQUARE]), *runs)


def panoptic(root):
    whole.picture(root / "images/a.jpg")
    (root / "panoptic").mkdir()
    Image.fromarray(np.zeros((*whole.SIZE, 3), np.uint8)).save(root / "panoptic/a.png")
    segments = [{"id": 1, "category_id": 1}]
    described = whole.coco({"image_id": 3, "file_name": "a.png", "segments_info": segments})
    return root / "panoptic.json", {**described, "images": described["images"][1:]}


def labelme(root):
    data = base64.b64encode(whole.picture(root / "a.jpg").read_bytes()).decode()
    shapes = [
        whole.shape("a", [[1, 1], [9, 9]], "rectangle"),
        whole.shape("b", [[4, 4], [6, 4]], "circle", group_id=3),
        whole.shape("c", whole.pairs(whole.SQUARE)),
    ]
    return root / "a.json", whole.labelme(*shapes, imageData=data)


def cvat(root):
    whole.picture(root / "images/a.jpg")
    shapes = (
        '<mask label="cat" rle="1, 2, 1" left="3" top="4" width="2" height="2"/><ellipse label="cat" cx="9" cy="6" '
    )
    return root / "annotations.xml", whole.CVAT % f'{whole.TWO}{shapes} rx="2" ry="2"/>'


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [instances, panoptic, labelme, cvat])
def test_broken_annotations_end_in_one_line_or_are_read(make, count, tmp_path):
    path, content = make(tmp_path)
    kind = {instances: "coco", panoptic: "coco"}.get(make, make.__name__)
    source = f"{kind}:{path.parent if make is labelme else path}"
    path.write_bytes(content.encode() if isinstance(content, str) else json.dumps(content).encode())
    assert len(list(open_dataset(source))) >= 1
    rng, messages = random.Random(0), []
    for _ in range(count):
        path.write_bytes(broken_xml(content, rng) if isinstance(content, str) else broken(content, rng))
        try:
            for example in open_dataset(source):
                assert example.label.shape == example.image.shape[:2]
        except VlsegError as error:
            messages.append(str(error))
    assert len(messages) >= count // 4 and not any("\n" in message for message in messages)
