"""Folders of a bucket (`gs://BUCKET/FOLDER`) for libraries that open local files only.

Buckets are reached through fsspec, which knows many kinds of them if their package is installed: gcsfs for `gs://`.
"""

import contextlib
import fcntl
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlseg import files
from vlseg.errors import ConfigError, DatasetError, StorageError, VlsegError, one_line

_BLOCK = 32 << 20  # bytes of one request
_VERSIONS = ("generation", "ETag", "etag", "mtime", "created")
"""What kinds of buckets call that which changes when an object is written anew, the surest first."""


def exists(url: str) -> bool:
    """Whether there is an object.

    Raises:
        ConfigError: a package is missing. StorageError: the bucket cannot be reached, or denies access.
    """
    with _errors(url, StorageError):
        system, path = _opened(url)
        system.invalidate_cache()
        return bool(system.exists(path))


def read(url: str) -> bytes:
    """The content of a small object.

    Raises:
        ConfigError: a package is missing.
        DatasetError: there is no such object or bucket, or it cannot be reached, or denies access.
    """
    with _errors(url, DatasetError):
        system, path = _opened(url)
        system.invalidate_cache()
        content: bytes = system.cat_file(path)
        return content


def upload(folder: Path, names: Sequence[str], url: str) -> None:
    """Copies files of a local folder into a folder of a bucket one after the other, over those of the same names.

    Raises:
        ConfigError: a package is missing.
        StorageError: there is no such bucket, or it cannot be reached, or denies access.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    with _errors(url, StorageError), _bar("upload", sum(sizes.values())) as bar:
        system, path = _opened(url)
        for name in names:
            system.put_file(str(folder / name), f"{path}/{name}")
            bar.update(sizes[name])


def fetch(url: str, names: Sequence[str]) -> Path:
    """A local folder in the cache with files of a folder of a bucket, downloaded unless it is there already.

    A folder is for one state of the files: when these change in the bucket, another one is made. What was cut off goes
    on with the file that was missing. Of several processes that call this at the same time, one downloads.

    Args:
        url: the folder in the bucket.
        names: of files in it.

    Raises:
        ConfigError: a package is missing.
        DatasetError: files are missing or change while they are downloaded; the bucket cannot be reached, or denies
            access. StorageError: the cache cannot be written.
    """
    url = url.rstrip("/")
    with _errors(url, DatasetError):
        system, path = _opened(url)
        state = _state(system, url, path, names)
        place = re.sub(r"[^\w.-]+", "-", path)[-80:]
        key = hashlib.sha256(repr((url, sorted(state.items()))).encode()).hexdigest()[:16]
        folder = files.cache_directory() / "data" / f"{place}-{key}"
        with _locked(folder):
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                _download(system, path, missing, {name: size for name, (size, _) in state.items()}, folder)
                if _state(system, url, path, names) != state:
                    raise DatasetError(f"{url}: changed while it was downloaded; start again")
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


def _state(system: Any, url: str, path: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Size and version of each file."""
    system.invalidate_cache()
    found = {info["name"].rpartition("/")[2]: info for info in system.ls(path, detail=True)}
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"{url}: {', '.join(missing)} are missing: copy or prepare the data set anew")
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
    return tqdm(total=size, desc=what, unit="B", unit_scale=True, disable=not sys.stderr.isatty())


def _opened(url: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    # Imported here: local data is the rule, and this brings in the clients of object stores.
    import fsspec

    system, path = fsspec.url_to_fs(url)
    return system, path.rstrip("/")


@contextlib.contextmanager
def _errors(url: str, kind: type[VlsegError]) -> Iterator[None]:
    """Turns what clients of object stores raise, almost anything, into one line about `url`."""
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
        reason = one_line(error) or type(error).__name__
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
