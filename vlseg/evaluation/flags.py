"""The flags that say what a model is scored on: labelled pictures, or a configuration of them and the words."""

from typing import Any

from absl import flags
from ml_collections import config_flags

from vlseg.data import flags as data_flags
from vlseg.data.sources import Dataset, open_dataset
from vlseg.errors import ConfigError
from vlseg.evaluation.open_vocabulary import Vocabulary

REPLACED = ("data", "split", *data_flags.READING)
"""Flags in whose place a configuration speaks."""

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


def define() -> None:
    """Defines --config and --root, and in their place --data and its like."""
    config_flags.DEFINE_config_file(
        "config", None, "A file such as configs/open_vocabulary.py:voc21, which names data set and words."
    )
    flags.DEFINE_string("root", None, "The folder that the data set of --config was unpacked into.")
    data_flags.define(required=False)


def open_data(options: Any, *others: str) -> tuple[Dataset, Vocabulary | None]:
    """The data set that the flags name, and the words of --config if that is given.

    Args:
        options: the parsed flags.
        others: flags of the command itself that --config makes useless.

    Raises:
        ConfigError: flags or settings that do not go together, or words that do not fit the data set.
        DatasetError: the folder is not the data set, or not all of it.
    """
    if options.config is None:
        if options.root is not None:
            raise ConfigError("--root goes with --config; without that, give --data=NAME:ROOT")
        if options.data is None:
            raise ConfigError("--data is required (--help lists the flags)")
        return data_flags.open_data(options), None
    useless = data_flags.given(options, *REPLACED, *others)
    if useless:
        raise ConfigError(f"--config names data set and words: leave --{', --'.join(useless)} out")
    if options.root is None:
        raise ConfigError("--config needs --root, the folder that its data set was unpacked into")
    vocabulary = Vocabulary.from_config(options.config)
    missing = [name for name in ("data", "split") if name not in options.config]
    if missing:
        raise ConfigError(f"--config lacks {', '.join(missing)}: give a file such as configs/open_vocabulary.py")
    dataset = open_dataset(f"{options.config.data}:{options.root}", split=options.config.split)
    vocabulary.check(dataset.names)
    return dataset, vocabulary
