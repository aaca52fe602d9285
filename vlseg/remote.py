"""Files of buckets (`gs://BUCKET/FOLDER`), for code and libraries that open local files only.

Buckets are reached through fsspec, which knows many kinds of them if their package is installed: gcsfs for `gs://`;
ConfigError where it is not. Where there is no such object or bucket, or it cannot be reached, or denies access,
functions raise an error of the `kind` that they are given, else StorageError.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlseg import files
from vlseg.errors import ConfigError, StorageError, VlsegError, is_of_jax, one_line
from vlseg.files import PathLike
from vlseg.progress import BYTES, Progress

_LARGE = 64 << 20  # bytes whose transfer is shown

# Why not fsspec's own caches: `filecache` and `simplecache` write into the final file, which a killed process leaves
# half and `simplecache` then uses; they replace files under their readers, one by one instead of a folder as a whole;
# and they lock nothing. Their version of a file, `ukey`, is a hash of all that is known of it, which a change of
# storage class alters too, so we take the first of these that a kind of bucket has, the surest first.
_VERSIONS = ("generation", "ETag", "etag", "mtime", "created")


def exists(url: PathLike) -> bool:
    """Whether there is an object."""
    with errors(url, StorageError):
        system, path = _opened(url)
        return bool(system.exists(path))


def read(url: PathLike, kind: type[VlsegError]) -> bytes:
    """The content of a small object."""
    with errors(url, kind):
        system, path = _opened(url)
        content: bytes = system.cat_file(path)
        return content


def write(url: PathLike, content: bytes) -> None:
    """Writes a small object, which others see when it is complete."""
    with errors(url, StorageError):
        system, path = _opened(url)
        system.pipe_file(path, content)


def create(url: PathLike, content: bytes) -> bool:
    """Writes a small object unless there is one, in which case it returns False; of several writers one succeeds."""
    with errors(url, StorageError):
        system, path = _opened(url)
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        found: bytes = system.cat_file(path)
        return found == content


def modified(url: PathLike) -> float | None:
    """When an object was written, in seconds by the clock of the bucket; None if there is none."""
    with errors(url, StorageError):
        system, path = _opened(url)
        try:
            return float(system.modified(path).timestamp())
        except FileNotFoundError:
            return None


def sizes(url: PathLike) -> dict[str, int]:
    """The sizes in bytes of all files below a folder, by their paths in it."""
    with errors(url, StorageError):
        system, path = _opened(url)
        found = system.find(path, detail=True)
        return {name[len(path) + 1 :]: int(info["size"]) for name, info in found.items() if not name.endswith("/")}


@contextlib.contextmanager
def opened(url: PathLike) -> Iterator[Any]:
    """An object as a binary file to read from."""
    with errors(url, StorageError):
        system, path = _opened(url)
        with system.open(path, "rb") as file:
            yield file


def names(url: PathLike) -> list[str]:
    """Names of the files of a folder; none if there is no folder."""
    with errors(url, StorageError):
        system, path = _opened(url)
        # Some clients leave an object for the folder itself, whose path ends with a slash.
        return [found.rpartition("/")[2] for found in system.find(path, maxdepth=1) if not found.endswith("/")]


def remove(url: PathLike, first: str) -> None:
    """Removes the files of a folder, the one called `first` before the others."""
    with errors(url, StorageError):
        system, path = _opened(url)
        for name in sorted(names(url), key=lambda name: name != first):
            system.rm_file(f"{path}/{name}")


def remove_file(url: PathLike) -> None:
    """Removes an object."""
    with errors(url, StorageError):
        system, path = _opened(url)
        system.rm_file(path)


def upload(folder: Path, names: Sequence[str], url: str) -> None:
    """Copies files of a local folder into a folder of a bucket one after the other, over those of the same names."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    with errors(url, StorageError), _bar("upload", sum(sizes.values())) as bar:
        system, path = _opened(url)
        for name in names:
            system.put_file(str(folder / name), f"{path}/{name}")
            bar.update(sizes[name])


