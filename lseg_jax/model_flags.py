"""The flags by which the commands take a model."""

from typing import Any

from absl import flags

from lseg_jax.config import ACTIVATIONS
from lseg_jax.model import LSeg, load

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()

BLOCK_FLAGS = ("block", "block_depth", "activation")


def define() -> None:
    """Defines --checkpoint, --tokenizer and the flags of `define_block`."""
    flags.DEFINE_string("checkpoint", "tiny", "tiny, an official .ckpt or a model directory; gs://... too.")
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of CLIP's tokenizer; default: the installed one.")
    define_block()


def define_block() -> None:
    """Defines what an official checkpoint may not say itself."""
    flags.DEFINE_enum("block", None, ["bottleneck", "depthwise"], "Block of an official .ckpt that does not say which.")
    flags.DEFINE_integer("block_depth", None, "How often the block is applied.", lower_bound=1)
    flags.DEFINE_enum("activation", None, list(ACTIVATIONS), "The block's activation.")


def load_model(options: Any) -> LSeg:
    """The model that the flags ask for."""
    block = {name: options[name].value for name in BLOCK_FLAGS}
    return load(options.checkpoint, tokenizer=options.tokenizer, **block)
