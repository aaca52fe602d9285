"""Checksums of all files of a folder, in a file of the folder: what was written is what is read.

checksums.json   {"files": {path: [bytes, CRC-32]}, "sum": CRC-32 of the former, as `_own_sum` has it}
"""

import concurrent.futures
import json
import os
import zlib
from collections.abc import Collection, Iterable
from typing import Any

from vlseg import files, json_files, storage
from vlseg.errors import CheckpointError, StorageError

FILE = "checksums.json"
CHUNK = 8 << 20
"""Bytes that are read at a time."""

READERS = 4
"""Files that are read at a time."""


def write(folder: str | os.PathLike[str]) -> None:
    """Writes the checksums of the files that are in a folder, local or of a bucket.

    Raises:
        StorageError: it cannot be read or written.
    """
    path = os.fspath(folder)
    found = {name: size for name, size in storage.sizes(path).items() if _counts(name, ())}
    sums = dict(zip(found, _sums(path, found), strict=True))
    table = {name: [found[name], sums[name]] for name in sorted(found)}
    storage.write_json(f"{path}/{FILE}", {"files": table, "sum": _own_sum(table)})


def check(folder: str | os.PathLike[str], later: Collection[str] = ()) -> bool:
    """Compares a folder with its checksums.

    Args:
        later: names of files that were written after them.

    Returns:
        False if it has no checksums.

    Raises:
        CheckpointError: files are missing, cut, changed or were added, of which one is named. StorageError: it cannot
            be read.
    """
    path = os.fspath(folder)
    found = {name: size for name, size in storage.sizes(path).items() if _counts(name, later)}
    if not storage.exists(f"{path}/{FILE}"):
        return False
    table = _table(path)
    for name, (size, _) in table.items():
        if name not in found:
            raise CheckpointError(f"{name} is missing")
        if found[name] != size:
            raise CheckpointError(f"{name} has {found[name]} instead of {size} bytes")
    added = sorted(found.keys() - table.keys())
    if added:
        raise CheckpointError(f"{added[0]} was added to it")
    for name, found_sum in zip(table, _sums(path, table), strict=True):
        if found_sum != table[name][1]:
            raise CheckpointError(f"the content of {name} has changed")
    return True


def _table(path: str) -> dict[str, list[int]]:
    content: Any = json_files.parse(storage.read_bytes(f"{path}/{FILE}"), FILE, CheckpointError)
    try:
        table, own = content["files"], content["sum"]
        if own == _own_sum(table):
            return {str(name): [int(size), int(crc)] for name, (size, crc) in table.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{FILE} is not what was written") from error
    raise CheckpointError(f"the content of {FILE} has changed")


def _own_sum(table: Any) -> int:
    return zlib.crc32(json.dumps(table, sort_keys=True).encode())


def _counts(name: str, later: Collection[str]) -> bool:
    """Whether a file belongs to a folder: not what systems leave there under hidden names."""
    return name != FILE and name not in later and not any(part.startswith(".") for part in name.split("/"))


def _sums(folder: str, names: Iterable[str]) -> list[int]:
    def of(name: str) -> int:
        return _sum(f"{folder}/{name}")

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(of, names))


def _sum(path: str) -> int:
    if not files.is_remote(path):
        files.check_regular(path, StorageError)
    found = 0
    try:
        with storage.opened(path) as file:
            while chunk := file.read(CHUNK):
                found = zlib.crc32(chunk, found)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return found
