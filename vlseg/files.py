"""Writing local files and directories so that a reader sees the old content or the new, and never a half.

Everything is written under a hidden name beside its destination (a leading dot, so that no reader takes a leftover of a
killed run for a result), flushed to the disk and renamed. What killed processes have left beside a destination is
removed by the next process that writes there. StorageError says what is wrong with a destination: full,
read-only, absent, there already, or a file where a directory is wanted or the other way round; nothing is left behind.
For paths that may be in a bucket see `vlseg.storage`.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vlseg.errors import StorageError, VlsegError, printable

PathLike = str | os.PathLike[str]

REASONS = {
    errno.ENOSPC: "no space is left on the device; free some or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a place you may write to",
    errno.EPERM: "permission denied; choose a place you may write to",
    errno.ENOENT: "its directory does not exist; create that first",
    errno.EEXIST: "it is a file, not a directory; choose another place",
    errno.ENOTDIR: "its parent is a file, not a directory; choose another place",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
# What can go wrong with the destination while the caller writes to it; any other error there is the caller's own.
_DESTINATION_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})

# File systems that have none, such as FAT and some that lie in a network.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def atomic_write_bytes(path: PathLike, data: bytes) -> None:
    """Writes `data` to the local file `path`, replacing what is there."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: PathLike, text: str) -> None:
    """Writes `text` as UTF-8, like `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: PathLike, obj: Any) -> None:
    """Writes `obj` as `json_text`, like `atomic_write_bytes`."""
    atomic_write_text(path, json_text(obj))


def json_text(obj: Any) -> str:
    """`obj` as indented JSON in UTF-8; NaN and infinities, which JSON cannot hold, become null.

    Bytes of a file name that are not UTF-8, which Python holds as halves of surrogate pairs, are written as in
    `shown_path`.

    Raises:
      TypeError: `obj` holds something that is no dict, list, tuple, str, int, float, bool or None.
    """
    text = json.dumps(_finite(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _SURROGATE.sub(lambda match: json.dumps(_escaped(match))[1:-1], text)


def shown_path(path: PathLike) -> str:
    r"""A path for people: characters that cannot be printed, and bytes that are not UTF-8, are escaped.

    A byte 0xff of a name that is not UTF-8 is "\xff".
    """
    return "".join(map(printable, _SURROGATE.sub(_escaped, os.fspath(path))))


def _escaped(surrogate: re.Match[str]) -> str:
    """Half a surrogate pair, or the byte that is not UTF-8 for which it stands, as `stored_path` has it."""
    code = ord(surrogate[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def create(path: PathLike, data: bytes) -> bool:
    """Writes a small local file unless there is one, in which case it returns False; of several writers one succeeds.

    Others see it whole at once; only where the file system has no hard links it is empty for a moment.
    """
    target = Path(path)
    temporary = _hidden_sibling(target)
    with storage_errors(path):
        try:
            temporary.write_bytes(data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                try:
                    with open(target, "xb") as file:
                        file.write(data)
                except FileExistsError:
                    return False
            return True
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[BinaryIO]:
    """Yields a binary file which becomes the local file `path` when the block ends, and vanishes if it fails."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise StorageError(f"cannot write {os.fspath(path)}: it is a directory; name a file")
    with storage_errors(path):
        temporary, lock = _locked_sibling(target, lambda place: place.touch(exist_ok=False))
        file = open(temporary, "wb")  # noqa: SIM115 - closed before the renaming, or on failure
    try:
        with storage_errors(path, _DESTINATION_ERRNOS):
            yield file
        with storage_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, target)
            _sync(target.parent)
    except BaseException:
        # Closing flushes, which fails once more on a full disk.
        with contextlib.suppress(OSError):
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def atomic_directory(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty directory which becomes the local directory `path` when the block ends, and vanishes if it fails.

    Args:
      path: the destination; its parent must exist.
      overwrite: replace a directory that is there already. The old one is moved aside first and put back if the new one
        cannot take its place.
    """
    target = Path(os.path.realpath(path))
    _check_replaceable(path, target, overwrite)
    with storage_errors(path):
        temporary, lock = _locked_sibling(target, Path.mkdir)
    try:
        with storage_errors(path, _DESTINATION_ERRNOS):
            yield temporary
        with storage_errors(path):
            _sync_tree(temporary)
            _check_replaceable(path, target, overwrite)
            _move_into_place(temporary, target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def output_directory(path: PathLike, *folders: str) -> Iterator[Path]:
    """Makes a local directory and `folders` in it, for files that the block writes one by one.

    If the block fails, those that it made and that hold nothing are removed again.
    """
    target = Path(path)
    wanted = [target, *(target / folder for folder in folders)]
    missing = [place for folder in wanted for place in (folder, *folder.parents) if not place.exists()]
    try:
        with storage_errors(path):
            for folder in wanted:
                folder.mkdir(parents=True, exist_ok=True)
        yield target
    except BaseException:
        for folder in sorted(set(missing), key=lambda place: len(place.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails if there is something in it
        raise


@contextlib.contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Lets one process at a time run the block, by a lock on the local file `path`, which is made and stays."""
    with storage_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "ab")  # noqa: SIM115 - closed below, which unlocks it
    with lock:
        with storage_errors(path):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _finite(obj: Any) -> Any:
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    if isinstance(obj, dict):
        return {key: _finite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_finite(value) for value in obj]
    return obj


