import numpy as np
import pytest
from PIL import Image

from vlseg.data.formats.folder import open_folder
from vlseg.errors import DatasetError, ImageError


def one_line(error):
    return "\n" not in str(error.value)


def write(root, stem, label, image_size=None, extension=".jpg"):
    label = np.asarray(label, np.uint8)
    height, width = image_size or label.shape
    for path, pixels in [
        (root / "images" / f"{stem}{extension}", np.full((height, width, 3), len(stem), np.uint8)),
        (root / "labels" / f"{stem}.png", label),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    label = np.zeros((9, 12), np.uint8)
    label[0, :3] = 1, 2, 255
    write(tmp_path, "b", label)
    write(tmp_path, "a.b", np.ones((8, 10)), extension=".PNG")
    write(tmp_path, "deep/er/c", np.full((10, 8), 2))
    (tmp_path / "names.txt").write_text("# three of them\ncat\n\n  wet grass \ndog\n")
    return tmp_path


def test_pairs_in_order(root):
    dataset = open_folder(root)
    assert dataset.names == ("cat", "wet grass", "dog")
    assert len(dataset) == 3
    examples = list(dataset)
    assert [example.name for example in examples] == ["a.b", "b", "deep/er/c"]
    assert [example.label.shape for example in examples] == [(8, 10), (9, 12), (10, 8)]
    for example in examples:
        assert example.image.dtype == np.uint8 and example.label.dtype == np.int32
        assert example.image.shape == (*example.label.shape, 3)
    np.testing.assert_array_equal(examples[1].label[0, :4], [1, 2, 255, 0])
    assert dataset[-1].name == "deep/er/c"
    with pytest.raises(IndexError):
        dataset[3]


def test_nothing_is_read_before_it_is_asked_for(root):
    (root / "images" / "b.jpg").write_bytes(b"broken")
    dataset = open_folder(root)
    assert next(iter(dataset)).name == "a.b"
    with pytest.raises(ImageError, match=r"b\.jpg"):
        dataset[1]


def test_other_folder_names(root):
    for old, new in [("images", "photos"), ("labels", "truth"), ("names.txt", "list.txt")]:
        (root / old).rename(root / new)
    assert len(open_folder(root, images="photos", labels="truth", names="list.txt")) == 3


def test_hidden_files_do_not_matter(root):
    (root / "labels" / ".extra.png").write_bytes(b"")
    (root / "images" / "._b.jpg").write_bytes(b"")
    (root / "images" / ".thumbnails").mkdir()
    (root / "images" / ".thumbnails" / "b.jpg").write_bytes(b"")
    assert len(open_folder(root)) == 3


def test_ade20k_style(tmp_path):
    label = np.zeros((8, 8), np.uint8)
    label[0, :4] = 0, 1, 3, 255
    write(tmp_path, "a", label)
    (tmp_path / "names.txt").write_text("wall\nfloor\nsky\n")
    np.testing.assert_array_equal(open_folder(tmp_path, ignore_zero=True)[0].label[0, :4], [255, 0, 2, 255])
    with pytest.raises(DatasetError, match="label id 3, but the 3 names have ids 0 to 2"):
        open_folder(tmp_path)[0]


def test_label_offset(tmp_path):
    label = np.full((8, 8), 5, np.uint8)
    label[0, :3] = 5, 6, 255
    write(tmp_path, "a", label)
    (tmp_path / "names.txt").write_text("wall\nfloor\n")
    np.testing.assert_array_equal(open_folder(tmp_path, label_offset=5)[0].label[0, :3], [0, 1, 255])
    label[1, 1] = 4
    write(tmp_path, "a", label)
    with pytest.raises(DatasetError, match=r"a\.png: has label id 4, but the 2 names have ids 5 to 6") as error:
        open_folder(tmp_path, label_offset=5)[0]
    assert one_line(error)


def test_another_ignore_label(tmp_path):
    label = np.full((8, 8), 200, np.uint8)
    label[0, 0] = 0
    write(tmp_path, "a", label)
    (tmp_path / "names.txt").write_text("wall\n")
    dataset = open_folder(tmp_path, ignore_label=200)
    np.testing.assert_array_equal(dataset[0].label, np.where(label == 0, 0, 200))


def test_ignore_label_must_not_be_a_category(tmp_path):
    write(tmp_path, "a", np.zeros((8, 8)))
    (tmp_path / "names.txt").write_text("".join(f"c{i}\n" for i in range(255)))
    assert len(open_folder(tmp_path)) == 1
    for options in ({"ignore_zero": True}, {"ignore_label": 254}):
        with pytest.raises(DatasetError, match="is also the id of one of the 255 categories"):
            open_folder(tmp_path, **options)
    assert open_folder(tmp_path, ignore_label=-1, ignore_zero=True)[0].label.max() == -1


def test_sizes_must_agree(root):
    write(root, "b", np.zeros((9, 12)), image_size=(12, 9))
    with pytest.raises(DatasetError, match=r"b\.png: is 12 x 9 pixels, but its picture 9 x 12") as error:
        open_folder(root)[1]
    assert one_line(error)


@pytest.mark.parametrize("missing", ["images", "labels", "names.txt"])
def test_missing_parts(root, missing):
    (root / missing).rename(root / "gone")
    with pytest.raises(DatasetError, match=f"{missing}: no such f") as error:
        open_folder(root)
    assert one_line(error)


def test_no_pictures(root):
    (root / "empty").mkdir()
    with pytest.raises(DatasetError, match="no pictures found"):
        open_folder(root, images="empty")


def test_pictures_without_labels_are_counted_and_five_named(root):
    (root / "labels" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"no label map for 1 of 3 pictures: b$"):
        open_folder(root)
    for index in range(7):
        (root / "images" / f"x{index}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no label map for 8 of 10 pictures: b, x0, x1, x2, x3, \.\.\.$") as error:
        open_folder(root)
    assert one_line(error)


def test_ambiguous_pairs(root):
    (root / "labels" / "b.tif").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"b\.png and b\.tif would share a pair"):
        open_folder(root)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there are no categories"),
        ("# only a comment\n\n", "there are no categories"),
        ("cat\ndog\ncat\n", "'cat' and 'cat' are the same category"),
        ("0: cat\n1:\n", "category 1 has a blank name"),
        ("0: cat\n2: dog\n", "must count up by one"),
        ("1: cat\n2: dog\n3: cow\n", "counts from 1, but labels are read from 0"),
    ],
)
def test_bad_names(root, text, problem):
    (root / "names.txt").write_text(text)
    with pytest.raises(DatasetError, match=problem) as error:
        open_folder(root)
    assert one_line(error)
    assert "names.txt" in str(error.value)


@pytest.mark.parametrize("text", ["1: cat\n2: wet grass\n", "1\tcat\n2\twet grass\n", "\ufeff1:cat\r\n2 : wet grass"])
def test_numbered_names_agree_with_the_labels(root, text):
    (root / "names.txt").write_bytes(text.encode())
    assert open_folder(root, label_offset=1).names == ("cat", "wet grass")
    assert open_folder(root, ignore_zero=True).names == ("cat", "wet grass")
    with pytest.raises(DatasetError):
        open_folder(root)


def test_a_link_to_itself_is_a_broken_link(root):
    (root / "labels/e.png").symlink_to("e.png")
    (root / "images/e.png").symlink_to("../images/e.png")
    with pytest.raises(DatasetError, match=r"e\.png: is a link to"):
        open_folder(root)


def test_a_names_file_that_cannot_be_read_is_named(root):
    (root / "names.txt").unlink()
    (root / "names.txt").symlink_to("gone")
    with pytest.raises(DatasetError, match=r"names\.txt: is a link to gone"):
        open_folder(root)
