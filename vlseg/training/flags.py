"""The flags of commands that train."""

from absl import flags
from ml_collections import config_flags

from vlseg import distributed

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


def define(example: str) -> None:
    """Defines --config, of which `example` is a file, --workdir, and how several processes find each other."""
    config_flags.DEFINE_config_file("config", help_string=f"A file such as {example}.")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "workdir",
        None,
        "Where everything of this run goes: a folder that every process sees, or gs://BUCKET/FOLDER.",
        required=True,
    )
    distributed.define_flags()
