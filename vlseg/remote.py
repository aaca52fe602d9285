"""Folders of a bucket (`gs://BUCKET/FOLDER`), for code and libraries that open local files only.

Buckets are reached through fsspec, which knows many kinds of them if their package is installed: gcsfs for `gs://`.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlseg import files
from vlseg.errors import ConfigError, StorageError, VlsegError, is_of_jax, one_line
from vlseg.files import PathLike

_BLOCK = 32 << 20  # bytes of one request
_LONG = 2 * _BLOCK  # bytes whose transfer is shown
_VERSIONS = ("generation", "ETag", "etag", "mtime", "created")
"""What kinds of buckets call that which changes when an object is written anew, the surest first."""


def exists(url: PathLike) -> bool:
    """Whether there is an object.

    Raises:
        ConfigError: a package is missing. StorageError: the bucket cannot be reached, or denies access.
    """
    with errors(url, StorageError):
        system, path = _opened(url)
        system.invalidate_cache()
        return bool(system.exists(path))


def read(url: PathLike, kind: type[VlsegError]) -> bytes:
    """The content of a small object.

    Raises:
        ConfigError: a package is missing.
        VlsegError: of this kind; there is no such object or bucket, or it cannot be reached, or denies access.
    """
    with errors(url, kind):
        system, path = _opened(url)
        system.invalidate_cache()
        content: bytes = system.cat_file(path)
        return content


def write(url: PathLike, content: bytes) -> None:
    """Writes a small object, which others see when it is complete.

    Raises:
        ConfigError: a package is missing.
        StorageError: there is no such bucket, or it cannot be reached, or denies access.
    """
    with errors(url, StorageError):
        system, path = _opened(url)
        system.pipe_file(path, content)


def upload(folder: Path, names: Sequence[str], url: str) -> None:
    """Copies files of a local folder into a folder of a bucket one after the other, over those of the same names.

    Raises:
        ConfigError: a package is missing.
        StorageError: there is no such bucket, or it cannot be reached, or denies access.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    with errors(url, StorageError), _bar("upload", sum(sizes.values())) as bar:
        system, path = _opened(url)
        for name in names:
            system.put_file(str(folder / name), f"{path}/{name}")
            bar.update(sizes[name])


