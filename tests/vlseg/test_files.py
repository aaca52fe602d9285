"""Files and directories appear whole or not at all."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import room_for
from vlseg import files
from vlseg.errors import StorageError
from vlseg.files import atomic_directory, atomic_file, atomic_write_bytes, atomic_write_json, atomic_write_text


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def small_files() -> Iterator[None]:
    with room_for(4096):
        yield


def test_content_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write_bytes(path, b"one")
    assert path.read_bytes() == b"one"
    atomic_write_text(str(path), "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    atomic_write_json(path, {"a": [1, None], "ü": True})
    assert json.loads(path.read_text()) == {"a": [1, None], "ü": True}
    assert "ü" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_null_for_numbers_it_cannot_hold(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a", {"iou": [0.5, float("nan")], "best": (float("inf"), -float("inf"))})
    assert json.loads((tmp_path / "a").read_text()) == {"iou": [0.5, None], "best": [None, None]}


def test_what_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a", 1)
    with pytest.raises(TypeError):
        atomic_write_json(tmp_path / "a", {"a": object()})
    assert (tmp_path / "a").read_text() == "1\n"


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    atomic_write_bytes(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "usual_directory").mkdir()
    with atomic_directory(tmp_path / "b"):
        pass
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "usual_directory").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    atomic_write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_the_destination_keeps_its_content_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert temporary.name.startswith(".")
    assert path.read_bytes() == b"new"


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("size", [5000, 1_000_000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(StorageError, match=r"^cannot write .*/a: "):
        atomic_write_bytes(path, bytes(size))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space is left on the device; free some"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only; choose another place"),
        (errno.EACCES, "permission denied; choose"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_any_failing_step_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str, step: str
) -> None:
    monkeypatch.setattr(files.os, step, failing(number))
    with pytest.raises(StorageError, match=message) as caught:
        atomic_write_bytes(tmp_path / "a", b"content")
    assert str(tmp_path / "a") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_absent_and_impossible_places(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="its directory does not exist"):
        atomic_write_bytes(tmp_path / "absent" / "a", b"")
    with pytest.raises(StorageError, match="does not exist"), atomic_directory(tmp_path / "absent" / "a"):
        pass
    with pytest.raises(StorageError, match="is a directory"):
        atomic_write_bytes(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="not a directory"):
        atomic_write_bytes(tmp_path / "file" / "a", b"")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), FileNotFoundError(errno.ENOENT, "other file")])
def test_errors_of_the_caller_pass_unchanged(tmp_path: Path, error: BaseException) -> None:
    def write_half_a_file() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"half")
            raise error

    def write_half_a_directory() -> None:
        with atomic_directory(tmp_path / "b") as directory:
            (directory / "half").write_bytes(b"")
            raise error

    for write in (write_half_a_file, write_half_a_directory):
        with pytest.raises(type(error)) as caught:
            write()
        assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_directory(path) as directory:
        (directory / "inner").mkdir()
        (directory / "inner" / "file").write_bytes(b"x")
        assert not path.exists()
        assert directory.parent == tmp_path
        assert directory.name.startswith(".")
    assert (path / "inner" / "file").read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_directory_is_kept_or_replaced_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_bytes(b"")
    with pytest.raises(StorageError, match="exists already"), atomic_directory(path):
        pytest.fail("nothing is to be computed for a place that is taken")
    with atomic_directory(path, overwrite=True) as directory:
        (directory / "new").write_bytes(b"")
        assert (path / "old").exists()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(StorageError, match="exists already"), atomic_directory(path):
        path.mkdir()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_never_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with (
        pytest.raises(StorageError, match="a file of that name exists"),
        atomic_directory(tmp_path / "a", overwrite=True),
    ):
        pass
    assert (tmp_path / "a").read_bytes() == b"x"


def test_the_old_directory_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_bytes(b"")
    rename = os.rename

    def rename_all_but_the_new(source: Any, target: Any) -> None:
        if (Path(source) / "new").exists():
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(files.os, "rename", rename_all_but_the_new)
    with pytest.raises(StorageError, match="broken"), atomic_directory(path, overwrite=True) as directory:
        (directory / "new").write_bytes(b"")
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^cannot write .*/a: "), atomic_directory(tmp_path / "a") as directory:
        (directory / "big").write_bytes(bytes(5000))
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    script = f"""
import os, time
from vlseg.files import atomic_directory, atomic_file
with atomic_directory("{tmp_path}/model") as folder, atomic_file("{tmp_path}/a") as file:
    (folder / "half").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as two,
    ):
        for process in (one, two):
            assert process.stdout and process.stdout.readline() == b"writing\n"
        other_host = tmp_path / ".b.000000000000.tmp"
        other_host.touch()
        assert len(list(tmp_path.iterdir())) == 5
        one.kill()
        one.wait()
        atomic_write_bytes(tmp_path / "b", b"b")
        assert len(list(tmp_path.iterdir())) == 4
        two.kill()
        two.wait()
        files._looked_at.clear()
        os.utime(other_host, (0, 0))
        atomic_write_bytes(tmp_path / "b", b"b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
