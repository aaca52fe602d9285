"""Finding pictures, and saying what else lies there."""

import pytest

from vlseg.data.listing import list_images
from vlseg.errors import ImageError


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
