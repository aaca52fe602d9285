"""Converts checkpoints between the official format and ours; weights bit for bit, without PyTorch."""

import functools
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from vlseg import cli, storage
from vlseg.checkpoints import directory
from vlseg.commands import models
from vlseg.errors import ConfigError
from vlseg.packages import Package

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def convert(package: Package, source: Path, target: Path, tokenizer: str | None = None, **options: Any) -> str:
    """Converts a checkpoint in either direction; an official suffix of `target` asks for the official format.

    Data types are those of the source. Settings of inference, and labels that no weights are for, exist in our format
    only.

    Args:
        package: whose model it is.
        source, target: a directory of ours and an official checkpoint, in either order.
        tokenizer: of a directory whose labels the official format keeps embeddings of, where it has none of its own.
        options: of `Package.read`.

    Returns:
        A line that names what could not be written, "" for nothing.

    Raises:
        CheckpointError: `source` is not a model of the package.
        StorageError: `target` exists already, or cannot be written.
        ConfigError: both are of the same format, there is no other, or the official code has no such model.
    """
    storage.check_new(target)
    if package.official is None:
        raise ConfigError(f"{package.name} has no official format to convert to or from")
    suffixes = package.official.suffixes
    if source.is_dir() != (target.suffix in suffixes):
        kind = "a model directory" if source.is_dir() else "an official checkpoint"
        wanted = f"ends in {suffixes[0]}" if source.is_dir() else f"does not end in {suffixes[0]}"
        raise ConfigError(f"{source} is {kind} already; name a target that {wanted}")
    complete = package.official.complete if source.is_dir() else None
    if tokenizer and not complete:
        raise ConfigError(f"--tokenizer has no effect: {source} is converted without any word: leave it out")
    stored, lacks = package.read(source, **options), ""
    if complete:
        stored, lacks = complete(stored, tokenizer)
    if source.is_dir():
        package.official.write(target, stored)
    else:
        directory.write(target, package.name, stored)
    return lacks


def main(package: Package, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    storage.check_local(options.out)
    source, chosen = models.path(package, options), package.flags.load_options(options)
    lacks = convert(package, source, Path(options.out), options.tokenizer, **chosen)
    print(*filter(None, [lacks, f"wrote {options.out}"]), sep="\n")


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "convert")
    suffix = package.official.suffixes[0] if package.official else "..."
    flags.DEFINE_string("out", None, f"A new directory, or a file that ends in {suffix}.", required=True)
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
