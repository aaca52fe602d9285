"""What a command has done so far, in a file beside its results, so that a run that was stopped goes on where it was.

DIR/.journal.jsonl is there only while a run is not finished. Its first line says with which settings; each other line
is one item that is done. A run of other settings starts anew.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vlseg import files, json_files
from vlseg.errors import StorageError

FILE = ".journal.jsonl"


class Journal:
    """The items that a run has done.

    Attributes:
        entries: key of an item -> what was noted of it; JSON.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Reads what a run that was stopped has left, and says so.

        Args:
            folder: of the results; it exists.
            settings: JSON-ready; everything that results depend on.
        """
        self._path = folder / FILE
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._file: BinaryIO | None = None
        self.entries = self._read()

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Notes that an item is done; its results have been written."""
        with files.storage_errors(self._path):
            if self._file is None:
                self._file = self._opened()
            self._file.write(_line([key, entry]))
            self._file.flush()
        self.entries[key] = dict(entry)

    def close(self) -> None:
        """Leaves the journal for another run."""
        if self._file:
            self._file.close()

    def remove(self) -> None:
        """Ends it: the run is finished."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        # What is kept is written anew: the last line may be half a line, or the settings may be others.
        lines = [_line(self._settings), *(_line([key, entry]) for key, entry in self.entries.items())]
        files.atomic_write_bytes(self._path, b"".join(lines))
        return open(self._path, "ab")

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        before, *rest = list(_parsed(files.read_regular(self._path, StorageError))) or [None]
        if before != self._settings:
            earlier = before if isinstance(before, dict) else {}
            changed = [name for name, value in self._settings.items() if earlier.get(name, self) != value]
            print(
                f"{self._path.parent}: an unfinished run there had other settings ({', '.join(changed) or 'more'}); "
                "this one starts anew",
                file=sys.stderr,
            )
            return {}
        found = [line for line in rest if isinstance(line, list) and len(line) == 2]
        return {key: entry for key, entry in found if isinstance(key, str) and isinstance(entry, dict)}


def identity(path: Path) -> str:
    """A short text that changes when a file, or a file in a folder, does: from names, sizes and times of change."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in found if file.is_file()]
    listed = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parsed(content: bytes) -> Iterator[Any]:
    """The lines of a journal up to the first that is damaged: the last may be half a line."""
    with contextlib.suppress(StorageError):
        for line in content.splitlines():
            yield json_files.parse(line, os.fspath(FILE), StorageError)
