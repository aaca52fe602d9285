"""Whether local outputs can be written, told before hours of work are spent on them; nothing is made."""

import errno
import os
from pathlib import Path

from vlseg import files, paths
from vlseg.errors import StorageError


def check_output_directory(path: files.PathLike) -> None:
    """Checks that files can be written into a local directory, which may not be there yet; makes nothing.

    Raises:
      StorageError: it, or what should hold it, is a file or a link to nothing, or nothing may be written there.
    """
    target = Path(os.path.abspath(path))
    paths.check_reachable(target, StorageError)
    for place in (target, *target.parents):
        if place.is_dir():
            break
        if os.path.lexists(place):
            name = "a file of that name exists" if place == target else f"{place} is a file, not a directory"
            if not place.exists():
                name = f"{place} is a link to {os.readlink(place)}, which is not there"
            raise StorageError(f"cannot write {os.fspath(path)}: {name}")
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
        raise StorageError(
            f"cannot write {os.fspath(path)}: {files.REASONS[errno.EROFS if read_only else errno.EACCES]}"
        )


def check_output_file(path: files.PathLike) -> None:
    """Checks that a local file can be written, in a directory that is there; makes nothing.

    Raises:
      StorageError: it is a directory, the directory is missing, or nothing may be written there.
    """
    if os.path.isdir(path):
        raise StorageError(f"cannot write {os.fspath(path)}: it is a directory; name a file")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.exists(folder):
        raise StorageError(f"cannot write {os.fspath(path)}: {files.REASONS[errno.ENOENT]}")
    try:
        check_output_directory(folder)
    except StorageError as error:
        raise StorageError(f"cannot write {os.fspath(path)}: {str(error).partition(': ')[2]}") from error
