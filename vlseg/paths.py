"""Paths that a person gave: whether it can be told what is there."""

import os

from vlseg import files
from vlseg.errors import VlsegError
from vlseg.files import PathLike


def check_reachable(path: PathLike, error: type[VlsegError]) -> None:
    """Checks that it can be told what is at a path, which need not be there; of a bucket, nothing.

    Raises:
      VlsegError: its name is too long, a folder on its way is closed to this user, or links there lead in a circle; of
        the kind `error`.
    """
    if files.is_remote(path):
        return
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as problem:
        raise error(f"{os.fspath(path)}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
