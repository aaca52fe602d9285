"""A server on this machine that publishes a file, well or badly."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vlseg.checkpoints.download import WeightFile

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves `content`; the attributes say how well it behaves."""

    content = CONTENT
    announced: int | None = None  # instead of the true length
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/weights.pt?version=1"

    @property
    def table(self) -> dict[str, WeightFile]:
        return {"ours": WeightFile(self.url), "other": WeightFile("nowhere")}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.announced or len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, to be yielded from a fixture."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
