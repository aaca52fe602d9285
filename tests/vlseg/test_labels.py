import pytest

from vlseg import labels
from vlseg.errors import ConfigError, VocabularyError
from vlseg.labels import check_names, names_from


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
        ("clothing_59", 59, "background", "wedges"),
    ],
)
def test_lists_are_complete_and_clean(name, count, first, last):
    names = labels.load(name)
    assert len(names) == len(set(names)) == count
    assert (names[0], names[-1]) == (first, last)
    assert all(entry and entry == entry.strip().lower().replace("cctv", "CCTV") and "," not in entry for entry in names)


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


def test_names_from_text(tmp_path):
    assert names_from("cat, wet grass ,dog") == ("cat", "wet grass", "dog")
    assert names_from("cat") == ("cat",)
    assert names_from("wet \t grass") == ("wet grass",)


def test_names_from_file(tmp_path):
    path = tmp_path / "list"
    path.write_text("# kinds\n0: café\n1: wall, brick\n", encoding="utf-8")
    assert names_from(path) == names_from(str(path)) == ("café", "wall, brick")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there are no categories"),
        ("  ", "there are no categories"),
        ("cat,,dog", "category 1 has a blank name"),
        ("cat,dog,", "category 2 has a blank name"),
        ("cat, dog,cat", "'cat' and 'cat' are the same category"),
        ("nowhere/names.txt", "no such file of category names"),
    ],
)
def test_names_from_bad_text(text, problem):
    with pytest.raises(VocabularyError, match=problem) as error:
        names_from(text)
    assert "\n" not in str(error.value)


def test_names_from_bad_files(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80\x81")
    with pytest.raises(VocabularyError, match="not a text file"):
        names_from(tmp_path / "binary")
    with pytest.raises(VocabularyError, match="no such file"):
        names_from(tmp_path / "nowhere")


def test_case_tells_the_classes_of_data_sets_apart_but_not_the_words_for_models(tmp_path):
    (tmp_path / "names.txt").write_text("0: Turkey\n1: turkey\n")
    assert names_from(tmp_path / "names.txt") == ("Turkey", "turkey")
    with pytest.raises(VocabularyError, match=r"^'Turkey' and 'turkey' are the same category: give each name once$"):
        check_names(("Turkey", "turkey"))
    with pytest.raises(VocabularyError, match=r"^names\.txt: 'wet grass' and 'wet grass' are the same label"):
        check_names(["wet grass", "wet  grass"], "label", "labels", source="names.txt", ignore_case=False)


def test_names_of_a_list_by_its_name():
    assert names_from("voc_20") == labels.load("voc_20")
    assert names_from("voc_20,cat") == ("voc_20", "cat")


def test_names_have_single_spaces():
    assert check_names([" cat", "traffic \t light\n", "猫", "кошка"]) == ("cat", "traffic light", "猫", "кошка")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", "one string"),
        ([], "no labels"),
        (["cat", 3], "list of strings"),
        (None, "list of strings"),
        ({"cat": 1}, "list of strings"),
        ((name for name in ("cat", "dog")), "list of strings"),
        (["cat", ""], "label 1 has a blank name"),
        (["\t ", "cat"], "label 0 has a blank name"),
        (["cat", "dog", " Cat "], "the same label"),
        (["straße", "STRASSE"], "the same label"),
        (["hot dog", "hot  dog"], "the same label"),
    ],
)
def test_names_that_models_cannot_use(names, message):
    with pytest.raises(VocabularyError, match=message) as caught:
        check_names(names, "label", "labels")
    assert "\n" not in str(caught.value)
