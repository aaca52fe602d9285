"""Checks a model: its file, its values, its tokenizer, some of its layers beside NumPy's, and a photograph.

Prints a line for each check, yes or no; a dash where there is nothing to compare with. Exit code 0: no check failed,
1: one did, 2: there is nothing to check. --out=FILE.png writes the photograph as it was segmented.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from absl import flags

from vlseg import cli, storage, verification, visualize
from vlseg.checkpoints import rules
from vlseg.commands import models
from vlseg.errors import CheckpointError, VocabularyError
from vlseg.packages import Package
from vlseg.segmenter import Segmenter
from vlseg.verification import Check, Verification

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def checks(package: Package, path: Path, options: Any) -> Iterator[Check]:
    """All checks of a checkpoint; they end early where it cannot be read as a model.

    Raises:
        VlsegError: a flag that cannot be used, or a picture that cannot be written.
    """
    own = package.verify()
    yield from verification.of_file(path, None if path.is_dir() else package.weights.get(path.stem))
    try:
        stored = package.read(path, **package.flags.load_options(options))
    except CheckpointError as error:
        yield Check(False, "names and shapes", f"{error}; nothing else can be checked")
        return
    yield verification.of_names(own.describe(stored), stored.weights)
    yield from verification.of_values(stored.weights.variables)
    yield from own.of_stored(path, stored)
    del stored  # so that the model is in memory once
    try:
        model, tokens = _with_tokens(package, path, options, own)
    except CheckpointError as error:
        yield Check(False, "settings", str(error))
        return
    yield tokens
    yield from own.layers(model)
    try:
        subject = own.subject(model)
    except VocabularyError as error:
        yield Check(None, "photograph", f"not segmented: {error}")
        return
    yield from verification.of_photograph(subject, options.out)


def _with_tokens(package: Package, path: Path, options: Any, own: Verification) -> tuple[Segmenter, Check]:
    """The model, and what its tokenizer gives; without a tokenizer if that is of no use. None given is no failure."""
    chosen = package.flags.load_options(options)
    try:
        model = package.load(path, options.tokenizer, **chosen)
        return model, own.tokens(model)
    except VocabularyError as error:
        given = options.tokenizer is not None
        check = Check(False if given else None, "tokens", str(error) if given else f"not compared: {error}")
        return package.load(path, None, **chosen), check


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def main(package: Package, _: list[str]) -> int:
    """The command; returns its exit code."""
    options = flags.FLAGS
    path = models.path(package, options)
    if options.out is not None:  # what cannot be written is known before the work
        storage.check_absent(options.out)
        visualize.save_image(options.out, verification.photograph())
        storage.remove(options.out)
    found = []
    # Values that are not finite have a line of their own, and so has what a package warns of when it reads a file.
    with np.errstate(all="ignore"), _without_warnings(package.name), rules.as_they_are():
        for check in checks(package, path, options):
            found.append(check)
            print(check.line(), flush=True)
    failed = [check.what for check in found if check.passed is False]
    passed = sum(check.passed is True for check in found)
    print(f"{passed} of {passed + len(failed)} checks passed" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "verify")
    flags.DEFINE_string("out", None, "A new picture, FILE.png: the photograph under its labels.")
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
