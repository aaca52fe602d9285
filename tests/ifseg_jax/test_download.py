"""Downloads from a server on this machine that can resume, refuse to, break off, lie and be absent."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ifseg_jax import download
from ifseg_jax.download import OFFICIAL_CHECKPOINTS, OfficialCheckpoint, fetch
from vlseg.errors import DownloadError

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves `content`; the attributes say how well it behaves."""

    content = CONTENT
    ranges = True
    etag: str | None = '"one"'
    announced: int | None = None  # instead of the true length
    stop_after: int | None = None  # bytes, then the connection is cut
    kind = "application/octet-stream"
    status: int | None = None
    range_offset = 0  # how far beside the range asked for the answer is
    chunked = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/ofa_tiny.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status is not None:
            self.send_error(server.status)
            return
        start = self._start()
        if start > 0 and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.kind)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if server.announced is None else server.announced))
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            first = start + server.range_offset
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(body if server.stop_after is None else body[: server.stop_after])
        self.close_connection = True

    def _start(self) -> int:
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if not self.server.ranges or asked is None or condition not in (None, self.server.etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "ofa_tiny", OfficialCheckpoint(server.url))
        yield server
        server.shutdown()
        thread.join()


def cut_off(server: Server, directory: Path, after: int) -> None:
    server.stop_after = after
    with pytest.raises(DownloadError, match=f"{after} of {len(server.content)} bytes arrived|IncompleteRead"):
        fetch("ofa_tiny", directory)
    assert (directory / "ofa_tiny.pt.part").read_bytes() == server.content[:after]
    assert not (directory / "ofa_tiny.pt").exists()
    server.stop_after = None


def assert_complete(path: Path, content: bytes = CONTENT) -> None:
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_official_addresses() -> None:
    assert list(OFFICIAL_CHECKPOINTS) == ["ofa_tiny", "ofa_medium", "ofa_base", "ofa_large", "ofa_huge"]
    base = OFFICIAL_CHECKPOINTS["ofa_base"]
    assert base.url == "https://ofa-beijing.oss-cn-beijing.aliyuncs.com/checkpoints/ofa_base.pt"


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = fetch("ofa_tiny", tmp_path / "new" / "directory")
    assert path == tmp_path / "new" / "directory" / "ofa_tiny.pt"
    assert_complete(path)
    assert fetch("ofa_tiny", str(path.parent)) == path
    assert len(server.requests) == 1


@pytest.mark.usefixtures("server")
def test_the_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLSEG_CACHE", raising=False)
    assert fetch("ofa_tiny") == tmp_path / ".cache" / "vlseg" / "ofa_tiny.pt"
    monkeypatch.setenv("VLSEG_CACHE", "~/elsewhere")
    assert fetch("ofa_tiny", progress=False) == tmp_path / "elsewhere" / "ofa_tiny.pt"


def test_a_cut_download_goes_on(server: Server, tmp_path: Path) -> None:
    cut_off(server, tmp_path, after=30_000)
    assert_complete(fetch("ofa_tiny", tmp_path))
    assert server.requests[1]["Range"] == "bytes=30000-"
    assert server.requests[1]["If-Range"] == '"one"'


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_cut_download_goes_on_without_a_strong_tag(server: Server, tmp_path: Path, etag: str | None) -> None:
    server.etag = etag
    cut_off(server, tmp_path, after=30_000)
    assert_complete(fetch("ofa_tiny", tmp_path))
    assert server.requests[1]["Range"] == "bytes=30000-"
    assert "If-Range" not in server.requests[1]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: Server, tmp_path: Path) -> None:
    cut_off(server, tmp_path, after=30_000)
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert_complete(fetch("ofa_tiny", tmp_path), CONTENT[::-1])


