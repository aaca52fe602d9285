"""Checks a model: its file, its values, its tokenizer, some of its layers beside NumPy's, and a photograph.

Prints a line for each check, yes or no; a dash where there is nothing to compare with. Exit code 0: no check failed,
1: one did, 2: there is nothing to check. --out=FILE.png writes the photograph as it was segmented.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from absl import flags

from vlseg import cli, verification, visualize
from vlseg.commands import models
from vlseg.errors import CheckpointError, VocabularyError
from vlseg.packages import Package
from vlseg.verification import Check

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def checks(package: Package, path: Path, options: Any) -> Iterator[Check]:
    """All checks of a checkpoint; they end early where it cannot be read as a model.

    Raises:
        VlsegError: a flag that cannot be used, or a picture that cannot be written.
    """
    own = package.verify()
    yield from verification.of_file(path, package.weights.get(Path(options.checkpoint).stem))
    try:
        stored = package.read(path, **package.flags.load_options(options))
    except CheckpointError as error:
        yield Check(False, "names and shapes", str(error))
        return
    yield verification.of_names(own.describe(stored), stored.weights)
    yield from verification.of_values(stored.weights.variables)
    yield from own.of_stored(path, stored)
    del stored  # so that the model is in memory once
    try:
        model = models.load(package, options)
        yield own.tokens(model)
    except VocabularyError as error:
        yield Check(False, "tokens", str(error))
        model = package.load(path, None, **package.flags.load_options(options))
    yield from own.layers(model)
    yield from verification.of_photograph(own.subject(model), options.out)


def main(package: Package, _: list[str]) -> int:
    """The command; returns its exit code."""
    options = flags.FLAGS
    path = models.path(package, options)
    if options.out is not None:  # what cannot be written is known before the work
        visualize.save_image(options.out, verification.photograph())
        Path(options.out).unlink()
    found = []
    with np.errstate(all="ignore"):  # values that are not finite have a line of their own
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
