"""The process that reads broken inputs, one after another, and says what came of each.

    python -m tests.fuzz.worker FOLDER

It takes lines "READER SEED" and answers each with a line of JSON: null, or what is wrong in words. An empty seed only
makes the files of a reader. Whoever starts it watches its time and its death.
"""

import json
import os
import random
import resource
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz import mutations
from tests.fuzz.readers import READERS, Reader
from vlseg.errors import LONGEST, VlsegError

MOST_MEMORY = 2**30
"""Bytes above the start."""

ROOM = 2**32
"""Bytes of addresses above the start, more than which nothing gets."""

EXECUTING = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect")


class Executed(BaseException):
    """Something ran that no file may make run."""


class Worker:
    """Keeps the files of each reader and what they are read as."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, tuple[Reader, Path, dict[Path, bytes], Any]] = {}
        self._watching = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: Any) -> None:
        if self._watching and event in EXECUTING:
            raise Executed(event)

    def prepare(self, name: str) -> None:
        """Makes the files of a reader and reads them."""
        if name in self._whole:
            return
        reader, folder = READERS[name], self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = reader.make(folder)
        content = {folder / name: (folder / name).read_bytes() for name in names}
        self._whole[name] = reader, folder, content, reader.read(folder)

    def read(self, name: str, seed: int) -> str | None:
        """What is wrong with how a broken input is read."""
        reader, folder, whole, found = self._whole[name]
        chance = random.Random(f"{name}:{seed}")
        path = chance.choice(list(whole))
        how = mutations.Broken(b"", sealed=True)
        try:
            if chance.random() < 0.04:
                mutations.replaced(path, chance)
            else:
                how = mutations.broken(whole[path], chance)
                path.write_bytes(how.content)
            return self._outcome(reader, folder, None if how.sealed or not reader.checked else found)
        finally:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(whole[path])

    def _outcome(self, reader: Reader, folder: Path, expected: Any) -> str | None:
        Path("/proc/self/clear_refs").write_text("5")
        before, problem = _peak(), None
        self._watching = True
        try:
            read = reader.read(folder)
            if expected is not None and read != expected:
                problem = "was read as something else, though its format has checksums"
        except VlsegError as error:
            text = str(error)
            if len(text) > LONGEST or not text.isprintable() or not text:
                problem = f"its message is no line of {LONGEST} characters: {text[:200]!r}"
        except BaseException as error:  # what ends a process, panics of Rust among them
            problem = f"{type(error).__name__}: {str(error)[:200]}\n{''.join(traceback.format_exc()[-2500:])}"
        finally:
            self._watching = False
        if (grown := _peak() - before) > MOST_MEMORY:
            problem = f"took {grown / 2**20:.0f} MB; {problem or ''}"
        return problem


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        name, _, seed = line.rstrip("\n").rpartition(" ")
        try:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            worker.prepare(name)
            resource.setrlimit(resource.RLIMIT_AS, (_addresses() + ROOM, resource.RLIM_INFINITY))
            problem = worker.read(name, int(seed)) if seed else None
        except BaseException:
            problem = f"the test itself: {traceback.format_exc()}"
        answers.write(json.dumps(problem) + "\n")


if __name__ == "__main__":
    main()
