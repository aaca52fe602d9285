"""The flags by which commands take a model."""

import re
import sys
from pathlib import Path
from typing import Any

from absl import flags

from vlseg import cli, packages
from vlseg.checkpoints import directory, runs
from vlseg.errors import CheckpointError, VlsegError
from vlseg.packages import Package
from vlseg.segmenter import Segmenter

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


def define(package: Package | None, command: str) -> Package:
    """Defines --checkpoint, --step, --tokenizer, and the flags that only this package has.

    Args:
        package: None for the one whose model --checkpoint is.

    Returns:
        The package. The process ends with one line if it cannot be told from --checkpoint.
    """
    if package is None:
        try:
            package = _of_checkpoint()
        except VlsegError as error:
            cli.fail(str(error))
    # Nobody wants a bundled model converted unasked.
    bundled = None if command == "convert" else next(iter(package.bundled), None)
    suffixes = [f"a {suffix}" for suffix in package.official.suffixes] if package.official else []
    names = ", ".join([*package.bundled, *package.weights, *suffixes[:1]])
    flags.DEFINE_string(
        "checkpoint",
        bundled,
        f"{names or 'A file'}, a model directory or the folder of a training run; gs://... too.",
        required=bundled is None,
    )
    help_string = "Of a training run: a step that it has kept; default: the model that it ended with."
    flags.DEFINE_integer("step", None, help_string, lower_bound=1)
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer, for models that come without one.")
    package.flags.define("load")
    package.flags.define(command)
    return package


def _of_checkpoint() -> Package:
    found = re.findall(r"\0--?checkpoint[=\0]([^\0]+)", "\0".join(sys.argv))
    if not found:
        raise CheckpointError("--checkpoint=DIR is required: a model directory, which tells the package it belongs to")
    source = f"{found[-1]}/{runs.FROZEN}" if runs.is_run(found[-1]) else found[-1]
    return packages.of_format(directory.read_settings(directory.resolve(source, {}, {}))["format"])


def path(package: Package, options: Any) -> Path:
    """The local path of the checkpoint that the flags name."""
    return directory.resolve(options.checkpoint, package.bundled, package.weights, options.step)


def load(package: Package, options: Any, source: Path | None = None) -> Segmenter:
    """The model that the flags ask for; `source` is its `path`, where that is known already."""
    source = source or path(package, options)
    return package.load(source, options.tokenizer, **package.flags.load_options(options))
