"""Pictures and label files find each other however their names are written, and none is left alone."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.commands import Commands
from tests.samples import SAMPLES
from vlseg import files
from vlseg.data.formats import prepared
from vlseg.data.sources import open_dataset, open_section, split_sources
from vlseg.errors import DatasetError

commands = Commands("vlseg.data")

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def write(root, image, label, value=0):
    for path, pixels in [
        (root / "images" / image, np.zeros((9, 8, 3), np.uint8)),
        (root / "labels" / label, np.full((9, 8), value, np.uint8)),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", "a.jpg", "a.png")
    (tmp_path / "data/names.txt").write_text("cat\ndog\n")
    return tmp_path / "data"


def refused(root, match, **options):
    with pytest.raises(DatasetError, match=match) as caught:
        open_dataset(str(root), **options)
    assert "\n" not in str(caught.value)


def test_names_written_in_two_ways(root):
    write(root, f"{NFC}/{NFD}.JPG", f"{NFD}/{NFC}.PNG", 1)
    write(root, f"{NOT_UTF8}.jpg", f"{NOT_UTF8}.png")
    write(root, "-a,b\n.jpg", "-a,b\n.png")
    dataset = open_dataset(str(root))
    assert {example.name for example in dataset} == {"a", f"{NFC}/{NFC}", NOT_UTF8, "-a,b\n"}
    assert next(example.label[0, 0] for example in dataset if NFC in example.name) == 1
    write(root, f"{NFC}/{NFC}.jpg", f"{NFD}/{NFC}.PNG")
    refused(root, "would share a pair")


def test_nothing_is_left_alone(root):
    write(root, "b.jpg", "b.png")
    (root / "images/b.jpg").rename(root / "images/b.heic")
    refused(root, "images: no picture for 1 of 2 label maps: b; of an unknown type: b.heic")
    (root / "images/b.heic").rename(root / "images/b.jpg")
    (root / "labels/b.png").rename(root / "labels/b.npy")
    refused(root, "labels: no label map for 1 of 2 pictures: b; of an unknown type: b.npy")


def test_links(root, tmp_path):
    write(tmp_path / "elsewhere", "b.jpg", "b.png", 1)
    (root / "images/b.jpg").symlink_to(tmp_path / "elsewhere/images/b.jpg")
    (root / "labels/b.png").symlink_to("../../elsewhere/labels/b.png")
    # One folder twice: both are read.
    for place in ("images", "labels"):
        for name in ("one", "two"):
            (root / place / name).symlink_to(tmp_path / "elsewhere" / place)
    assert [example.name for example in open_dataset(str(root))] == ["a", "b", "one/b", "two/b"]
    for place in ("images", "labels"):
        for name in ("one", "two"):
            (root / place / name).unlink()
    (tmp_path / "elsewhere/labels/b.png").unlink()
    refused(root, r"b\.png: is a link to \.\./\.\./elsewhere/labels/b\.png, which is not there")


def test_what_else_is_there_is_one_line_of_every_command(root, tmp_path, capsys):
    (root / "images/notes.txt").write_text("x")
    (root / "images/b.heic").write_text("x")
    (root / "labels/list.csv").write_text("x")
    line = (
        f"{root}/images: 1 of 3 read: 2 of an unknown type: b.heic, notes.txt; 1 other files beside the label maps: "
        "list.csv"
    )
    assert commands.output("check", "--dataset=folder", f"--root={root}").count(line) == 1
    assert commands.output("prepare", f"--data={root}", f"--out={tmp_path / 'out'}").count(line) == 1
    assert "strict" in commands.refusal(capsys, "check", "--dataset=folder", f"--root={root}", "--strict")
    assert "strict" in commands.refusal(capsys, "prepare", f"--data={root}", "--strict", f"--out={tmp_path / 'no'}")
    capsys.readouterr()
    refused(root, "strict", strict=True)
    with pytest.raises(DatasetError, match="strict"):
        open_section(str(root), {"strict": True, "folder": {}})  # type: ignore[dict-item]
    assert len(open_section(str(root), {"folder": {}})) == 1
    assert capsys.readouterr().out == f"{line}\n"


def test_strict_is_fulfilled_by_what_leaves_nothing_out(root, tmp_path):
    assert prepared.write(open_dataset(str(root), strict=True), tmp_path / "packed") == 1
    assert len(open_dataset(str(tmp_path / "packed"), strict=True)) == 1


def test_names_that_are_not_utf8_go_through_prepared_data_reports_and_messages(root, tmp_path, capsys):
    write(root, f"{NOT_UTF8}.jpg", f"{NOT_UTF8}.png", 1)
    (root / "labels" / f"{NOT_UTF8}.png").write_bytes(b"x")
    assert commands.call("check", "--dataset=folder", f"--root={root}", f"--out={tmp_path / 'out'}") == 2
    output, errors = capsys.readouterr()
    assert r"caf\udce9.png" in output and "1 of 2 pairs" in errors
    report = (tmp_path / "out/check.json").read_bytes().decode("utf-8")
    assert r"caf\udce9.png" in json.loads(report)["problems"][0]
    write(root, f"{NOT_UTF8}.jpg", f"{NOT_UTF8}.png", 1)
    root.rename(tmp_path / NOT_UTF8)
    out = tmp_path / "prepared"
    assert commands.call("prepare", f"--data={tmp_path / NOT_UTF8}", f"--out={out}") == 0
    capsys.readouterr()
    assert [example.name for example in open_dataset(str(out))] == ["a", NOT_UTF8]
    # The library cannot open such a folder of its own.
    refusal = commands.refusal(capsys, "prepare", f"--data={tmp_path / NOT_UTF8}", f"--out={out}{NOT_UTF8}")
    assert r"preparedcaf\xe9: the name of a prepared data set must be in UTF-8" in refusal
    out.rename(tmp_path / f"{NOT_UTF8}2")
    refused(tmp_path / f"{NOT_UTF8}2", "must be in UTF-8")


def test_shown_and_stored_names():
    path = f"/x/{NOT_UTF8}\n,-é😀.jpg"
    assert files.shown_path(path) == r"/x/caf\xe9\n,-é😀.jpg"
    text = files.json_text({"image": path})
    assert text.encode("utf-8").decode() == text
    assert json.loads(text)["image"] == "/x/caf\\xe9\n,-é😀.jpg"
    assert json.loads(files.json_text({"broken": "\ud800"})) == {"broken": "\\ud800"}


def test_sources_with_commas(root, tmp_path):
    root.rename(tmp_path / "a,b")
    source = f"{tmp_path}/a,b"
    expected = [source, f"ade20k:{source}:train", "tiny_world"]
    assert split_sources(", ".join(expected)) == split_sources(",".join(expected)) == expected
    assert split_sources("cityscapes:/x/y,idd:/x/z") == ["cityscapes:/x/y", "idd:/x/z"]
    assert len(open_dataset(source)) == 1


# The catalog


def test_catalog_in_capitals_and_accents(tmp_path):
    for name in ("ade20k", "camvid", "voc20"):
        SAMPLES[name, "test" if name == "camvid" else "val"](tmp_path / name)
        for path in sorted((tmp_path / name).rglob("*")):
            if path.suffix in (".jpg", ".png"):
                path.rename(path.with_suffix(path.suffix.upper()))
    for name, count in (("ade20k", 2), ("camvid", 1), ("voc20", 2)):
        assert len(list(open_dataset(f"{name}:{tmp_path}/{name}"))) == count
    base = tmp_path / "voc20/VOCdevkit/VOC2012"
    for folder, suffix in (("JPEGImages", "JPG"), ("SegmentationClass", "PNG")):
        (base / folder / f"2007_000033.{suffix}").rename(base / folder / f"{NFD}.{suffix}")
    (base / "ImageSets/Segmentation/val.txt").write_text(f"{NFC}\n")
    assert [example.name for example in open_dataset(f"voc20:{tmp_path}/voc20")] == [NFC]


def test_pictures_of_the_catalog_without_labels(tmp_path):
    SAMPLES["ade20k", "val"](tmp_path)
    images = tmp_path / "ADEChallengeData2016/images/validation"
    Image.new("RGB", (9, 8)).save(images / "new.png")
    refused(f"ade20k:{tmp_path}", r"1 pictures do not end in \.jpg, so that they have no label files: new\.png")
    (images / "new.png").unlink()
    (images / "ADE_val_00000000.jpg").unlink()
    (images / "ADE_val_00000000.jpg").symlink_to("gone")
    refused(f"ade20k:{tmp_path}", "is a link to gone, which is not there")
