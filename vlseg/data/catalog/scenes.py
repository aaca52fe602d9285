"""Scenes: streets, rooms, and of all kinds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlseg import labels
from vlseg.data import decoding
from vlseg.data.catalog.entry import Classes, Entry, Split, classes
from vlseg.data.examples import Decoder, Pair
from vlseg.data.pairs import by_name, first_of, in_parallel, inner

ADE20K_CLASSES = Classes(tuple(range(1, 151)), *2 * (labels.load("ade20k_150"),))
SUN = classes("sun_rgbd_37")
SUN_LABELS, SUN_TEST = "sunrgbd_train_test_labels", 5050
SPLITS = {"training": "train", "validation": "val"}
CITYSCAPES_CLASSES = classes("cityscapes_19")
IDD_CLASSES, MAPILLARY_CLASSES, CAMVID_CLASSES = classes("idd_26"), classes("mapillary_65"), classes("camvid_11")
CITYSCAPES_VOID = tuple(value for value in range(35) if value not in CITYSCAPES_CLASSES.values)
CITYSCAPES_COLOURS = np.array(
    [
        [128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153], [153, 153, 153],
        [250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60], [255, 0, 0],
        [0, 0, 142], [0, 0, 70], [0, 60, 100], [0, 80, 100], [0, 0, 230], [119, 11, 32],
    ],
    np.uint8,
)  # fmt: skip

CAMVID_COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Sky": ((128, 128, 128),),
    # Building, Wall, Archway, Bridge, Tunnel
    "Building": ((128, 0, 0), (64, 192, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64)),
    # Column_Pole, TrafficCone
    "Pole": ((192, 192, 128), (0, 0, 64)),
    # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "Road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # Sidewalk, ParkingBlock, RoadShoulder
    "Pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    # Tree, VegetationMisc
    "Tree": ((128, 128, 0), (192, 192, 0)),
    # SignSymbol, Misc_Text, TrafficLight
    "SignSymbol": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "Fence": ((64, 64, 128),),
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "Car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # Pedestrian, Child, CartLuggagePram, Animal
    "Pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # Bicyclist, MotorcycleScooter
    "Bicyclist": ((0, 128, 192), (192, 0, 192)),
}
"""The colours of the 32 original classes by the 11 that are scored (SegNet's grouping)."""


def _trees(
    images: str,
    labels: str,
    counts: Mapping[str, int],
    stored: Sequence[int],
    image_suffixes: Sequence[str] = (".jpg",),
    label_suffix: str = ".png",
    wrapper: str = "",
    other_labels: str = "",
    ignored: Sequence[int] = (),
) -> dict[str, Split]:
    """Splits in parallel trees, in whose paths {} stands for the split's folder.

    Args:
        counts: folder -> official number of examples.
        stored, ignored: the numbers of the classes, and of what does not count, see `decoding.by_value`.
        wrapper: the folder that archives bring along, if any. other_labels: where labels are in other archives.
    """

    def split(name: str) -> Split:
        def find(root: Path) -> list[Pair]:
            base = inner(root, wrapper)
            maps = first_of(base, labels.format(name), *([other_labels.format(name)] if other_labels else []))
            return in_parallel(base, images.format(name), maps, image_suffixes, label_suffix)

        return Split(find, decoding.numbers(stored, ignored), counts[name])

    return {SPLITS.get(name, name): split(name) for name in counts}


def _camvid_original() -> Split:
    """The authors' files, labels as colours; they have no official splits."""

    def find(root: Path) -> list[Pair]:
        return in_parallel(root, "701_StillsRaw_full", "LabeledApproved_full", (".png",), "_L.png")

    def decoder(_: Path) -> Decoder:
        names = CAMVID_CLASSES.names
        return decoding.colours({colour: names.index(name) for name in names for colour in CAMVID_COLOURS[name]})

    return Split(find, decoder, 701)


def _sun_label(stem: str, shift: int) -> str:
    """The label file of picture "img-000001"."""
    digits = stem.rpartition("-")[2]
    return f"img-{int(digits) + shift:06d}.png" if digits.isdecimal() else f"{stem}.png"


def _sun_rgbd(name: str, examples: int) -> Split:
    # Pictures count from 1 in either split; label files are in one count, those of the test split first.
    shift = SUN_TEST if name == "train" else 0

    def find(root: Path) -> list[Pair]:
        return by_name(root, f"SUNRGBD-{name}_images", ".jpg", lambda stem: f"{SUN_LABELS}/{_sun_label(stem, shift)}")

    return Split(find, decoding.numbers(SUN.values, [0]), examples)


CITYSCAPES = Entry(
    title="Cityscapes",
    classes=CITYSCAPES_CLASSES,
    splits=_trees(
        "leftImg8bit/{}",
        "gtFine/{}",
        {"train": 2975, "val": 500},
        CITYSCAPES_CLASSES.values,
        ("_leftImg8bit.png",),
        "_gtFine_labelIds.png",
        ignored=CITYSCAPES_VOID,
    ),
    licence="non-commercial, registration needed",
    address="https://www.cityscapes-dataset.com",
    layout="leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png",
    colours=CITYSCAPES_COLOURS,
)
BDD100K = Entry(
    title="BDD100K",
    classes=CITYSCAPES_CLASSES,
    splits=_trees(
        "images/10k/{}",
        "labels/sem_seg/masks/{}",
        {"train": 7000, "val": 1000},
        range(len(CITYSCAPES_CLASSES.names)),
        wrapper="bdd100k",
    ),
    licence="BSD 3-clause style, see the address",
    address="https://doc.bdd100k.com/license.html",
    layout="bdd100k/images/10k/{train,val}/*.jpg and bdd100k/labels/sem_seg/masks/{train,val}/*.png",
    colours=CITYSCAPES_COLOURS,
)
IDD = Entry(
    title="IDD (India Driving Dataset), level 3",
    classes=IDD_CLASSES,
    splits=_trees(
        "leftImg8bit/{}",
        "gtFine/{}",
        {"train": 6993, "val": 981},
        IDD_CLASSES.values,
        ("_leftImg8bit.png", "_leftImg8bit.jpg"),
        "_gtFine_labellevel3Ids.png",
        wrapper="IDD_Segmentation",
    ),
    licence="non-commercial, registration needed",
    address="https://idd.insaan.iiit.ac.in",
    layout=(
        "IDD_Segmentation/leftImg8bit/{train,val}/DRIVE/*_leftImg8bit.png and gtFine/{train,val}/DRIVE/"
        "*_gtFine_labellevel3Ids.png, which the authors' preperation/createLabels.py makes (--id-type level3Id)"
    ),
)
MAPILLARY = Entry(
    title="Mapillary Vistas 1.2",
    classes=MAPILLARY_CLASSES,
    splits=_trees(
        "{}/images",
        "{}/v1.2/labels",
        {"training": 18000, "validation": 2000},
        MAPILLARY_CLASSES.values,
        other_labels="{}/labels",
        ignored=(65,),
    ),
    licence="CC BY-NC-SA 4.0, registration needed",
    address="https://www.mapillary.com/dataset/vistas",
    layout="{training,validation}/images/*.jpg and {training,validation}/v1.2/labels/*.png",
)
CAMVID = Entry(
    title="CamVid",
    classes=CAMVID_CLASSES,
    splits={
        **_trees(
            "{}", "{}annot", {"train": 367, "val": 101, "test": 233}, CAMVID_CLASSES.values, (".png",), ignored=(11,)
        ),
        "all": _camvid_original(),
    },
    licence="none stated",
    address="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
    evaluation="test",
    layout=(
        "{train,val,test}/*.png and {train,val,test}annot/*.png (SegNet's copy); split all takes the authors' "
        "701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png"
    ),
    colours=np.array([colours[0] for colours in CAMVID_COLOURS.values()], np.uint8),
)
ADE20K = Entry(
    title="ADE20K (SceneParse150)",
    classes=ADE20K_CLASSES,
    splits=_trees(
        "images/{}",
        "annotations/{}",
        {"training": 20210, "validation": 2000},
        ADE20K_CLASSES.values,
        wrapper="ADEChallengeData2016",
        ignored=(0,),
    ),
    licence="pictures for non-commercial research, annotations BSD 3-clause",
    address="http://sceneparsing.csail.mit.edu",
    layout="ADEChallengeData2016/{images,annotations}/{training,validation}",
)
SUN_RGBD = Entry(
    title="SUN RGB-D",
    classes=SUN,
    splits={"train": _sun_rgbd("train", 5285), "test": _sun_rgbd("test", SUN_TEST)},
    licence="non-commercial research",
    address="https://github.com/ankurhanda/sunrgbd-meta-data",
    evaluation="test",
    layout="SUNRGBD-{train,test}_images/*.jpg and sunrgbd_train_test_labels/*.png, folders named like the archives",
)
