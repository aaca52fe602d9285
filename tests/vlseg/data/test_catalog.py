"""Every data set of the catalog on a small sample in its official layout, with the official encodings."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from PIL import Image

from vlseg import labels
from vlseg.data import catalog
from vlseg.data.catalog import decoding, fss1000, pascal
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError, DatasetError, ImageError
from vlseg.evaluation import confusion

SIZE = (24, 32)
SHIFTED = range(1, 256)


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)


def blocks(values, seed: int = 0) -> np.ndarray:
    """A label map that holds each of these values."""
    values = np.asarray(values)
    drawn = np.random.default_rng(seed).choice(values, SIZE)
    drawn.reshape(-1)[: len(values)] = values
    return drawn


def grey(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def palette(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array.astype(np.uint8)).convert("P")
    image.putpalette(pascal.bits_palette(256).tobytes())
    assert (np.asarray(image) == array).all()
    image.save(path)


def looked_up(array: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    return np.vectorize(lambda value: ids.get(value, 255))(array)


# Samples: (name, split) -> function that makes the files below a root and returns {name of a pair: its true ids}


def ade20k(root, split="val"):
    folder = {"train": "training", "val": "validation"}[split]
    found = {}
    for index in range(2):
        stem = f"ADE_{split}_{index:08d}"
        picture(root / f"ADEChallengeData2016/images/{folder}/{stem}.jpg", index)
        stored = blocks(range(151), index)
        grey(root / f"ADEChallengeData2016/annotations/{folder}/{stem}.png", stored)
        found[stem] = np.where(stored == 0, 255, stored - 1)
    return found


MISSING_FROM_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_IDS = [number for number in range(1, 183) if number not in MISSING_FROM_COCO]


def coco_maps(root, split, folder):
    stem = "000000000139"
    picture(root / f"images/{split}2017/{stem}.jpg")
    # The files hold COCO's ids less one.
    stored = blocks([*(number - 1 for number in COCO_IDS), 255])
    grey(root / folder / f"{split}2017/{stem}.png", stored)
    grey(root / folder / f"{split}2017/{stem}_labelTrainIds.png", stored)
    return stem, stored


def coco_stuff(root, split="val"):
    stem, stored = coco_maps(root, split, "annotations")
    return {stem: looked_up(stored, {number - 1: index for index, number in enumerate(COCO_IDS)})}


UNSEEN_IDS = (34, 41, 100, 57, 87, 33, 25, 21, 149, 172, 169, 124, 148, 106, 145)  # in the order of the prompt


def coco_unseen(root, split="val"):
    stem, stored = coco_maps(root, split, "stuffthingmaps")
    return {stem: looked_up(stored, {number - 1: index for index, number in enumerate(UNSEEN_IDS)})}


def coco_seen(root, split="val"):
    stem, stored = coco_maps(root, split, "stuffthingmaps")
    kept = [number for number in COCO_IDS if number not in UNSEEN_IDS]
    return {stem: looked_up(stored, {number - 1: index for index, number in enumerate(kept)})}


def coco_object(root, split="val"):
    stem, stored = coco_maps(root, split, "stuffthingmaps")
    things = [number for number in COCO_IDS if number <= 90]
    places = {number - 1: 1 + index for index, number in enumerate(things)}
    return {stem: np.vectorize(lambda value: places.get(value, 0))(stored)}


PANOPTIC_IDS = [
    *(number for number in COCO_IDS if number <= 90),
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154),
    *(155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
]


def coco_panoptic(root, split="val"):
    stem = "000000000285"
    picture(root / f"images/{split}2017/{stem}.jpg")
    chosen = blocks([0, *PANOPTIC_IDS])
    numbers = np.where(chosen == 0, 0, 7_000_000 + 1000 * chosen)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1)
    grey(root / f"annotations/panoptic_{split}2017/{stem}.png", colours)
    info = [{"id": 7_000_000 + 1000 * number, "category_id": number, "iscrowd": 0} for number in PANOPTIC_IDS]
    described = {"annotations": [{"file_name": f"{stem}.png", "image_id": 285, "segments_info": info}]}
    (root / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(described))
    return {stem: looked_up(chosen, {number: index for index, number in enumerate(PANOPTIC_IDS)})}


def voc(first, labels, split, lists="Segmentation", year="VOC2012"):
    """Palette PNGs whose value `first` is the first class."""

    def make(root, split=split):
        base, found = root / "VOCdevkit" / year, {}
        count = 59 if "Context" in labels else 20
        for stem in ("2007_000033", "2007_000042"):
            picture(base / f"JPEGImages/{stem}.jpg")
            stored = blocks([*range(count + 1), 255])
            palette(base / f"{labels}/{stem}.png", stored)
            found[stem] = np.where((stored < first) | (stored == 255), 255, stored - first)
        picture(base / "JPEGImages/2012_000001.jpg")
        (base / f"ImageSets/{lists}").mkdir(parents=True)
        (base / f"ImageSets/{lists}/{split}.txt").write_text("\n".join(found) + "\n")
        return found

    return make


def sbd(root, split="sbd_train"):
    base, stem = root / "benchmark_RELEASE/dataset", "2008_000002"
    picture(base / f"img/{stem}.jpg")
    stored = blocks(range(21)).astype(np.uint8)
    (base / "cls").mkdir()
    scipy.io.savemat(base / f"cls/{stem}.mat", {"GTcls": {"Boundaries": np.zeros(3), "Segmentation": stored}})
    (base / "train.txt").write_text(f"{stem}\n")
    return {stem: np.where(stored == 0, 255, stored.astype(int) - 1)}


def context_matlab(root, split="mat_val"):
    """459 classes in an order of their own; here the 59 are every seventh, backwards."""
    base, stem = root / "VOC2010", "2008_000008"
    picture(base / f"JPEGImages/{stem}.jpg")
    names = labels.load("pascal_context_59")
    numbers = {name.replace(" ", ""): 7 * (59 - index) for index, name in enumerate(names)}
    others = {f"other {number}": number for number in range(1, 460) if number not in numbers.values()}
    lines = sorted((number, name) for name, number in {**numbers, **others}.items())
    stored = blocks([0, *range(1, 460)]).astype(np.uint16)
    (base / "trainval").mkdir()
    (base / "labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in lines))
    scipy.io.savemat(base / f"trainval/{stem}.mat", {"LabelMap": stored})
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Main/val.txt").write_text(f"{stem}\n")
    places = {number: index for index, number in enumerate(numbers.values())}
    return {stem: looked_up(stored, places)}


CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root, split="val"):
    stem = "frankfurt/frankfurt_000000_000294"
    picture(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
    stored = blocks(range(34))
    grey(root / f"gtFine/{split}/{stem}_gtFine_labelIds.png", stored)
    grey(root / f"gtFine/{split}/{stem}_gtFine_instanceIds.png", stored)
    return {stem: looked_up(stored, {value: index for index, value in enumerate(CITYSCAPES_IDS)})}


def trees(images, maps, values, image_suffix=".jpg", label_suffix=".png", stem="abc/0001"):
    """Parallel trees of files whose values are ids, `values` of them, and the next one and 255 void."""

    def make(root, split="val"):
        picture(root / images.format(split) / f"{stem}{image_suffix}")
        stored = blocks([*range(values), 255])
        grey(root / maps.format(split) / f"{stem}{label_suffix}", stored)
        return {stem: stored}

    return make


def mapillary(root, split="val"):
    picture(root / "validation/images/x.jpg")
    stored = blocks(range(66))
    palette(root / "validation/v1.2/labels/x.png", stored)
    return {"x": np.where(stored == 65, 255, stored)}


def sun_rgbd(root, split="train"):
    # Labels are in one count, the 5050 of the test split first.
    found, shift = {}, 5050 if split == "train" else 0
    for number in (1, 5050, 5051, 5285) if split == "train" else (1, 5050):
        picture(root / f"SUNRGBD-{split}_images/img-{number:06d}.jpg")
        stored = blocks(range(38), number)
        grey(root / f"sunrgbd_train_test_labels/img-{number + shift:06d}.png", stored)
        found[f"img-{number:06d}"] = np.where(stored == 0, 255, stored - 1)
    return found


def camvid(root, split="test"):
    picture(root / "test/0001TP_008550.png")
    stored = blocks(range(12))
    grey(root / "testannot/0001TP_008550.png", stored)
    return {"0001TP_008550": np.where(stored == 11, 255, stored)}


CAMVID = {  # colour -> id, of some original classes
    (128, 128, 128): 0,  # Sky
    (64, 192, 0): 1,  # Wall
    (192, 192, 128): 2,  # Column_Pole
    (128, 0, 192): 3,  # LaneMkgsDriv
    (0, 0, 192): 4,  # Sidewalk
    (192, 192, 0): 5,  # VegetationMisc
    (0, 64, 64): 6,  # TrafficLight
    (64, 64, 128): 7,  # Fence
    (192, 128, 192): 8,  # Truck_Bus
    (192, 128, 64): 9,  # Child
    (192, 0, 192): 10,  # MotorcycleScooter
    (0, 0, 0): 255,  # Void
}


def camvid_original(root, split="all"):
    picture(root / "701_StillsRaw_full/0001TP_006690.png")
    places = blocks(range(len(CAMVID)))
    grey(root / "LabeledApproved_full/0001TP_006690_L.png", np.array(list(CAMVID))[places])
    return {"0001TP_006690": np.array(list(CAMVID.values()))[places]}


def fss(root, split="test"):
    found = {}
    for name in ("abacus", "bus"):
        if name not in fss1000.NAMES:
            continue
        for number in range(1, 4):
            picture(root / f"FSS-1000/{name}/{number}.jpg", number)
            mask = blocks([0, 1], number)
            # White as it is written, with the noise that edges have.
            shown = np.where(mask == 1, 255 - number, number)[..., None].repeat(3, axis=-1)
            grey(root / f"FSS-1000/{name}/{number}.png", shown)
            if fss1000.NAMES.index(name) in fss1000.SPLITS[split]:
                found[f"{name}/{number}"] = np.where(mask == 1, fss1000.NAMES.index(name), -1)
    return found


SAMPLES = {
    ("ade20k", "val"): ade20k,
    ("ade20k", "train"): ade20k,
    ("coco_stuff", "val"): coco_stuff,
    ("coco_stuff", "train"): coco_stuff,
    ("coco_unseen", "val"): coco_unseen,
    ("coco_seen", "val"): coco_seen,
    ("coco_object", "val"): coco_object,
    ("coco_panoptic", "val"): coco_panoptic,
    ("voc20", "val"): voc(1, "SegmentationClass", "val"),
    ("voc21", "train"): voc(0, "SegmentationClass", "train"),
    ("voc21", "trainaug"): voc(0, "SegmentationClassAug", "trainaug"),
    ("voc20", "sbd_train"): sbd,
    ("context59", "val"): voc(1, "SegmentationClassContext", "val", "SegmentationContext", "VOC2010"),
    ("context60", "val"): voc(0, "SegmentationClassContext", "val", "SegmentationContext", "VOC2010"),
    ("context59", "mat_val"): context_matlab,
    ("cityscapes", "val"): cityscapes,
    ("bdd100k", "val"): trees("bdd100k/images/10k/{}", "bdd100k/labels/sem_seg/masks/{}", 19, stem="b1c66a42-6f7d68ca"),
    ("idd", "val"): trees("leftImg8bit/{}", "gtFine/{}", 26, "_leftImg8bit.jpg", "_gtFine_labellevel3Ids.png"),
    ("mapillary", "val"): mapillary,
    ("sun_rgbd", "train"): sun_rgbd,
    ("sun_rgbd", "test"): sun_rgbd,
    ("camvid", "test"): camvid,
    ("camvid", "all"): camvid_original,
    ("fss1000", "test"): fss,
}


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
    assert len(entry.names) == len(entry.prompts) == len(set(entry.prompts))
    assert entry.licence and entry.address.startswith("http") and entry.layout and "\n" not in entry.layout
    assert all(split.examples > 0 for split in entry.splits.values())
    if entry.colours is not None:
        assert entry.colours.shape == (len(entry.names), 3) and entry.colours.dtype == np.uint8


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
    ],
)
def test_official_names(name, count, first, last):
    names = catalog.entry(name).names
    assert (len(names), names[0], names[-1]) == (count, first, last)


def test_context_counts_in_alphabetical_order():
    # Two values of pictures that are known to show a screen before a window.
    names = catalog.entry("context60").names
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
