"""Converts checkpoints between the official format and ours; weights bit for bit, without PyTorch.

python -m ifseg_jax.convert --checkpoint=ofa_base.pt --out=ofa_base      # official .pt -> our directory
python -m ifseg_jax.convert --checkpoint=ofa_base --out=again.pt         # our directory -> official .pt
"""

from pathlib import Path

from absl import flags

from ifseg_jax import storage
from ifseg_jax.model import resolve
from vlseg import cli, files
from vlseg.errors import ConfigError

OFFICIAL_SUFFIX = ".pt"


def convert(source: Path, target: Path) -> None:
    """Converts a checkpoint in either direction; the suffix .pt of `target` asks for the official format.

    Data types are those of the source. Settings of inference and adaptation and a word list exist in our format only.

    Raises:
        CheckpointError: `source` is not an OFA or IFSeg model.
        StorageError: `target` exists already, or cannot be written.
        ConfigError: both are of the same format.
    """
    files.check_absent(target)
    if source.is_dir() != (target.suffix == OFFICIAL_SUFFIX):
        kind = "a model directory" if source.is_dir() else "an official checkpoint"
        wanted = f"ends in {OFFICIAL_SUFFIX}" if source.is_dir() else f"does not end in {OFFICIAL_SUFFIX}"
        raise ConfigError(f"{source} is {kind} already; name a target that {wanted}")
    stored = storage.read(source)
    if source.is_dir():
        storage.write_official(target, stored.config, stored.converted)
    else:
        storage.write_directory(target, stored.config, stored.converted, {})


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    convert(resolve(options.checkpoint), Path(options.out))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", None, "An official .pt (or its name, e.g. ofa_base) or a directory.", required=True
    )
    flags.DEFINE_string("out", None, "A new directory, or a file that ends in .pt.", required=True)
    cli.run(main)