def cache_directory() -> Path:
    """Where downloads and computed embeddings are kept: $VLSEG_CACHE, ~/.cache/vlseg, or without a home /tmp."""
    try:
        return Path(os.environ.get("VLSEG_CACHE") or "~/.cache/vlseg").expanduser()
    except RuntimeError:  # a user without a home, as in many containers
        return Path(tempfile.gettempdir()) / f"vlseg-{os.getuid()}"


def stored_path(path: PathLike) -> str:
    """A path as text for JSON and messages; bytes that are no UTF-8, which such text cannot hold, as hexadecimals."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_regular(path: PathLike, error: type[VlsegError]) -> bytes:
    """The content of a local file.

    Raises:
      VlsegError: as `check_regular`, or it cannot be read; of the kind `error`.
    """
    check_regular(path, error)
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise error(f"{os.fspath(path)}: cannot be read: {problem.strerror or problem}") from problem


def check_regular(path: PathLike, error: type[VlsegError]) -> None:
    """Checks that a path, or what a link there leads to, is a file with content.

    Raises:
      VlsegError: it is missing, a link to nothing, a folder, or a pipe, socket or device, which to open could hang; of
        the kind `error`.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as problem:
        if os.path.islink(path):
            raise error(f"{name}: is a link to {os.readlink(path)}, which is not there") from problem
        if isinstance(problem, FileNotFoundError):
            raise error(f"{name}: no such file") from problem
        raise error(f"{name}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if stat.S_ISDIR(mode):
        raise error(f"{name}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{name}: is a pipe, socket or device, not a file")


def kind_of(head: bytes) -> str:
    """What a file is, from its first bytes, where it is something that stands in place of what was meant; else ""."""
    start = head[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer instead of the file itself (git lfs pull fetches that)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as of an error or of a login, instead of the file itself (download it again)"
    return "an empty file" if not head else ""


def is_remote(path: PathLike) -> bool:
    """Whether a path is not a local one but a URL, such as "gs://bucket/run"."""
    return re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(path)) is not None


def _hidden_sibling(target: Path) -> Path:
    return target.with_name(f".{target.name[:40]}.{_HOST}{uuid.uuid4().hex[:8]}.tmp")


def _locked_sibling(target: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new file or directory beside `target`, and the descriptor that locks it for as long as it is written."""
    _remove_leftovers(target.parent)
    while True:
        path = _hidden_sibling(target)
        make(path)
        lock = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some file systems have no locks; then nothing is ever removed
            fcntl.flock(lock, fcntl.LOCK_SH)
        if path.exists():
            return path, lock
        os.close(lock)  # another process took it for a leftover before it was locked


_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
_TEMPORARY = re.compile(r"\..{1,40}\.([0-9a-f]{4})[0-9a-f]{8}\.tmp", re.DOTALL)
_DAY = 24 * 60 * 60
_looked_at: set[Path] = set()


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed processes have left in a folder, the first time that this process writes there.

    A process locks what it writes, and the system ends its locks with it. Locks of other hosts may not be seen here, so
    what these have left is removed when it is a day old.
    """
    if folder in _looked_at:
        return
    _looked_at.add(folder)
    # Whatever hinders the removal also hinders the writing, which says so.
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            found = _TEMPORARY.fullmatch(entry.name)
            if found and (found[1] == _HOST or time.time() - entry.stat().st_mtime > _DAY):
                _remove_unlocked(folder / entry.name)


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        finally:
            os.close(lock)


def check_absent(path: PathLike) -> None:
    """Raises StorageError if there is something at `path`."""
    if os.path.lexists(path):
        raise StorageError(f"{os.fspath(path)} exists already; remove it or choose another place")


def _check_replaceable(path: PathLike, target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise StorageError(f"cannot write the directory {os.fspath(path)}: a file of that name exists")
    if not overwrite:
        check_absent(path)


def _move_into_place(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
        return
    old = new
    if not _exchanged(new, target):
        old = _hidden_sibling(target)
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step, where the system can: a process killed between two would leave neither."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in (*names, ""):
            _sync(Path(folder, name))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(path: PathLike, errnos: frozenset[int] | None = None) -> Iterator[None]:
    """Turns an OSError (of the given numbers, or any) into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        if errnos is not None and error.errno not in errnos:
            raise
        reason = REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StorageError(f"cannot write {os.fspath(path)}: {reason}") from error
