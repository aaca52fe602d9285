"""Downloads from a server on this machine that refuses, breaks off, sends something else, and is absent."""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vlseg.checkpoints.servers import CONTENT, Server, served
from vlseg import files
from vlseg.checkpoints.download import WeightFile, fetch
from vlseg.errors import DownloadError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(monkeypatch)


def refusal(table: dict[str, WeightFile], directory: Path) -> str:
    """The reason for which "ours" is not downloaded; nothing is left behind."""
    target = directory / "ours.pt"
    with pytest.raises(DownloadError) as caught:
        fetch("ours", table, directory)
    assert [path.name for path in directory.iterdir()] == [".ours.pt.lock"]
    start, end = (
        f"could not download {table['ours'].url}: ",
        f"try again, or fetch it by other means and put it at {target}",
    )
    message = str(caught.value)
    assert message.startswith(start) and message.endswith(f"; {end}") and "\n" not in message
    return message.removeprefix(start).removesuffix(f"; {end}")


def test_a_file_is_fetched_once(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch("ours", server.table, tmp_path / "new" / "directory")
    assert path == tmp_path / "new" / "directory" / "ours.pt"
    assert path.read_bytes() == CONTENT
    assert fetch("ours", server.table, str(path.parent)) == path
    assert server.requests == 1
    assert capfd.readouterr() == ("", "")  # the progress bar is for terminals


def test_the_default_directory(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLSEG_CACHE", raising=False)
    assert fetch("ours", server.table) == tmp_path / ".cache" / "vlseg" / "ours.pt"
    monkeypatch.setenv("VLSEG_CACHE", "~/elsewhere")
    assert fetch("ours", server.table, progress=False) == tmp_path / "elsewhere" / "ours.pt"


def test_one_of_several_downloads(server: Server, tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch("ours", server.table, tmp_path).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4 and server.requests == 1


def test_a_download_that_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.announced = len(CONTENT) + 1
    assert "IncompleteRead" in refusal(server.table, tmp_path)
    server.announced = None
    assert fetch("ours", server.table, tmp_path).read_bytes() == CONTENT


def test_another_file_than_the_published_one(server: Server, tmp_path: Path) -> None:
    right = WeightFile(server.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert refusal({"ours": WeightFile(server.url, size=5)}, tmp_path) == (
        f"{len(CONTENT)} bytes came where 5 are expected"
    )
    assert refusal({"ours": WeightFile(server.url, sha256="0" * 64)}, tmp_path) == (
        f"a file of SHA-256 {right.sha256} came where {'0' * 64} is expected"
    )
    assert fetch("ours", {"ours": right}, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>", b"\n <html lang='en'>", b"<?xml version='1.0'?><Error/>"])
def test_a_web_page_is_refused(server: Server, tmp_path: Path, page: bytes) -> None:
    server.content = page
    assert refusal(server.table, tmp_path) == "a web page came instead of the file"


def test_a_file_that_is_not_there(server: Server, tmp_path: Path) -> None:
    server.status = 404
    assert refusal(server.table, tmp_path) == f"404 Client Error: Not Found for url: {server.url}"


def test_nothing_listens(server: Server, tmp_path: Path) -> None:
    with Server() as closed:
        table = closed.table
    assert re.search("[Rr]efused", refusal(table, tmp_path))


def test_a_malformed_url(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"could not download nowhere: .*No scheme supplied.*/other$"):
        fetch("other", server.table, tmp_path)


def test_an_unknown_name_lists_the_known_ones(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no weights named his can be downloaded; there are ours, other"):
        fetch("his", server.table, tmp_path)


def test_a_place_that_cannot_be_written_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"not a directory.* put it at"):
        fetch("ours", server.table, tmp_path / "file" / "directory")


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert "no space is left on the device" in refusal(server.table, tmp_path)