def test_a_server_that_cannot_resume_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    cut_off(server, tmp_path, after=30_000)
    assert_complete(fetch("ofa_tiny", tmp_path))


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_as_long_as_the_file_is_fetched_again(server: Server, tmp_path: Path, extra: int) -> None:
    (tmp_path / "ofa_tiny.pt.part").write_bytes(bytes(len(CONTENT) + extra))
    assert_complete(fetch("ofa_tiny", tmp_path))
    assert len(server.requests) == 2


def test_the_wrong_part_is_refused(server: Server, tmp_path: Path) -> None:
    cut_off(server, tmp_path, after=30_000)
    server.range_offset = 7
    with pytest.raises(DownloadError, match="another part"):
        fetch("ofa_tiny", tmp_path)
    assert (tmp_path / "ofa_tiny.pt.part").read_bytes() == CONTENT[:30_000]


def test_a_shorter_file_than_announced_is_refused(server: Server, tmp_path: Path) -> None:
    server.announced = len(CONTENT) + 1
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} of {len(CONTENT) + 1} bytes arrived|IncompleteRead"):
        fetch("ofa_tiny", tmp_path)
    assert not (tmp_path / "ofa_tiny.pt").exists()


def test_another_size_than_the_official_one_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "ofa_tiny", OfficialCheckpoint(server.url, size=5))
    with pytest.raises(DownloadError, match=f"the server has {len(CONTENT)} bytes where 5 are expected"):
        fetch("ofa_tiny", tmp_path)
    monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "ofa_tiny", OfficialCheckpoint(server.url, size=len(CONTENT)))
    assert_complete(fetch("ofa_tiny", tmp_path))


def test_an_unknown_size_is_refused(server: Server, tmp_path: Path) -> None:
    server.chunked = True
    with pytest.raises(DownloadError, match="does not say how large"):
        fetch("ofa_tiny", tmp_path)


def test_a_web_page_is_refused(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page came"):
        fetch("ofa_tiny", tmp_path)
    assert not (tmp_path / "ofa_tiny.pt").exists()


def test_the_message_says_what_to_fetch_and_where_to_put_it(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError) as caught:
        fetch("ofa_tiny", tmp_path)
    assert str(caught.value) == (
        f"could not download {server.url}: HTTP Error 404: Not Found; "
        f"try again, or fetch it by other means and put it at {tmp_path}/ofa_tiny.pt"
    )


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        url = server.url
    monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "ofa_tiny", OfficialCheckpoint(url))
    with pytest.raises(DownloadError, match=rf"could not download {url}: .*refused.*; try again") as caught:
        fetch("ofa_tiny", tmp_path)
    assert "\n" not in str(caught.value)


def test_an_address_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "ofa_tiny", OfficialCheckpoint("nowhere"))
    with pytest.raises(DownloadError, match="unknown url type"):
        fetch("ofa_tiny", tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match="no official checkpoint is named ofa_small; there are ofa_tiny, ofa_medium"
    ):
        fetch("ofa_small", tmp_path)


@pytest.mark.usefixtures("server")
def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="put it at"):
        fetch("ofa_tiny", tmp_path / "file" / "directory")


@pytest.mark.usefixtures("server")
def test_a_full_disk_keeps_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        with pytest.raises(DownloadError, match=r"[Nn]o space"):
            fetch("ofa_tiny", tmp_path)
    assert not (tmp_path / "ofa_tiny.pt").exists()
    assert_complete(fetch("ofa_tiny", tmp_path))


@pytest.mark.usefixtures("server")
def test_two_downloads_at_once_do_not_mix(tmp_path: Path) -> None:
    with open(tmp_path / "ofa_tiny.pt.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is downloading it"):
            fetch("ofa_tiny", tmp_path)
    assert_complete(fetch("ofa_tiny", tmp_path))


def test_a_file_that_another_process_finished_is_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_before_we_had_the_lock(_: object) -> None:
        (tmp_path / "ofa_tiny.pt").write_bytes(b"theirs")

    monkeypatch.setattr(download, "_lock", finished_before_we_had_the_lock)
    assert fetch("ofa_tiny", tmp_path).read_bytes() == b"theirs"
    assert server.requests == []
