"""Local paths and buckets. fsspec's file system in memory stands for a bucket: its code path is that of gs://."""

import json

import fsspec
import pytest

from vlseg import remote, storage
from vlseg.errors import CheckpointError, StorageError

URL = "memory://bucket/runs/model"
LAST = "config.json"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An empty bucket; what is written and removed is listed in `changes`."""
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True)
    system.changes = []
    put, remove = system.put_file, system.rm_file

    def putting(source, path, **options):
        system.changes.append(f"+{path.rpartition('/')[2]}")
        put(source, path, **options)

    def removing(path):
        system.changes.append(f"-{path.rpartition('/')[2]}")
        remove(path)

    monkeypatch.setattr(system, "put_file", putting)
    monkeypatch.setattr(system, "rm_file", removing)
    return system


def save(*names, content=b"1", **options):
    with storage.directory(URL, LAST, **options) as folder:
        for name in names:
            (folder / name).write_bytes(content)


def copied():
    """The names and contents of a copy."""
    folder = remote.local_copy(URL, LAST, CheckpointError)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_what_says_that_it_is_whole_comes_last_and_goes_first(bucket):
    save(LAST, "a", "b")
    assert bucket.changes == ["+a", "+b", f"+{LAST}"]
    assert copied() == {LAST: b"1", "a": b"1", "b": b"1"}
    with pytest.raises(StorageError, match=f"^{URL} exists already"):
        save(LAST)
    del bucket.changes[:]
    save(LAST, "b", content=b"2", overwrite=True)
    assert bucket.changes == [f"-{LAST}", "-a", "-b", "+b", f"+{LAST}"]
    assert copied() == {LAST: b"2", "b": b"2"}


def test_a_part_is_never_taken_for_the_whole(bucket, monkeypatch):
    save(LAST, "a")
    put = bucket.put_file

    def broken(source, path, **options):
        if path.endswith("b"):
            raise ConnectionError("reset")
        put(source, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put_file", broken)
        with pytest.raises(StorageError, match="cannot be reached: reset"):
            save(LAST, "a", "b", overwrite=True)
    with pytest.raises(CheckpointError, match=f"^{URL}: {LAST} is missing"):
        copied()
    save(LAST, "c", overwrite=True)
    assert copied() == {LAST: b"1", "c": b"1"}


def test_what_fails_before_the_upload_leaves_the_old_one(bucket):
    save(LAST)
    with pytest.raises(ZeroDivisionError), storage.directory(URL, LAST, overwrite=True):
        raise ZeroDivisionError
    assert copied() == {LAST: b"1"}


def test_single_files(bucket):
    storage.write_bytes(f"{URL}/ofa_base.pt", b"weights")
    path = remote.local_copy(f"{URL}/ofa_base.pt", LAST, CheckpointError)
    assert (path.name, path.read_bytes()) == ("ofa_base.pt", b"weights")


def test_what_is_not_there(bucket):
    with pytest.raises(CheckpointError, match=f"^{URL}: there is no such bucket or object$"):
        copied()


def test_staging(bucket, tmp_path):
    storage.write_bytes(f"{URL}/log", b"1")
    staging = storage.Staging(URL)
    staging.fetch("log")
    staging.fetch("other")
    (staging.folder / "log").write_bytes((staging.folder / "log").read_bytes() + b"2")
    (staging.folder / "deep/er").mkdir(parents=True)
    (staging.folder / "deep/er/file").write_bytes(b"3")
    staging.close()
    assert {path: bucket.cat_file(path) for path in bucket.find(URL)} == {
        "/bucket/runs/model/log": b"12",
        "/bucket/runs/model/deep/er/file": b"3",
    }
    assert not staging.folder.exists()
    local = storage.Staging(tmp_path)
    local.fetch("other")
    local.close()
    assert local.folder == tmp_path and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "bucket"])
def test_small_files(bucket, tmp_path, kind):
    folder = {"local": tmp_path, "bucket": URL}[kind]
    path = f"{folder}/file"
    assert not storage.exists(path)
    with pytest.raises(StorageError, match=f"{path}.*[Nn]o such"):
        storage.read_bytes(path)
    storage.write_text(path, "zwölf")
    assert storage.exists(path) and storage.read_bytes(path) == "zwölf".encode()
    storage.write_json(path, {"iou": float("nan")})
    assert json.loads(storage.read_bytes(path)) == {"iou": None}


def test_urls_are_told_from_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("gs:bucket", b"x")
    assert (tmp_path / "gs:bucket").read_bytes() == b"x"