@contextlib.contextmanager
def directory(path: PathLike, last: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty local directory which becomes `path`, local or of a bucket, when the block ends.

    Locally this is `files.atomic_directory`. In a bucket the file called `last`, without which readers take the rest
    for nothing, goes first when others take the place of what is there, and comes last.

    Raises:
        ConfigError: a package is missing.
        StorageError: as in `files.atomic_directory`; or the bucket cannot be reached, or denies access.
    """
    if not files.is_remote(path):
        with files.atomic_directory(path, overwrite) as folder:
            yield folder
        return
    url = os.fspath(path).rstrip("/")
    if _objects(url) and not overwrite:
        raise StorageError(f"{url} exists already; remove it or choose another place")
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        names = {file.name for file in Path(temporary).iterdir()}
        _remove(url, last)
        upload(Path(temporary), [*sorted(names - {last}), last], url)


class Staging:
    """A local folder for files that grow, which objects of a bucket cannot.

    Attributes:
        folder: where to write: the place itself if it is local, else a temporary folder.
        is_remote: whether the place is a folder of a bucket.
    """

    def __init__(self, place: PathLike) -> None:
        self.is_remote = files.is_remote(place)
        self._url = os.fspath(place)
        self._temporary = tempfile.TemporaryDirectory() if self.is_remote else None
        self.folder = Path(self._temporary.name if self._temporary else place)

    def fetch(self, name: str) -> None:
        """Brings a small file, if there is one, into the folder.

        Raises:
            ConfigError, StorageError: as `read`.
        """
        url = f"{self._url}/{name}"
        if self.is_remote and exists(url):
            files.atomic_write_bytes(self.folder / name, read(url, StorageError))

    def upload(self) -> None:
        """Copies all files of the folder to the place, over those of the same names.

        Raises:
            ConfigError, StorageError: as `upload`.
        """
        if self.is_remote:
            found = [path for path in self.folder.rglob("*") if path.is_file()]
            upload(self.folder, [path.relative_to(self.folder).as_posix() for path in found], self._url)

    def close(self) -> None:
        """Uploads, and removes the temporary folder."""
        try:
            self.upload()
        finally:
            if self._temporary:
                self._temporary.cleanup()


def local_copy(url: str, last: str, kind: type[VlsegError]) -> Path:
    """A copy in the cache of a file of a bucket, or of the files of a folder that `directory` wrote, see `fetch`.

    Raises:
        ConfigError, VlsegError, StorageError: as `fetch`; a folder that lacks the file called `last` is not complete.
    """
    url = url.rstrip("/")
    with errors(url, kind):
        system, path = _opened(url)
        system.invalidate_cache()
        if system.isfile(path):
            folder, _, name = url.rpartition("/")
            return fetch(folder, [name], kind) / name
        names = [object_path.rpartition("/")[2] for object_path in _objects(url)]
        if not names:
            raise kind(f"{url}: there is no such bucket or object")
        if last not in names:
            raise kind(f"{url}: {last} is missing: it is something else, or was not written to its end")
    return fetch(url, names, kind)


def fetch(url: str, names: Sequence[str], kind: type[VlsegError]) -> Path:
    """A local folder in the cache with files of a folder of a bucket, downloaded unless it is there already.

    A folder is for one state of the files: when these change in the bucket, another one is made. What was cut off goes
    on with the file that was missing. Of several processes that call this at the same time, one downloads.

    Args:
        url: the folder in the bucket.
        names: of files in it.
        kind: of errors.

    Raises:
        ConfigError: a package is missing.
        VlsegError: of this kind; files are missing or change while they are downloaded; the bucket cannot be reached,
            or denies access.
        StorageError: the cache cannot be written.
    """
    url = url.rstrip("/")
    with errors(url, kind):
        system, path = _opened(url)
        state = _state(system, url, path, names, kind)
        place = re.sub(r"[^\w.-]+", "-", path)[-80:]
        key = hashlib.sha256(repr((url, sorted(state.items()))).encode()).hexdigest()[:16]
        folder = files.cache_directory() / "buckets" / f"{place}-{key}"
        with _locked(folder):
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                _download(system, path, missing, {name: size for name, (size, _) in state.items()}, folder)
                if _state(system, url, path, names, kind) != state:
                    raise kind(f"{url}: changed while it was downloaded; start again")
    return folder


def _download(system: Any, path: str, names: Sequence[str], sizes: Mapping[str, int], folder: Path) -> None:
    with _bar("download", sum(sizes[name] for name in names)) as bar:
        for name in names:
            with (
                system.open(f"{path}/{name}", "rb", block_size=_BLOCK) as source,
                files.atomic_file(folder / name) as target,
            ):
                shutil.copyfileobj(source, target, _BLOCK)
            bar.update(sizes[name])


def _objects(url: str) -> list[str]:
    """Paths of the files of a folder; none if there is no folder."""
    with errors(url, StorageError):
        system, path = _opened(url)
        system.invalidate_cache()
        # Some clients leave an object for the folder itself, whose path ends with a slash.
        return [found for found in system.find(path, maxdepth=1) if not found.endswith("/")]


def _remove(url: str, first: str) -> None:
    """Removes the files of a folder, the one called `first` before the others."""
    with errors(url, StorageError):
        system, _ = _opened(url)
        for found in sorted(_objects(url), key=lambda found: found.rpartition("/")[2] != first):
            system.rm_file(found)


def _state(
    system: Any, url: str, path: str, names: Sequence[str], kind: type[VlsegError]
) -> dict[str, tuple[int, str]]:
    """Size and version of each file."""
    system.invalidate_cache()
    found = {info["name"].rpartition("/")[2]: info for info in system.ls(path, detail=True)}
    missing = [name for name in names if name not in found]
    if missing:
        raise kind(f"{url}: {', '.join(missing)} are missing: make or copy it anew")
    return {name: (found[name]["size"], _version(found[name])) for name in names}


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if key in info), "")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a folder, and lets one process at a time go on."""
    with files.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "ab")  # noqa: SIM115 - closed below, which unlocks it
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bar(what: str, size: int) -> Any:
    return tqdm(total=size, desc=what, unit="B", unit_scale=True, disable=size < _LONG or not sys.stderr.isatty())


def _opened(url: PathLike) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    # Imported here: local paths are the rule, and this brings in the clients of object stores.
    import fsspec

    system, path = fsspec.url_to_fs(os.fspath(url))
    return system, path.rstrip("/")


@contextlib.contextmanager
def errors(place: PathLike, kind: type[VlsegError]) -> Iterator[None]:
    """Turns what clients of object stores raise, almost anything, into an error of this kind: one line about a place.

    That a package is missing is a ConfigError. What JAX raises when another process is lost stays what it is.
    """
    url = os.fspath(place)
    try:
        yield
    except VlsegError:
        raise
    except ImportError as error:
        hint = 'pip install "vlseg-jax[gcs]"' if url.startswith(("gs://", "gcs://")) else "install it"
        raise ConfigError(
            f"{url}: a package for this kind of address is missing: {hint} ({one_line(error)})"
        ) from error
    except FileNotFoundError as error:
        raise kind(f"{url}: there is no such bucket or object") from error
    except Exception as error:
        if is_of_jax(error):
            raise
        reason = one_line(error)[:300] or type(error).__name__
        if _is_denial(error):
            raise kind(
                f"{url}: access is denied: log in (gcloud auth application-default login), or name a key file in "
                f"GOOGLE_APPLICATION_CREDENTIALS ({reason})"
            ) from error
        raise kind(f"{url}: cannot be reached: {reason}") from error


def _is_denial(error: Exception) -> bool:
    """Whether an error of a client of object stores says that who asks may not, or is not known."""
    return (
        isinstance(error, PermissionError)
        or str(getattr(error, "code", "")) in ("401", "403")
        or str(error).startswith("Forbidden")  # what gcsfs makes of 403
        or type(error).__module__.startswith("google.auth")
    )
