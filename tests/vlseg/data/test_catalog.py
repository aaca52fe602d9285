"""Every data set of the catalog on a small sample in its official layout, with the official encodings."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from tests.samples import (
    SAMPLES,
    SIZE,
    ade20k,
    camvid,
    coco_panoptic,
    coco_stuff,
    context_matlab,
    grey,
    mapillary,
    picture,
)
from vlseg.data import catalog, decoding
from vlseg.data.catalog import pascal
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError, DatasetError, ImageError
from vlseg.evaluation import confusion


@pytest.mark.parametrize(("name", "split"), SAMPLES, ids="-".join)
def test_a_sample_in_the_official_layout(name, split, tmp_path):
    truth = SAMPLES[name, split](tmp_path, split)
    dataset = open_dataset(f"{name}:{tmp_path}", split=split)
    examples = {example.name: example for example in dataset}
    assert sorted(examples) == sorted(truth) and len(dataset) == len(truth) > 0
    counts = confusion.zeros(len(dataset.names))
    for stem, ids in truth.items():
        example = examples[stem]
        assert example.image.shape == (*SIZE, 3) and example.label.dtype == np.int32
        np.testing.assert_array_equal(example.label, ids)
        kept = ids[ids != dataset.ignore_label]
        assert kept.min() >= 0 and kept.max() < len(dataset.names)
        counts = confusion.update(counts, jnp.asarray(ids), jnp.asarray(example.label), dataset.ignore_label)
    assert confusion.compute(counts).miou == 1


def test_every_data_set_has_a_sample():
    assert {name for name, _ in SAMPLES} == set(catalog.ENTRIES)


@pytest.mark.parametrize("name", catalog.ENTRIES)
def test_entries_are_complete(name):
    entry = catalog.entry(name)
    names, prompts = entry.classes.names, entry.classes.prompts
    assert len(names) == len(prompts) == len(set(prompts))
    assert entry.licence and entry.address.startswith("http") and entry.layout and "\n" not in entry.layout
    assert all(split.examples > 0 for split in entry.splits.values())
    if entry.colours is not None:
        assert entry.colours.shape == (len(names), 3) and entry.colours.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("coco_stuff", 171, "person", "wood"),
        ("coco_panoptic", 133, "person", "rug-merged"),
        ("coco_object", 81, "background", "toothbrush"),
        ("ade20k", 150, "wall", "flag"),
        ("voc20", 20, "aeroplane", "tvmonitor"),
        ("voc21", 21, "background", "tvmonitor"),
        ("context59", 59, "aeroplane", "wood"),
        ("context60", 60, "background", "wood"),
        ("cityscapes", 19, "road", "bicycle"),
        ("bdd100k", 19, "road", "bicycle"),
        ("idd", 26, "road", "sky"),
        ("mapillary", 65, "Bird", "Ego Vehicle"),
        ("sun_rgbd", 37, "wall", "bag"),
        ("camvid", 11, "Sky", "Bicyclist"),
        ("fss1000", 1000, "ac_wall", "wooden_spoon"),
        ("clothing", 59, "null", "wedges"),
    ],
)
def test_official_names(name, count, first, last):
    names = catalog.entry(name).classes.names
    assert (len(names), names[0], names[-1]) == (count, first, last)


def test_context_counts_in_alphabetical_order():
    # Two values of pictures that are known to show a screen before a window.
    names = catalog.entry("context60").classes.names
    assert (names[1], names[2], names[55], names[58]) == ("aeroplane", "bag", "tvmonitor", "window")


def test_the_palette_of_voc():
    # The first and some later entries of the file that comes with VOC.
    colours = pascal.bits_palette(256)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 20: (0, 64, 128)}
    assert {index: tuple(colours[index].tolist()) for index in known} == known
    assert tuple(colours[255].tolist()) == (224, 224, 192)


# What is missing or broken


def refused(name, root, split, match):
    with pytest.raises(DatasetError, match=match) as caught:
        open_dataset(f"{name}:{root}", split=split)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_half_a_data_set_is_refused_with_what_is_missing(tmp_path):
    ade20k(tmp_path)
    refused("ade20k", tmp_path, "train", "images/training: no such folder; ADE20K .* unpacked as ADEChallengeData2016")
    (tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png").unlink()
    refused("ade20k", tmp_path, "val", r"1 label files are missing: ADE_val_00000001\.png")
    (tmp_path / "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg").unlink()
    assert len(open_dataset(f"ade20k:{tmp_path}", split="val")) == 1
    picture(tmp_path / "ADEChallengeData2016/annotations/validation/more.png")
    refused("ade20k", tmp_path, "val", r"1 pictures are missing: more\.jpg")


def test_splits_by_word_and_by_default(tmp_path, monkeypatch):
    camvid(tmp_path)
    # Scores are published of the test split.
    for source in (f"camvid:{tmp_path}", f"camvid:{tmp_path}:test"):
        assert len(open_dataset(source)) == 1
    with pytest.raises(DatasetError, match="val: no such folder"):
        open_dataset(f"camvid:{tmp_path}:val")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_dataset("camvid:~")) == 1


def test_labels_of_trainaug_that_only_the_first_folder_has(tmp_path):
    SAMPLES["voc21", "trainaug"](tmp_path, "trainaug")
    base = tmp_path / "VOCdevkit/VOC2012"
    (base / "SegmentationClass").mkdir()
    (base / "SegmentationClassAug/2007_000042.png").rename(base / "SegmentationClass/2007_000042.png")
    labels = [pair.label.parent.name for pair in open_dataset(f"voc21:{tmp_path}:trainaug").pairs]
    assert labels == ["SegmentationClassAug", "SegmentationClass"]


def test_folders_as_other_archives_unpack_them(tmp_path):
    ade20k(tmp_path)
    assert len(open_dataset(f"ade20k:{tmp_path / 'ADEChallengeData2016'}")) == 2
    coco_stuff(tmp_path / "coco")
    (tmp_path / "coco/images/val2017").rename(tmp_path / "coco/val2017")
    assert len(open_dataset(f"coco_stuff:{tmp_path / 'coco'}")) == 1
    mapillary(tmp_path / "vistas")
    (tmp_path / "vistas/validation/v1.2/labels").rename(tmp_path / "vistas/validation/labels")
    assert len(open_dataset(f"mapillary:{tmp_path / 'vistas'}")) == 1


def test_lists_that_name_absent_files(tmp_path):
    SAMPLES["voc20", "val"](tmp_path)
    listed = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text(listed.read_text() + "2010_009999\n")
    refused("voc20", tmp_path, "val", r"1 pictures are missing: VOC2012/JPEGImages/2010_009999\.jpg")
    listed.write_text("\n")
    refused("voc20", tmp_path, "val", "lists nothing")
    listed.unlink()
    refused("voc20", tmp_path, "val", "no such list of names")


def test_folders_and_words_that_are_wrong(tmp_path):
    refused("ade20k", tmp_path / "nowhere", "val", "no such folder")
    (tmp_path / "images/10k/val").mkdir(parents=True)
    (tmp_path / "labels/sem_seg/masks/val").mkdir(parents=True)
    refused("bdd100k", tmp_path, "val", "holds no pictures")
    with pytest.raises(DatasetError, match="no split 'test'; there are train, val"):
        open_dataset(f"ade20k:{tmp_path}", split="test")
    with pytest.raises(ConfigError, match="write ade20k:FOLDER"):
        open_dataset("ade20k", split="val")
    with pytest.raises(ConfigError, match="has no option colour; it has split"):
        open_dataset(f"ade20k:{tmp_path}", colour="red")
    with pytest.raises(ConfigError, match="no data set is called 'ADE20'; did you mean ade20k"):
        open_dataset(f"ADE20:{tmp_path}")
    with pytest.raises(ConfigError, match="is no local folder: mount the bucket"):
        open_dataset("ade20k:gs://bucket/ade20k")
    with pytest.raises(ConfigError, match="the known ones are coco_stuff, "):
        catalog.entry("imagenet")


def test_labels_that_do_not_exist(tmp_path):
    ade20k(tmp_path)
    path = tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000000.png"
    dataset = open_dataset(f"ade20k:{tmp_path}", split="val")
    grey(path, np.full(SIZE, 151))
    with pytest.raises(DatasetError, match="has label 151, which this data set does not have"):
        dataset[0]
    grey(path, np.full((8, 9), 1))
    with pytest.raises(DatasetError, match="is 9 x 8 pixels, but its picture 32 x 24"):
        dataset[0]


def test_panoptic_descriptions_that_do_not_fit(tmp_path):
    coco_panoptic(tmp_path)
    path = tmp_path / "annotations/panoptic_val2017.json"
    described = json.loads(path.read_text())
    segments = described["annotations"][0]["segments_info"]

    def fails(match):
        path.write_text(json.dumps(described))
        with pytest.raises(DatasetError, match=match):
            open_dataset(f"coco_panoptic:{tmp_path}", split="val")[0]

    segments[3]["category_id"] = 999
    fails("is of an unknown category")
    del segments[3]
    fails(r"has segment \d+, which panoptic_val2017\.json does not describe")
    described["annotations"][0]["file_name"] = "other.png"
    fails(r"says nothing of 000000000285\.png")
    described["annotations"] = 1
    fails("is damaged")
    path.unlink()
    refused("coco_panoptic", tmp_path, "val", "no such file")


def test_matlab_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(ImageError, match="no such file"):
        decoding.matlab(path, "LabelMap")
    path.write_bytes(b"MATLAB 5.0" * 30)
    with pytest.raises(ImageError, match="is not a MATLAB file with LabelMap, or is damaged"):
        decoding.matlab(path, "LabelMap")
    scipy.io.savemat(path, {"Other": np.zeros(SIZE), "Negative": np.full(SIZE, -1)})
    for key in ("LabelMap", "Negative"):
        with pytest.raises(ImageError, match=key):
            decoding.matlab(path, key)


def test_context_names_that_are_missing(tmp_path):
    context_matlab(tmp_path)
    path = tmp_path / "VOC2010/labels.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.endswith(": grass")))
    refused("context59", tmp_path, "mat_val", r"labels\.txt: lacks grass")
    path.write_text("grass\n")
    refused("context59", tmp_path, "mat_val", "lines are not like")
    path.unlink()
    refused("context59", tmp_path, "mat_val", "459 class names")
