"""Converts checkpoints between the official Lightning format and ours; weights bit for bit, without PyTorch.

python -m lseg_jax.convert --checkpoint=demo_e200.ckpt --out=lseg_vitl16     # official .ckpt -> our directory
python -m lseg_jax.convert --checkpoint=lseg_vitl16 --out=again.ckpt         # our directory -> official .ckpt

A .ckpt with a block (bottleneck or depthwise) says which in its hyperparameters; if it does not, give --block,
--block_depth and --activation, the authors' --arch_option, --block_depth and --activation.
"""

from pathlib import Path
from typing import Any

from absl import flags

from lseg_jax import model_flags, storage
from lseg_jax.model import resolve
from vlseg import cli, files
from vlseg.errors import ConfigError

OFFICIAL_SUFFIXES = (".ckpt", ".pt", ".pth")


def convert(source: Path, target: Path, **block: Any) -> None:
    """Converts a checkpoint in either direction; the suffix .ckpt of `target` asks for the official format.

    Data types are those of the source. Settings of inference and labels exist in our format only.

    Args:
        source, target: a directory of ours and an official checkpoint, in either order.
        block: arguments of `storage.read` for an official checkpoint that does not say which block it has.

    Raises:
        CheckpointError: `source` is not an LSeg model.
        StorageError: `target` exists already, or cannot be written.
        ConfigError: both are of the same format, or the official code has no such model.
    """
    files.check_absent(target)
    if source.is_dir() != (target.suffix in OFFICIAL_SUFFIXES):
        kind = "a model directory" if source.is_dir() else "an official checkpoint"
        wanted = "ends in .ckpt" if source.is_dir() else "does not end in .ckpt"
        raise ConfigError(f"{source} is {kind} already; name a target that {wanted}")
    stored = storage.read(source, **block)
    if source.is_dir():
        storage.write_official(target, stored.config, stored.converted)
    else:
        storage.write_directory(target, stored.config, stored.converted, {})


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    block = {name: options[name].value for name in model_flags.BLOCK_FLAGS}
    convert(resolve(options.checkpoint), Path(options.out), **block)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "An official .ckpt or a model directory; gs://... too.", required=True)
    model_flags.define_block()
    flags.DEFINE_string("out", None, "A new directory, or a file that ends in .ckpt.", required=True)
    cli.run(main)
