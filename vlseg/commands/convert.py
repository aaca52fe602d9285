"""Converts checkpoints between the official format and ours; weights bit for bit, without PyTorch."""

import functools
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from vlseg import cli, files
from vlseg.checkpoints import directory
from vlseg.commands import models
from vlseg.errors import ConfigError
from vlseg.packages import Package

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def convert(package: Package, source: Path, target: Path, **options: Any) -> None:
    """Converts a checkpoint in either direction; an official suffix of `target` asks for the official format.

    Data types are those of the source. Settings of inference, and labels that no weights are for, exist in our format
    only.

    Args:
        package: whose model it is.
        source, target: a directory of ours and an official checkpoint, in either order.
        options: of `Package.read`.

    Raises:
        CheckpointError: `source` is not a model of the package.
        StorageError: `target` exists already, or cannot be written.
        ConfigError: both are of the same format, there is no other, or the official code has no such model.
    """
    files.check_absent(target)
    if package.official is None:
        raise ConfigError(f"{package.name} has no official format to convert to or from")
    suffixes = package.official.suffixes
    if source.is_dir() != (target.suffix in suffixes):
        kind = "a model directory" if source.is_dir() else "an official checkpoint"
        wanted = f"ends in {suffixes[0]}" if source.is_dir() else f"does not end in {suffixes[0]}"
        raise ConfigError(f"{source} is {kind} already; name a target that {wanted}")
    stored = package.read(source, **options)
    if source.is_dir():
        package.official.write(target, stored)
    else:
        directory.write(target, package.name, stored)


def main(package: Package, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    convert(package, models.path(package, options), Path(options.out), **package.flags.load_options(options))
    print(f"wrote {options.out}")


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "convert")
    suffix = package.official.suffixes[0] if package.official else "..."
    flags.DEFINE_string("out", None, f"A new directory, or a file that ends in {suffix}.", required=True)
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
