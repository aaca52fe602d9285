"""Fetching the official OFA checkpoints that image-free training starts from.

Addresses: checkpoints.md of the official OFA repository. It gives no sizes, so a download is checked against the size
that the server announces.
"""

import dataclasses
import fcntl
import http
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from vlseg.errors import DownloadError, StorageError, one_line
from vlseg.files import PathLike, atomic_write_json, cache_directory

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class OfficialCheckpoint:
    """Where a published checkpoint is, and its size in bytes where that is known."""

    url: str
    size: int | None = None


def _official(name: str) -> OfficialCheckpoint:
    return OfficialCheckpoint(f"https://ofa-beijing.oss-cn-beijing.aliyuncs.com/checkpoints/{name}.pt")


OFFICIAL_CHECKPOINTS: dict[str, OfficialCheckpoint] = {
    name: _official(name) for name in ("ofa_tiny", "ofa_medium", "ofa_base", "ofa_large", "ofa_huge")
}


def fetch(name: str, directory: PathLike | None = None, progress: bool = True) -> Path:
    """The local file of an official checkpoint, downloaded if it is not there yet.

    A download that is cut off leaves `NAME.pt.part`, and the next call goes on from there if the server allows it.

    Args:
      name: one of `OFFICIAL_CHECKPOINTS`.
      directory: where the file is or shall be; by default $VLSEG_CACHE, or ~/.cache/vlseg without that.
      progress: show a progress bar (on terminals only).

    Returns:
      The path of `NAME.pt`.

    Raises:
      DownloadError: no such checkpoint, no network, an incomplete or wrong answer, no space. The message says what to
        fetch by other means and where to put it.
    """
    if name not in OFFICIAL_CHECKPOINTS:
        raise DownloadError(f"no official checkpoint is named {name}; there are {', '.join(OFFICIAL_CHECKPOINTS)}")
    checkpoint = OFFICIAL_CHECKPOINTS[name]
    target = (Path(directory) if directory is not None else cache_directory()) / f"{name}.pt"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_to(target, checkpoint, progress)
    # URLError, timeouts, cut connections and full disks are all OSErrors; ValueError is an address that is none.
    except (OSError, ValueError, http.client.HTTPException, StorageError, _WrongAnswerError) as error:
        reason = one_line(error) or type(error).__name__
        raise DownloadError(
            f"could not download {checkpoint.url}: {reason}; "
            f"try again, or fetch it by other means and put it at {target}"
        ) from error
    return target


class _WrongAnswerError(Exception):
    """A server that answers, but not with the file."""


def _fetch_to(target: Path, checkpoint: OfficialCheckpoint, progress: bool) -> None:
    part = target.with_name(f"{target.name}.part")
    version = target.with_name(f"{target.name}.part.json")
    with open(part, "ab") as file:
        _lock(file)
        if target.is_file():
            return  # another process finished it between our look and our lock
        _append_missing(file, checkpoint, version, tqdm_disable=None if progress else True)
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, target)
    version.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _WrongAnswerError("another process is downloading it") from None


def _append_missing(file: BinaryIO, checkpoint: OfficialCheckpoint, version: Path, tqdm_disable: bool | None) -> None:
    """Downloads what `file` lacks; `version` is where the server's name for this version of the file is kept."""
    with _request(checkpoint.url, _size(file), _read_version(version)) as response:
        start, total = _range(response)
        if start not in (0, _size(file)):
            raise _WrongAnswerError("the server sent another part of the file than the missing one")
        if checkpoint.size not in (None, total):
            raise _WrongAnswerError(f"the server has {total} bytes where {checkpoint.size} are expected")
        file.truncate(start)
        atomic_write_json(version, {"version": _version(response.headers)})
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=tqdm_disable) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    received = _size(file)
    if received > total:
        file.truncate(0)
    if received != total:
        raise _WrongAnswerError(f"{received} of {total} bytes arrived")


def _size(file: BinaryIO) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _request(url: str, start: int, version: str | None) -> http.client.HTTPResponse:
    headers = {"User-Agent": "vlseg"}
    resume = {"Range": f"bytes={start}-"} if start else {}
    if start and version:
        resume["If-Range"] = version
    try:
        return _open(url, headers | resume)
    except urllib.error.HTTPError as error:
        # What is here is as long as the file there, or longer: not a part of it.
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
    return _open(url, headers)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    response: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
    )
    return response


def _range(response: http.client.HTTPResponse) -> tuple[int, int]:
    """Where the answer begins in the file, and the size of the whole file, in bytes."""
    if response.headers.get_content_type() == "text/html":
        raise _WrongAnswerError("a web page came instead of the file")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if match:
            return int(match[1]), int(match[2])
    elif response.headers.get("Content-Length", "").isdecimal():
        return 0, int(response.headers["Content-Length"])
    raise _WrongAnswerError("the server does not say how large the file is")


def _version(headers: Message) -> str | None:
    etag: str | None = headers.get("ETag")
    # Files that only have equal weak tags need not be equal byte by byte.
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified")


def _read_version(path: Path) -> str | None:
    try:
        version = json.loads(path.read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) else None
