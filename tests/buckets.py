"""A bucket to try things with: a folder in which fsspec, and TensorStore below Orbax, find what is called gs://..."""

from pathlib import Path
from typing import Any

import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from orbax.checkpoint._src.path import gcs_utils

from vlseg import files


def stand_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `root`/BUCKET what is called gs://BUCKET until the test ends."""

    def place(url: str) -> dict[str, str]:
        return {"driver": "file", "path": str(root / url.removeprefix("gs://"))}

    monkeypatch.setattr(Buckets, "root", root)
    for protocol in Buckets.protocol:
        monkeypatch.setitem(_registry, protocol, Buckets)
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda _: Buckets())  # else kept between tests
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", place)
    # Orbax asks Google's client whether a bucket has folders.
    monkeypatch.setattr(gcs_utils, "get_bucket", lambda _: None)


class Buckets(DirFileSystem):
    """Like those, it has no empty folders."""

    protocol = ("gs", "gcs")
    cachable = False
    root = Path()

    def __init__(self, **_: Any) -> None:
        super().__init__(str(self.root), LocalFileSystem(auto_mkdir=True))

    def mkdir(self, *_: Any, **__: Any) -> None:
        pass

    makedirs = mkdir

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """An object is there as a whole, and of several that create it one does."""
        if mode == "create":
            if not files.create(self._made(path), value):
                raise FileExistsError(path)
        else:
            files.atomic_write_bytes(self._made(path), value)

    def _made(self, path: str) -> Path:
        place = Path(self._join(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        return place
