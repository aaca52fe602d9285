"""Prepared data sets in buckets. fsspec's file system in memory stands for one: its code path is that of gs://."""

import json
import threading

import fsspec
import pytest

from tests.commands import Commands
from tests.vlseg.data.formats.test_prepared import Many, assert_same
from vlseg import remote
from vlseg.data.formats import prepared
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError, DatasetError, StorageError

commands = Commands("vlseg.data")
URL = "memory://bucket/sets/many"

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/buckets"


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket, which lists every object that is read in `reads` and that is written in `writes`."""
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True)
    system.reads, system.writes = [], []
    opened, put = system.open, system.put_file

    def opening(path, *arguments, **options):
        system.reads.append(path.rpartition("/")[2])
        return opened(path, *arguments, **options)

    def putting(source, path, **options):
        system.writes.append(path.rpartition("/")[2])
        put(source, path, **options)

    monkeypatch.setattr(system, "open", opening)
    monkeypatch.setattr(system, "put_file", putting)
    return system


class Changed(Many):
    """Other examples of the same kind."""

    def __getitem__(self, index):
        return super().__getitem__(index + 7)


SHARDS = [f"{number:05d}-of-00002.array_record" for number in range(2)]


def test_there_and_back(bucket, cache):
    assert prepared.write(Many(), URL, examples_per_file=2) == 3
    # What says that it is a data set comes last.
    assert bucket.writes == [*SHARDS, "prepared.json"]
    assert_same(Many(), open_dataset(URL))
    (folder,) = cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {".lock", "prepared.json", *SHARDS}
    del bucket.reads[:]
    assert_same(Many(), open_dataset(f"{URL}/"))
    assert bucket.reads == []
    with pytest.raises(StorageError, match="holds a prepared data set already"):
        prepared.write(Many(), URL)


def test_by_the_commands(bucket, tmp_path, capsys):
    prepared.write(Many(), tmp_path / "many")
    data = (f"--data={tmp_path / 'many'}", f"--out={URL}")
    assert commands.call("prepare", *data, "--examples_per_file=2") == 0
    assert f"wrote 3 examples to {URL}" in capsys.readouterr().out
    assert "holds a prepared data set already" in commands.refusal(capsys, "prepare", *data)
    assert commands.call("check", "--dataset=folder", f"--root={URL}") == 0
    assert "3 of 3 pairs can be used" in capsys.readouterr().out
    line = commands.refusal(capsys, "check", "--dataset=folder", "--root=memory://bucket/empty")
    assert "memory://bucket/empty/prepared.json: there is no such bucket or object" in line


def test_what_has_changed_is_fetched_again(bucket, cache):
    prepared.write(Many(), URL, examples_per_file=2)
    first = open_dataset(URL)
    bucket.rm("/bucket/sets/many/prepared.json")
    prepared.write(Changed(), URL, examples_per_file=2)
    assert_same(Changed(), open_dataset(URL))
    # Whoever reads the old one goes on.
    assert_same(Many(), first)
    assert len(list(cache.iterdir())) == 2


def test_what_was_cut_off_goes_on(bucket, cache, monkeypatch):
    prepared.write(Many(), URL, examples_per_file=2)
    opened = bucket.open

    def broken(path, *arguments, **options):
        if path.endswith(SHARDS[1]):
            raise ConnectionError("reset")
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "open", broken)
        with pytest.raises(DatasetError, match="cannot be reached: reset"):
            open_dataset(URL)
    (folder,) = cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {".lock", SHARDS[0]}
    del bucket.reads[:]
    assert_same(Many(), open_dataset(URL))
    assert bucket.reads == [SHARDS[1], "prepared.json"]


def test_one_of_several_downloads(bucket):
    prepared.write(Many(), URL, examples_per_file=2)
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(open_dataset(URL)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 4 and bucket.reads.count(SHARDS[0]) == 1


def test_what_changes_during_the_download(bucket, monkeypatch):
    prepared.write(Many(), URL, examples_per_file=2)
    download = remote._download

    def and_change(*arguments):
        download(*arguments)
        bucket.pipe_file(f"/bucket/sets/many/{SHARDS[0]}", b"other")

    monkeypatch.setattr(remote, "_download", and_change)
    with pytest.raises(DatasetError, match="changed while it was downloaded"):
        open_dataset(URL)


def test_an_upload_that_is_cut_off_is_no_data_set(bucket, monkeypatch):
    put = bucket.put_file

    def broken(source, path, **options):
        if path.endswith(SHARDS[1]):
            raise PermissionError("no storage.objects.create access")
        put(source, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put_file", broken)
        with pytest.raises(StorageError, match=r"access is denied: log in .*_CREDENTIALS \(no storage"):
            prepared.write(Many(), URL, examples_per_file=2)
    assert [path.rpartition("/")[2] for path in bucket.find("/bucket")] == SHARDS[:1]
    with pytest.raises(DatasetError, match="no such bucket or object"):
        open_dataset(URL)
    prepared.write(Many(), URL, examples_per_file=2)
    assert_same(Many(), open_dataset(URL))


def test_what_is_missing_or_damaged(bucket, cache):
    prepared.write(Many(), URL, examples_per_file=2)
    info = json.loads(bucket.cat_file("/bucket/sets/many/prepared.json"))

    def refused(content, match):
        bucket.pipe_file("/bucket/sets/many/prepared.json", content)
        with pytest.raises(DatasetError, match=match) as caught:
            open_dataset(URL)
        assert "\n" not in str(caught.value)

    refused(b"{", "is not a prepared data set, or is damaged")
    refused(b"[]", "is not a prepared data set, or is damaged")
    refused(json.dumps({**info, "files": ["../../outside"]}).encode(), "a file lies outside")
    refused(json.dumps({**info, "files": [*SHARDS, "other"]}).encode(), "other are missing")
    assert not cache.exists()


class AnonymousError(Exception):
    code = 401


@pytest.mark.parametrize("error", [AnonymousError("no storage.objects.get\naccess"), OSError("Forbidden: gs://b")])
def test_access_that_is_denied(bucket, monkeypatch, error):
    def denied(*_, **__):
        raise error

    monkeypatch.setattr(bucket, "cat_file", denied)
    with pytest.raises(DatasetError, match=r"access is denied: log in \(gcloud auth") as caught:
        open_dataset(URL)
    assert "\n" not in str(caught.value)


def test_packages_that_are_missing(monkeypatch, capsys):
    def absent(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    for arguments in (
        ("prepare", "--data=tiny_world", "--out=gs://b/d"),
        ("check", "--dataset=folder", "--root=gs://b/d"),
    ):
        line = commands.refusal(capsys, *arguments)
        assert 'pip install "vlseg-jax[gcs]"' in line and "gs://b/d" in line
    with pytest.raises(ConfigError, match="install it"):
        open_dataset("s3://b/d")


def test_other_kinds_of_data_are_not_read_from_buckets():
    with pytest.raises(ConfigError, match="is no local folder"):
        open_dataset("ade20k:gs://bucket/ade20k")
