"""Going through pictures one by one: what predict and embed have in common.

A run that was stopped goes on where it was, see `vlseg.commands.journal`. With --skip_damaged a picture that cannot be
read is passed over and listed at the end, and the command exits with `SKIPPED`.
"""

import collections
import contextlib
import itertools
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from numpy.typing import NDArray

from vlseg import files
from vlseg.commands.journal import Journal, identity
from vlseg.data import images as image_files
from vlseg.data.arrays import Pixels
from vlseg.data.listing import define_strict
from vlseg.errors import ImageError
from vlseg.progress import Progress

SKIPPED = 3
"""Exit code of a command that has passed over something damaged."""

MAX_NAME = 200
"""Bytes of the name of a result without its suffix; file systems take 255 in all."""

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


def define() -> None:
    """Defines --images, --strict, --out and --skip_damaged."""
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    define_strict()
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    define_skip("picture")


def define_skip(what: str) -> None:
    """Defines --skip_damaged."""
    text = f"Pass over a {what} that cannot be read; list those at the end, and exit with code {SKIPPED}."
    flags.DEFINE_bool("skip_damaged", False, text)


class Picture(NamedTuple):
    """A picture, and the name of its results without suffix."""

    path: Path
    name: str


class Pictures:
    """The pictures of a run, of which some may be done already.

        with pictures.start(out, "report.json", settings):
            for result in model(pictures.pixels()):
                picture = pictures.take()
                pictures.add(picture, write(picture, result))
            pictures.finish(rest_of_report)

    Attributes:
        damaged: what is wrong with each picture that was passed over, by its path.
    """

    def __init__(self, paths: Sequence[Path], skip_damaged: bool) -> None:
        """Looks at the headers of all pictures, so that what cannot be read is known before work on others begins.

        Raises:
            ImageError: a picture cannot be read, and is not to be passed over.
        """
        self._skip = skip_damaged
        self.damaged: dict[Path, str] = {}
        self._all = [Picture(path, name) for path, name in zip(paths, output_names(paths), strict=True)]
        self._read: collections.deque[Picture] = collections.deque()
        for path, found in zip(paths, image_files.check_images(paths), strict=True):
            if isinstance(found, ImageError):
                self._pass_over(path, found)

    @contextlib.contextmanager
    def start(self, out: Path, report: str, settings: Mapping[str, Any]) -> Iterator[None]:
        """While the block runs, results go to the folder `out`, and at its end to the JSON file `report` in it.

        Args:
            out: exists. report: its name. settings: JSON-ready; what results depend on, see `Journal`.
        """
        self._report = out / report
        self._report.unlink(missing_ok=True)  # an earlier run's: a run that fails leaves none
        self._journal = Journal(out, settings)
        stamps = {picture.path: identity(picture.path) for picture in self._all if picture.path not in self.damaged}
        self._keys = {path: f"{files.stored_path(path)} {stamp}" for path, stamp in stamps.items()}
        with Progress(len(self._all), "done", "picture", initial=self._count()) as self._progress:
            if self._count():
                print(f"going on: {self._count()} of {len(self._all)} were done", file=sys.stderr)
            try:
                yield
            finally:
                self._journal.close()

    def _count(self) -> int:
        return sum(key in self._journal.entries for key in self._keys.values())

    def pixels(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures that are not done yet, uint8 [H, W, 3], each read when it is asked for."""
        for picture in self._all:
            if picture.path in self.damaged or self._keys[picture.path] in self._journal.entries:
                continue
            try:
                pixels = image_files.read_image(picture.path)
            except ImageError as error:
                self._pass_over(picture.path, error)
                continue
            self._read.append(picture)
            yield pixels.view(Pixels)

    def take(self) -> Picture:
        """The first picture of `pixels` that has not been taken."""
        return self._read.popleft()

    def add(self, picture: Picture, entry: Mapping[str, Any]) -> None:
        """Notes that the results of a picture are written; `entry` is what the report says of it."""
        described = {"image": files.stored_path(picture.path), "name": files.stored_path(picture.name)}
        self._journal.add(self._keys[picture.path], {**described, **entry})
        self._progress.update()

    def entries(self) -> list[dict[str, Any]]:
        """What the report says of the pictures that are done, in their order."""
        return [self._journal.entries[key] for key in self._keys.values() if key in self._journal.entries]

    def finish(self, report: Mapping[str, Any]) -> int:
        """Writes the report, to which damaged pictures are added, and lists these; the exit code of the command."""
        damaged = [{"image": files.stored_path(path), "error": error} for path, error in self.damaged.items()]
        files.atomic_write_json(self._report, {**report, **({"damaged": damaged} if damaged else {})})
        self._journal.remove()
        return exit_code(list(self.damaged.values()))

    def _pass_over(self, path: Path, error: ImageError) -> None:
        if not self._skip:
            raise error
        self.damaged[path] = str(error)


def exit_code(damaged: Sequence[str]) -> int:
    """Lists what was passed over, a line each, on standard error; the exit code of the command."""
    for error in damaged:
        print(f"skipped: {error}", file=sys.stderr)
    return SKIPPED if damaged else 0


def output_names(paths: Sequence[Path]) -> list[str]:
    """A file name without suffix for each picture, by which no file system takes one for another.

    Equal stems keep their suffix and number apart. Names are equal that differ in case or in Unicode's forms only, as
    they are on some file systems.
    """
    count = collections.Counter(_folded(path.stem) for path in paths)
    names: dict[str, str] = {}
    for path in paths:
        name = path.stem if count[_folded(path.stem)] == 1 else path.name.replace(".", "_")
        name = os.fsdecode(os.fsencode(name)[:MAX_NAME]) if len(os.fsencode(name)) > MAX_NAME else name
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        free = next(free for free in itertools.chain([name], numbered) if _folded(free) not in names)
        names[_folded(free)] = free
    return list(names.values())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
