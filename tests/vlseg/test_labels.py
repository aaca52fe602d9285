import pytest

from vlseg import labels
from vlseg.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("coco_stuff_171", 171, "person", "wood"),
        ("coco_unseen_15", 15, "frisbee", "playingfield"),
        ("coco_seen_156", 156, "person", "wood"),
        ("ade20k_150", 150, "wall", "flag"),
        ("ade20k_150_lseg", 150, "wall", "flag"),
        ("coco_panoptic_133", 133, "person", "rug"),
        ("coco_object_80", 80, "person", "toothbrush"),
        ("voc_20", 20, "aeroplane", "tv monitor"),
        ("pascal_context_59", 59, "aeroplane", "wood"),
        ("cityscapes_19", 19, "road", "bicycle"),
        ("idd_26", 26, "road", "sky"),
        ("mapillary_65", 65, "bird", "ego vehicle"),
        ("sun_rgbd_37", 37, "wall", "bag"),
        ("camvid_11", 11, "sky", "bicyclist"),
        ("pascal_5i_20", 20, "aeroplane", "tvmonitor"),
        ("coco_20i_80", 80, "person", "toothbrush"),
        ("fss_1000", 1000, "ac_wall", "wooden_spoon"),
    ],
)
def test_lists_are_complete_and_clean(name, count, first, last):
    names = labels.load(name)
    assert len(names) == len(set(names)) == count
    assert (names[0], names[-1]) == (first, last)
    assert all(entry and entry == entry.strip().lower().replace("cctv", "CCTV") and "," not in entry for entry in names)


def test_every_list_in_the_package_is_known():
    assert len(labels.known()) == 17
    assert labels.known()[:3] == ("ade20k_150", "ade20k_150_lseg", "camvid_11")


def test_unseen_names_in_the_order_of_the_official_prompt():
    assert labels.load("coco_unseen_15") == (
        "frisbee", "skateboard", "cardboard", "carrot", "scissors", "suitcase", "giraffe", "cow",
        "road", "concrete wall", "tree", "grass", "river", "clouds", "playingfield",
    )  # fmt: skip


def test_seen_and_unseen_split_coco_stuff():
    everything, seen, unseen = (labels.load(n) for n in ("coco_stuff_171", "coco_seen_156", "coco_unseen_15"))
    assert set(seen) | set(unseen) == set(everything)
    assert not set(seen) & set(unseen)
    assert seen == tuple(name for name in everything if name not in unseen)


@pytest.mark.parametrize(
    ("index", "name"),
    [(0, "person"), (79, "toothbrush"), (80, "banner"), (157, "tree"), (160, "concrete wall"), (170, "wood")],
)
def test_coco_stuff_ids(index, name):
    assert labels.load("coco_stuff_171")[index] == name


@pytest.mark.parametrize(("index", "name"), [(8, "windowpane"), (12, "person"), (61, "bridge"), (149, "flag")])
def test_ade20k_ids(index, name):
    assert labels.load("ade20k_150")[index] == name


@pytest.mark.parametrize("name", ["coco", "", "../labels/coco_unseen_15", "ade20k_150.txt"])
def test_unknown_list_names_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"ade20k_150, ade20k_150_lseg, .*, voc_20") as caught:
        labels.load(name)
    assert "\n" not in str(caught.value)
