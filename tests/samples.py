"""Small samples of data sets in their official layouts, with the official encodings, and of the few-shot benchmarks."""

import json
import pickle
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from vlseg import labels
from vlseg.data.catalog import fss1000, pascal

SIZE = (24, 32)


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
    folder = {"train": "training", "val": "validation"}[split]
    picture(root / f"{folder}/images/x.jpg")
    stored = blocks(range(66))
    palette(root / f"{folder}/v1.2/labels/x.png", stored)
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


CAMVID_COLOURS = [
    (128, 128, 128), (64, 192, 0), (192, 192, 128), (128, 0, 192), (0, 0, 192), (192, 192, 0),
    (0, 64, 64), (64, 64, 128), (192, 128, 192), (192, 128, 64), (192, 0, 192), (0, 0, 0),
]  # fmt: skip
"""Of original classes, one for each id: Sky, Wall, Column_Pole, LaneMkgsDriv, Sidewalk, VegetationMisc, TrafficLight,
Fence, Truck_Bus, Child and MotorcycleScooter; and of Void."""


def camvid_original(root, split="all"):
    picture(root / "701_StillsRaw_full/0001TP_006690.png")
    places = blocks(range(12))
    grey(root / "LabeledApproved_full/0001TP_006690_L.png", np.array(CAMVID_COLOURS)[places])
    return {"0001TP_006690": np.where(places == 11, 255, places)}


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


def clothing(root, split="val"):
    """Ids are stored as they are; "null" is the background. Numbers % 7: 0001 and 0007 train, 0004 test, 0006 val."""
    maps, found = root / "annotations/pixel-level", {}
    maps.mkdir(parents=True)
    for number in (1, 4, 6, 7, 1004):
        picture(root / f"photos/{number:04d}.jpg", number)
        stored = blocks(range(59), number).astype(np.uint8)
        scipy.io.savemat(maps / f"{number:04d}.mat", {"groundtruth": stored}, do_compression=True)
        if {3: "test", 5: "val"}.get((number - 1) % 7, "train") == split:
            found[f"{number:04d}"] = stored
    picture(root / "photos/1005.jpg")
    scipy.io.savemat(root / "label_list.mat", {"label_list": cells(["null", *labels.load("clothing_59")[1:]])})
    return found


def cells(texts):
    """A row of texts as MATLAB has it, object [1, N]."""
    row = np.empty((1, len(texts)), object)
    row[0] = texts
    return row


PLAIN = {
    ade20k: ("val", "train"), coco_stuff: ("val", "train"), coco_unseen: ("val",), coco_seen: ("val",),
    coco_object: ("val",), coco_panoptic: ("val",), cityscapes: ("val",), mapillary: ("val",),
    sun_rgbd: ("train", "test"), camvid: ("test",), clothing: ("train", "val", "test"),
}  # fmt: skip
SAMPLES = {(make.__name__, split): make for make, splits in PLAIN.items() for split in splits} | {
    ("voc20", "val"): voc(1, "SegmentationClass", "val"),
    ("voc21", "train"): voc(0, "SegmentationClass", "train"),
    ("voc21", "trainaug"): voc(0, "SegmentationClassAug", "trainaug"),
    ("voc20", "sbd_train"): sbd,
    ("context59", "val"): voc(1, "SegmentationClassContext", "val", "SegmentationContext", "VOC2010"),
    ("context60", "val"): voc(0, "SegmentationClassContext", "val", "SegmentationContext", "VOC2010"),
    ("context59", "mat_val"): context_matlab,
    ("bdd100k", "val"): trees("bdd100k/images/10k/{}", "bdd100k/labels/sem_seg/masks/{}", 19, stem="b1c66a42-6f7d68ca"),
    ("idd", "val"): trees("leftImg8bit/{}", "gtFine/{}", 26, "_leftImg8bit.jpg", "_gtFine_labellevel3Ids.png"),
    ("camvid", "all"): camvid_original,
    ("fss1000", "test"): fss,
}


# The few-shot benchmarks in HSNet's layout


def labelled(root, image, label, values, seed):
    """A picture, and a label map of these values, which is returned."""
    picture(root / image, seed)
    stored = np.random.default_rng(seed).choice(values, SIZE)
    grey(root / label, stored)
    return stored


def pascal5i(root):
    """Two pictures a fold, in both lists. Returns {stem: label map}."""
    stored = {}
    for fold in range(4):
        lines = []
        for number, class_id in enumerate((5 * fold + 1, 5 * fold + 5)):
            stem = f"2007_00{fold}{number:03d}"
            image, label = f"VOC2012/JPEGImages/{stem}.jpg", f"VOC2012/SegmentationClassAug/{stem}.png"
            stored[stem] = labelled(root, image, label, [0, class_id, 7, 255], 10 * fold + number)
            lines.append(f"{stem}__{class_id:02d}")
        for part in ("val", "trn"):
            (root / f"splits/pascal/{part}").mkdir(parents=True, exist_ok=True)
            (root / f"splits/pascal/{part}/fold{fold}.txt").write_text("\n".join(lines) + "\n")
    return stored


def coco20i(root, fold):
    """Two pictures a class, listed for this fold. Returns the test pictures by class."""
    lists = {part: {class_id: [] for class_id in range(80)} for part in ("val", "trn")}
    for class_id in range(80):
        part = "val" if class_id in range(fold, 80, 4) else "trn"
        for number in range(2):
            name = f"{part}2014/COCO_{part}2014_{class_id:06d}{number:06d}"
            values = [0, 3, class_id + 1, 255]
            labelled(root / "COCO2014", f"{name}.jpg", f"annotations/{name}.png", values, class_id)
            lists[part][class_id].append(f"{name}.jpg")
    for part, pictures in lists.items():
        (root / f"splits/coco/{part}").mkdir(parents=True)
        (root / f"splits/coco/{part}/fold{fold}.pkl").write_bytes(pickle.dumps(pictures))
    return lists["val"]
