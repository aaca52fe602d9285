"""Finding pictures, and saying what else lies there."""

import os

import pytest
from PIL import Image

from vlseg.data.listing import Listing, list_checked_images, list_images, look_through, order, walk
from vlseg.errors import DatasetError, ImageError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "x,y.png", "[1].png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"never read")
    (tmp_path / "d.png").mkdir()
    return tmp_path


def test_list_directory(folder):
    assert [path.name for path in list_images(folder)] == ["[1].png", "a.png", "b.JPG", "x,y.png"]


def test_list_files_patterns_and_lists(folder):
    a, b = folder / "a.png", folder / "b.JPG"
    assert list_images(str(a)) == [a]
    assert list_images(folder / "x,y.png") == [folder / "x,y.png"]
    assert list_images(folder / "[1].png") == [folder / "[1].png"]
    assert list_images(f"{b}, {a},") == [b, a]
    assert list_images([b, str(a), b]) == [b, a]
    assert list_images(f"{folder}/?.*") == [a, b]
    assert list_images(f"{folder}/**/c.png") == [folder / "sub/c.png"]
    assert list_images([f"{folder}/?.*", folder / "sub"]) == [a, b, folder / "sub/c.png"]


@pytest.mark.parametrize("source", ["no", "no.png", "*.tiff", "a.png,no.png", "notes*"])
def test_nothing_found_is_an_error(folder, monkeypatch, source):
    monkeypatch.chdir(folder)
    with pytest.raises(ImageError, match=r"no such file|no pictures found") as error:
        list_images(source)
    assert "\n" not in str(error.value)


def test_empty_sources_are_errors(tmp_path):
    for source in ("", ",", [], tmp_path):
        with pytest.raises(ImageError):
            list_images(source)


# What is left out


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8)).save(path)
    return path


def test_what_is_left_out_is_one_line(tmp_path, capsys):
    for name in ("b.JPG", "a.jpg", "deep/c.jpg", ".hidden/d.jpg", "@eaDir/a.jpg", "empty/x.txt"):
        picture(tmp_path / name) if name != "empty/x.txt" else (tmp_path / "empty").mkdir()
    for name in ("x.heic", "notes.txt", "y.mov", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    paths, listing = look_through(tmp_path)
    assert [path.name for path in paths] == ["a.jpg", "b.JPG"] and not listing.is_complete
    folders = "1 folder with pictures not looked into (a pattern like FOLDER/**/*.jpg would): deep"
    line = f"{tmp_path}: 2 of 5 read: 3 of an unknown type: notes.txt, x.heic, y.mov; {folders}"
    assert listing.line == line
    assert list_checked_images(tmp_path) == paths
    assert capsys.readouterr().out == f"{line}\n"
    with pytest.raises(DatasetError, match=r"2 of 5 read: 3 of an unknown type.*strict"):
        list_checked_images(tmp_path, strict=True)
    # A pattern leaves out what it does not stand for, and what it stands for is read or named.
    assert look_through(f"{tmp_path}/*.jpg")[1].is_complete
    assert look_through(f"{tmp_path}/**/*.[jJ]*")[1].line == f"{tmp_path}/**/*.[jJ]*: 3 of 3 read"
    assert "1 of 2 read: 1 of an unknown type: x.heic" in look_through(f"{tmp_path}/[ax].*")[1].line
    assert capsys.readouterr().out == ""
    assert list_checked_images(f"{tmp_path}/*.jpg", strict=True) == paths[:1]
    assert capsys.readouterr().out == ""


def test_commas_brackets_dashes_and_blanks_belong_to_names(tmp_path, monkeypatch):
    names = ["x,y.jpg", "x", "-z.jpg", " a.jpg", "run [1]/a.jpg", "run [1]/b,c.jpg", "line\nbreak.jpg"]
    for name in names:
        picture(tmp_path / f"{name}.jpg").rename(tmp_path / name) if name == "x" else picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def found(source):
        return [str(path) for path in list_images(source)]

    assert found("x,y.jpg") == ["x,y.jpg"]
    assert found("-z.jpg,x,y.jpg, run [1]/b,c.jpg") == ["-z.jpg", "x,y.jpg", "run [1]/b,c.jpg"]
    assert found(" a.jpg,x") == [" a.jpg", "x"]
    assert found(["x,y.jpg", "-z.jpg,x"]) == ["x,y.jpg", "-z.jpg", "x"]
    assert found("run [1]/*.jpg,*z.jpg") == ["run [1]/a.jpg", "run [1]/b,c.jpg", "-z.jpg"]
    assert found("run [1]/b,*.jpg") == ["run [1]/b,c.jpg"]
    assert found("run [1]") == ["run [1]/a.jpg", "run [1]/b,c.jpg"]
    assert "line\\nbreak.jpg" in Listing("x", 1, {"odd": ["line\nbreak.jpg"]}).line


def test_order_is_that_of_bytes(tmp_path):
    names = [b"z.jpg", b"Z.jpg", b"\xff.jpg", "\ue000.jpg".encode(), "é.jpg".encode(), "\U0001f600.jpg".encode()]
    for name in names:
        picture(tmp_path / os.fsdecode(name))
    assert [os.fsencode(path.name) for path in list_images(tmp_path)] == sorted(names)


def test_links_that_lead_nowhere_are_named(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("gone.jpg")
    with pytest.raises(ImageError, match=r"b\.jpg: is a link to gone\.jpg, which is not there"):
        list_checked_images(tmp_path)
    (tmp_path / "b.jpg").unlink()
    os.mkfifo(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="is a pipe"):
        list_checked_images(tmp_path)
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    assert len(list_checked_images(tmp_path)) == 2


def test_folders_linked_in_circles_are_entered_once(tmp_path):
    picture(tmp_path / "real/a.jpg")
    (tmp_path / "real/back").symlink_to("..")
    (tmp_path / "again").symlink_to("real")
    picture(tmp_path / "real-b.jpg")
    picture(tmp_path / "real.jpg")
    found = list(walk(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "again/a.jpg",
        "real/a.jpg",
        "real-b.jpg",
        "real.jpg",
    ]
    assert found == sorted(found, key=order)


def test_a_link_to_itself_is_a_file_that_is_not_there(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert list(walk(tmp_path)) == [tmp_path / "a.jpg"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """A permission that is missing would otherwise leave out pictures."""
    picture(tmp_path / "in/a.jpg")

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match="cannot be read: Permission denied"):
        list(walk(tmp_path))