def local_copy(url: str, last: str, kind: type[VlsegError]) -> Path:
    """A copy in the cache of a file of a bucket, or of the files of a folder, see `fetch`.

    Args:
        url: the file or folder.
        last: name of the file that is written to a folder last: one that lacks it is not complete.
        kind: of errors.

    Raises:
        VlsegError: of this kind; also where the folder is not complete. StorageError: as `fetch`.
    """
    url = url.rstrip("/")
    with errors(url, kind):
        system, path = _opened(url)
        if system.isfile(path):
            folder, _, name = url.rpartition("/")
            return fetch(folder, [name], kind) / name
        found = names(url)
        if not found:
            raise kind(f"{url}: there is no such bucket or object")
        if last not in found:
            raise kind(f"{url}: {last} is missing: it is something else, or was not written to its end")
    return fetch(url, found, kind)


def fetch(url: str, names: Sequence[str], kind: type[VlsegError]) -> Path:
    """A local folder in the cache with files of a folder of a bucket, downloaded unless they are there already.

    A local folder is for one state of the files: when these change in the bucket, another one is made. A download that
    was cut off goes on with the first file that is missing. Of several processes that call this at the same time, one
    downloads and the others wait.

    Args:
        url: the folder in the bucket.
        names: of files in it.
        kind: of errors.

    Raises:
        VlsegError: of this kind; also where files change while they are downloaded.
        StorageError: the cache cannot be written.
    """
    url = url.rstrip("/")
    with errors(url, kind):
        state = _state(url, names, kind)
        system, path = _opened(url)
        readable = re.sub(r"[^\w.-]+", "-", path)[-80:]
        key = hashlib.sha256(repr((url, sorted(state.items()))).encode()).hexdigest()[:16]
        folder = files.cache_directory() / "buckets" / f"{readable}-{key}"
        with files.locked(folder / ".lock"):
            missing = {name: state[name][0] for name in names if not (folder / name).is_file()}
            if missing:
                _download(system, path, missing, folder)
                if _state(url, names, kind) != state:
                    raise kind(f"{url}: changed while it was downloaded; start again")
    return folder


def _download(system: Any, path: str, sizes: Mapping[str, int], folder: Path) -> None:
    """Copies the files whose sizes are given from a folder of a bucket."""
    with _bar("download", sum(sizes.values())) as bar:
        for name, size in sizes.items():
            with files.atomic_file(folder / name) as file:
                system.get_file(f"{path}/{name}", file.name)
            bar.update(size)


def _state(url: str, names: Sequence[str], kind: type[VlsegError]) -> dict[str, tuple[int, str]]:
    """Size and version of each file."""
    system, path = _opened(url)
    found = {info["name"].rpartition("/")[2]: info for info in system.ls(path, detail=True)}
    missing = [name for name in names if name not in found]
    if missing:
        raise kind(f"{url}: {', '.join(missing)} are missing: make or copy it anew")
    versions = {name: next((str(found[name][key]) for key in _VERSIONS if key in found[name]), "") for name in names}
    return {name: (found[name]["size"], versions[name]) for name in names}


def _bar(what: str, size: int) -> Progress:
    return Progress(size, what, BYTES, shown=size >= _LARGE)


def _opened(url: PathLike) -> tuple[Any, str]:
    """fsspec's file system for a URL, without what it remembers of earlier listings, and the path in it."""
    # Imported here: most paths are local, and this brings in the clients of object stores.
    import fsspec

    system, path = fsspec.url_to_fs(os.fspath(url))
    system.invalidate_cache()
    return system, path.rstrip("/")


@contextlib.contextmanager
def errors(path: PathLike, kind: type[VlsegError]) -> Iterator[None]:
    """Turns what clients of object stores raise, almost anything, into an error of this kind: one line about `path`.

    A missing package is a ConfigError. Errors of JAX's runtime, such as a lost process, pass unchanged.
    """
    url = os.fspath(path)
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
    """Whether an error of a client of object stores means that credentials are missing or not sufficient."""
    return (
        isinstance(error, PermissionError)
        or str(getattr(error, "code", "")) in ("401", "403")
        or str(error).startswith("Forbidden")  # what gcsfs makes of 403
        or type(error).__module__.startswith("google.auth")
    )
