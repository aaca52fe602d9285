"""The flags of commands that read a labelled data set."""

from typing import Any

from absl import flags

from vlseg.data.sources import Dataset, open_dataset

READING = ("ignore_label", "label_offset", "ignore_zero", "names", "image_feature", "label_feature")
"""Flags that say how the labels of a folder, or of a data set of TFDS, are read."""

# They belong to the command that calls `define`, so its --help shows them.
flags.disclaim_key_flags()


def define(required: bool = True) -> None:
    """Defines --data, which may be left out if it is not `required`, and what `define_reading` does."""
    flags.DEFINE_string(
        "data",
        None,
        "A folder with images/, labels/ and names.txt; NAME:ROOT of the catalog (python -m vlseg.data.list); "
        "tfds:NAME:DATA_DIR; what vlseg.data.prepare wrote, also to gs://; or tiny_world.",
        required=required,
    )
    flags.DEFINE_string(
        "split", None, "Of the catalog, TFDS or the tiny world; default: the one that scores are published of."
    )
    define_reading()


def define_reading() -> None:
    """Defines the flags that say how the labels of a folder, or of a data set of TFDS, are read."""
    flags.DEFINE_integer("ignore_label", 255, "Value of pixels that do not count.")
    flags.DEFINE_integer("label_offset", 0, "Id of the first category, if the files do not count from 0.")
    flags.DEFINE_bool("ignore_zero", False, "0 is ignored and categories count from 1, as in ADE20K's files.")
    flags.DEFINE_string(
        "names",
        None,
        "A folder's file of category names (default: names.txt); those of tfds: with commas or as a file.",
    )
    flags.DEFINE_string("image_feature", None, "Of tfds: the feature with the picture, where there are several.")
    flags.DEFINE_string("label_feature", None, "Of tfds: the feature with the labels, where there are several.")


def given(options: Any, *names: str) -> dict[str, Any]:
    """Those of some flags that the command line has."""
    return {name: options[name].value for name in names if options[name].present}


def open_data(options: Any, split: str = "") -> Dataset:
    """The data set that the flags name, or another `split` of it.

    Raises:
        ConfigError: a flag that this kind of data set does not have.
        DatasetError: the folder is not a data set, or not all of it.
    """
    chosen = {"split": split} if split else given(options, "split")
    return open_dataset(options.data, **chosen, **given(options, *READING))
