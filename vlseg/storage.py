"""Reading and writing paths that are local or in a bucket (`gs://BUCKET/FOLDER`), such as working directories.

`etils.epath` also has one interface for both, but writes local files in place, remembers what a bucket held earlier,
and raises whatever the client of the bucket raises; here are the guarantees and errors of `vlseg.files` and
`vlseg.remote`: ConfigError where a package for the bucket is missing, else StorageError.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlseg import files, outputs, remote
from vlseg.errors import StorageError
from vlseg.files import PathLike


def exists(path: PathLike) -> bool:
    """Whether there is a file; locally also whether there is a directory."""
    return remote.exists(path) if files.is_remote(path) else os.path.exists(path)


def check_absent(path: PathLike) -> None:
    """Raises StorageError if there is something at `path`."""
    if not files.is_remote(path):
        files.check_absent(path)
    elif exists(path):
        raise StorageError(f"{os.fspath(path)} exists already; remove it or choose another place")


def check_new(path: PathLike) -> None:
    """Checks that a file or directory can be made, whose parent is there; makes nothing.

    Raises:
        StorageError: there is something at `path`, or locally nothing may be written there.
    """
    _check_named(path)
    check_absent(path)
    check_creatable(path)


def check_creatable(path: PathLike) -> None:
    """Checks that something can be made at `path`, whose parent is there; makes nothing. In a bucket all can be.

    Raises:
        StorageError: the parent is missing, or nothing may be written there.
    """
    _check_named(path)
    if not files.is_remote(path):
        outputs.check_output_file(path)


def check_folder(path: PathLike | None) -> None:
    """Checks that files can be written into a local folder, which may not be there yet; None passes; makes nothing.

    Raises:
        StorageError: it is a file, nothing may be written there, or it is not local.
    """
    if path is None:
        return
    _check_named(path)
    check_local(path)
    outputs.check_output_directory(path)


def check_local(path: PathLike) -> None:
    """Raises StorageError for an address such as gs://..., of what is only written to local disks."""
    if files.is_remote(path):
        raise StorageError(f"{os.fspath(path)} is not local: write to a local disk, and copy the result")


def _check_named(path: PathLike) -> None:
    if not os.fspath(path):
        raise StorageError("the name of an output is empty, as that of a shell variable without a value: give one")


def remove(path: PathLike) -> None:
    """Removes a file."""
    if files.is_remote(path):
        remote.remove_file(path)
    else:
        with files.storage_errors(path):
            os.unlink(path)


def read_bytes(path: PathLike) -> bytes:
    """The content of a small file."""
    if files.is_remote(path):
        return remote.read(path, StorageError)
    return files.read_regular(path, StorageError)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a small file, which others see when it is complete, replacing what is there."""
    if files.is_remote(path):
        remote.write(path, data)
    else:
        files.atomic_write_bytes(path, data)


def create(path: PathLike, data: bytes) -> bool:
    """Writes a small file unless there is one, in which case it returns False; of several writers one succeeds."""
    return remote.create(path, data) if files.is_remote(path) else files.create(path, data)


def names(folder: PathLike) -> list[str]:
    """Names of the files of a folder; none if there is no folder."""
    if files.is_remote(folder):
        return remote.names(folder)
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(folder)}: {error.strerror}") from error


def modified(path: PathLike) -> float | None:
    """When a file was written, in seconds by the clock of the place itself; None if there is none."""
    if files.is_remote(path):
        return remote.modified(path)
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(path)}: {error.strerror}") from error


def sizes(folder: PathLike) -> dict[str, int]:
    """The sizes in bytes of all files below a folder, by their paths in it, with "/"; none if there is no folder."""
    if files.is_remote(folder):
        return remote.sizes(folder)
    found = {}
    try:
        if os.path.isdir(folder):
            # A folder that cannot be read is an error, not an empty one.
            for place, _, names in os.walk(folder, onerror=_raise):
                for name in names:
                    path = Path(place, name)
                    found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(error.filename or folder)}: {error.strerror}") from error
    return found


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[Any]:
    """A file as a binary one to read from; locally OSError where it cannot be read."""
    if files.is_remote(path):
        with remote.opened(path) as file:
            yield file
        return
    with open(path, "rb") as file:
        yield file


def write_text(path: PathLike, text: str) -> None:
    """Writes `text` as UTF-8, like `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: PathLike, obj: Any) -> None:
    """Writes `obj` as indented JSON, like `write_bytes`; NaN and infinities become null."""
    write_text(path, files.json_text(obj))


@contextlib.contextmanager
def directory(path: PathLike, last: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty local directory which becomes `path` when the block ends.

    Locally this is `files.atomic_directory`. In a bucket the file called `last`, without which readers ignore the
    others, is the first to be removed from an old directory and the last to be uploaded.
    """
    if not files.is_remote(path):
        with files.atomic_directory(path, overwrite) as folder:
            yield folder
        return
    url = os.fspath(path).rstrip("/")
    if remote.names(url) and not overwrite:
        raise StorageError(f"{url} exists already; remove it or choose another place")
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        others = {file.name for file in Path(temporary).iterdir()} - {last}
        remote.remove(url, last)
        remote.upload(Path(temporary), [*sorted(others), last], url)


class Staging:
    """A local folder for files that are appended to, which objects of a bucket cannot be.

    Attributes:
        folder: where to write: the destination itself if it is local, else a temporary folder.
        is_remote: whether the destination is a folder of a bucket.
    """

    def __init__(self, destination: PathLike) -> None:
        self.is_remote = files.is_remote(destination)
        self._url = os.fspath(destination)
        self._temporary = tempfile.TemporaryDirectory() if self.is_remote else None
        self.folder = Path(self._temporary.name if self._temporary else destination)

    def fetch(self, name: str) -> None:
        """Copies a small file, if there is one, from the bucket into the folder."""
        url = f"{self._url}/{name}"
        if self.is_remote and remote.exists(url):
            files.atomic_write_bytes(self.folder / name, remote.read(url, StorageError))

    def upload(self) -> None:
        """Copies all files of the folder to the bucket, over those of the same names."""
        if self.is_remote:
            found = [path for path in self.folder.rglob("*") if path.is_file()]
            remote.upload(self.folder, [path.relative_to(self.folder).as_posix() for path in found], self._url)

    def close(self) -> None:
        """Uploads, and removes the temporary folder."""
        try:
            self.upload()
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes the temporary folder."""
        if self._temporary:
            self._temporary.cleanup()
