"""Names files as people have them: each is read, or refused in one line; none is taken for names that it has not."""

import json
import os

import pytest

from vlseg.errors import VocabularyError
from vlseg.labels import names_from, read_names, read_names_file

NAMES = ("wall", "floor")
ADE = "\t1\t0.15\t11664\t1172\t1\twall\n2\t0.1\t6046\t612\t1\tbuilding, edifice\n".lstrip()

READ = {
    "plain.txt": ("# two\n\nwall\r\n floor ", None),
    "mac.txt": ("wall\rfloor\r", None),
    "spaces.txt": ("0 wall\n1 floor", 0),
    "colons.txt": ("1: wall\n2:floor", 1),
    "tabs.txt": ("0\twall\n1\tfloor", 0),
    "commas.txt": ("0,wall\n1, floor", 0),
    "numbered.txt": ("1. wall\n2) floor", 1),
    "behind.txt": ("wall: 0\nfloor: 1", 0),
    "another_order.txt": ("1: floor\n0: wall", 0),
    "quoted.txt": ("'wall'\n\"floor\"", None),
    "curly.txt": ("\u201cwall\u201d\n\u201cfloor\u201d", None),
    "one_quoted.txt": ('wall\n"floor"', None),
    "bullets.txt": ("- wall\n- floor", None),
    "brackets.txt": ("(0) wall\n(1) floor", 0),
    "arrows.txt": ("0 -> wall\n1 -> floor", 0),
    "equal.txt": ("0=wall\n1 = floor", 0),
    "dashes.txt": ("0 - wall\n1 - floor", 0),
    "full_width.txt": ("\uff10\uff1awall\n\uff11\uff1afloor", 0),
    "separators.txt": ("wall\u2028floor\x0b", None),
    "slashes.txt": ("// two\nwall\nfloor", None),
    "marks.txt": ("\u202awall\u202c\n\u200cfloor\u200e", None),
    "excel.csv": ("sep=;\nid;name;\n0;wall;\n;;\n1;floor;\n;;", 0),
    "heading.csv": ("id,name\n0,wall\n1,floor", 0),
    "names_first.csv": ("Name,ID\nwall,7\nfloor,8", 7),
    "semicolons.csv": ("\ufeffid;class\n0;wall\n1;floor", 0),
    "one_column.csv": ("name\nwall\nfloor", None),
    "no_heading.csv": ("0,wall\n1,floor", 0),
    "table.tsv": ("index\tlabel\tcolour\n0\twall\t#ff0000\n1\tfloor\t#00ff00", 0),
    "of_pandas.csv": (",name\n0,wall\n1,floor", 0),
    "_classes.csv": ("Pixel Value, Class\n0, wall\n1, floor", 0),  # Roboflow
    "data.yaml": ("train: ../images\nnc: 2\nnames: ['wall', 'floor']\n", None),  # Roboflow, YOLO
    "coco.yaml": ("names:\n  0: wall\n  1: floor\n", 0),
    "list.json": ('["wall", "floor"]', None),
    "by_id.json": ('{"1": "floor", "0": "wall"}', 0),
    "ids.json": ('{"floor": 1, "wall": 0}', 0),
    "coco.json": ('{"images": [], "categories": [{"id": 2, "name": "floor"}, {"id": 1, "name": "wall"}]}', 1),
    "config.json": ('{"id2label": {"0": "wall", "1": "floor"}, "label2id": {"wall": 0, "floor": 1}}', 0),
    "cvat.json": (
        '[{"name": "wall", "id": 90, "attributes": []}, {"name": "floor", "id": 12, "attributes": []}]',
        None,
    ),
    "meta.json": (
        '{"classes": [{"title": "wall", "shape": "any", "id": 9}, {"title": "floor", "shape": "any"}]}',
        None,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, tmp_path):
    content, first = READ[name]
    (tmp_path / name).write_bytes(content.encode())
    assert read_names(tmp_path / name) == (NAMES, first)
    assert names_from(str(tmp_path / name)) == NAMES


@pytest.mark.parametrize(
    ("name", "content", "names", "first"),
    [
        ("objectInfo150.txt", f"Idx\tRatio\tTrain\tVal\tStuff\tName\n{ADE}", ("wall", "building"), 1),
        ("spaces.txt", "Idx  Ratio  Train  Val  Name\n1  0.1  11  1  wall\n2  0.1  6  2  screen door, screen",
         ("wall", "screen door"), 1),
        ("objectInfo150.csv", "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,1,1,1,wall\n2,0.1,6,6,0,house;home",
         ("wall", "house"), 1),
        ("labels.txt", "__ignore__\n_background_\nperson", ("background", "person"), None),  # LabelMe
        ("ade.json", json.dumps({"id2label": {str(i): f"c{i}" for i in sorted(range(12), key=str)}}),
         tuple(f"c{i}" for i in range(12)), 0),  # ids that were sorted as text
        ("class_names.txt", "_background_\nperson", ("background", "person"), None),
        ("no.yaml", "names: [yes, no, 1]", ("yes", "no", "1"), None),
        ("signs.txt", "a=b\nc=1", ("a=b", "c=1"), None),
        ("commas.txt", "building, edifice\nwall", ("building, edifice", "wall"), None),
        ("quotes.csv", 'id,name\n0,"wall, brick"\n1,"a ""b"""', ("wall, brick", 'a "b"'), 0),
        ("numbers.txt", "car\n4 wheeler\n2.5 cm nail\na=b", ("car", "4 wheeler", "2.5 cm nail", "a=b"), None),
    ],
)  # fmt: skip
def test_what_else_is_read(name, content, names, first, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_names(tmp_path / name) == (names, first)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nwall:255,0,0::\nfloor:0,128,64:a,b:\n"),  # CVAT
        ("label_colors.txt", "255 0 0\twall\n0 128 64\tfloor"),  # CamVid
        ("class_dict.csv", "name,r,g,b\nwall,255,0,0\nfloor,0,128,64"),
        ("names.txt", "wall 255 0 0\nfloor 0 128 64"),
        ("labels.json", '{"labels": [{"name": "wall", "color": [255, 0, 0]}, {"name": "floor", "color": "#008040"}]}'),
    ],
)
def test_colours(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_names_file(tmp_path / name) == (NAMES, None, ((255, 0, 0), (0, 128, 64)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_and_forms_of_unicode(encoding, tmp_path):
    (tmp_path / "names").write_bytes("cafe\u0301\r\nwet\u00a0\u200b grass\r\n".encode(encoding))
    assert names_from(tmp_path / "names") == ("café", "wet grass")


REFUSED = {
    "gap.txt": ("0: wall\n1: floor\n255: void", "255 follows 1"),
    "gap.json": ('[{"id": 1, "name": "wall"}, {"id": 3, "name": "floor"}]', "3 follows 1"),
    "twice.txt": ("0: wall\n0: floor", "0 follows 0"),
    "negative.txt": ("-1: unlabeled\n0: wall", "gives ids to some names"),
    "some.txt": ("0: wall\nfloor", "gives ids to some names"),
    "far.txt": ("7 wall\n8 floor", 'write "id: name"'),
    "twice.json": ('{"wall": 0, "wall": 1}', "twice"),
    "twice.yaml": ("names:\n  0: wall\n  0: floor\n", "not YAML"),
    "count.yaml": ("nc: 3\nnames: [wall, floor]", "says that there are 3"),
    "aliases.yaml": ("a: &a [x]\nnames: *a", "aliases"),
    "differ.json": ('{"names": ["wall"], "classes": ["floor"]}', "differ"),
    "broken.json": ('["wall",', "not JSON"),
    "numbers.json": ("[1, 2]", "where a name is expected"),
    "deep.json": ("[" * 100_000, "nested"),
    "photo.json": ('{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}', "neither from ids"),
    "row.txt": ("cat,dog,bird", "commas in every line"),
    "rows.csv": ("wall,floor\nsky,tree", "without a heading"),
    "short.csv": ("id,name\n0,wall\n1", "2 columns, but 1 in row 3"),
    "open.csv": ('id,name\n0,"wall\n1,floor', "quotation mark is open"),
    "ids.csv": ("name,id,trainId\nroad,7,0\nwall,11,3", "several columns of ids"),
    "heading.txt": ("name\nwall\nfloor", "looks like a heading"),
    "cvat.txt": ("# label:color_rgb:parts:actions\nwall", "colour map of CVAT"),
    "colour.txt": ("wall:300,0,0::", "no red, green and blue"),
    "snap.txt": ('0 0 0 0 0 0 0 "Clear"\n1 255 0 0 1 1 1 "wall"', "with a heading"),
    "labels.txt": ("person\n__ignore__", "__ignore__"),
    "ignored.txt": ("0: __ignore__\n1: person", "gives an id to __ignore__"),
    "list.py.txt": ("'wall',\n'floor',", "looks like no name"),
    "rows.txt": ('"wall","floor"\n"sky","tree"', "commas in every line"),
    "commas.txt": ("wall\uff0cfloor\u3001sky", "commas in every line"),
    "semicolons.txt": ("wall; floor; sky", "looks like no name"),
    "behind.txt": ("wall\nfloor # brown", "looks like no name"),
    "percent.txt": ("% two\nwall\nfloor", "looks like no name"),
    "classes.txt": ("Class Names\nwall\nfloor", "looks like a heading"),
    "count.txt": ("2\nwall\nfloor", "looks like no name"),
    "pictures.txt": ("images/a.jpg labels/a.png\nimages/b.jpg labels/b.png", "looks like no name"),
    "voc.txt": ("2007_000032\n2007_000039", "looks like no name"),
    "synsets.txt": ("n02119789 kit fox\nn02100735 setter", "looks like no name"),
    "joined.txt": ("0_wall\n1_floor", 'write "id: name"'),
    "words.txt": ("class 0: wall\nclass 1: floor", 'write "id: name"'),
    "hex.txt": ("wall #ff0000\nfloor #00ff00", "looks like no name"),
    "table.md": ("| id | name |\n|----|----|\n| 0 | wall |", "looks like no name"),
    "label_map.pbtxt": ("item {\n  name: 'wall'\n}", "looks like no name"),
    "coco.data": ("classes= 80\ntrain = a.txt\nnames = b.names", "settings"),
    "labels.xml": ("<?xml version='1.0'?><annotations/>", "XML"),
    "page.txt": ("<!DOCTYPE html><html>", "HTML page"),
    "pointer.txt": ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3", "Git LFS pointer"),
    "empty.txt": ("", "there are no categories"),
    "lost.txt": ("caf\ufffd\nwall", "lost"),
    "digits.txt": (f"{'9' * 5000} wall\n0 floor", "no number from 0"),
    "control.txt": ("wall\n\x1b[31mfloor", "not a text file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    content, message = REFUSED[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(VocabularyError, match=message) as error:
        names_from(str(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["café".encode("latin-1"), "wall\nfloor".encode("utf-16-be"), b"\x89PNG\r\n\x1a\n"])
def test_other_encodings_are_refused(content, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"names\.txt: is not a text file"):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    "text",
    ["names.txt", "classes.csv", "a.tsv", "labels.json", "data.yaml", "coco.names", "a b.yml", "folder/names", "./cat",
     "~/cat", "C:\\names", "gs://bucket/names", "cat,other.txt", "/no/such,place.txt"],
)  # fmt: skip
def test_a_file_that_is_not_there_is_no_name(text):
    with pytest.raises(VocabularyError, match="no such file of category names"):
        names_from(text)


@pytest.mark.parametrize(
    "text",
    ["grass; sky", "grass|sky", "grass\nsky", "grass\tsky", "['grass', 'sky']", '["grass", "sky"]', "('grass','sky')",
     "grass\uff0csky", "grass\u3001sky", '"sky, blue",grass', "0: grass, 1: sky", "grass:0,sky:1", "{0: 'grass'}"],
)  # fmt: skip
def test_lists_in_another_form_are_no_names(text):
    with pytest.raises(VocabularyError, match="give names with commas") as error:
        names_from(text)
    assert "\n" not in str(error.value)


def test_quotes_around_names_are_no_part_of_them():
    assert names_from("'grass', \"sky\"\n") == ("grass", "sky")
    assert names_from("rock 'n' roll,5\" pipe,T-shirt (red),C#,a:b") == ("rock 'n' roll", '5" pipe', "T-shirt (red)",
                                                                       "C#", "a:b")  # fmt: skip


def test_folders_links_and_pipes(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe.txt")
    for name, message in {"": "a folder", "link": "a link to", "pipe.txt": "a pipe"}.items():
        with pytest.raises(VocabularyError, match=message):
            names_from(str(tmp_path / name))


def test_lists_by_a_wrong_name_and_pairs():
    with pytest.raises(VocabularyError, match="did you mean ade20k_150"):
        names_from("ade20k_15")
    assert names_from("a=b,c", pairs=True) == ("a=b", "c")
    with pytest.raises(VocabularyError, match="give the word alone"):
        names_from("a=b,c")
    assert names_from("__ignore__, _background_,cat") == ("background", "cat")
    with pytest.raises(VocabularyError, match="has __ignore__ where LabelMe has it not"):
        names_from("cat,__ignore__")
    assert names_from("st. bernard, T-shirt, door/window") == ("st. bernard", "T-shirt", "door/window")
