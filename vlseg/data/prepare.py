"""Writes a data set into few large files, for disks and networks on which many small ones are slow.

python -m vlseg.data.prepare --data=ade20k:/data/ade20k --split=train --out=/fast/ade20k_train
python -m vlseg.data.prepare --data=ade20k:/data/ade20k --split=train --out=gs://bucket/ade20k_train
python -m vlseg.data.prepare --data=ade20k:/data/ade20k --split=train,val --format=tfds --out=/data/tfds

OUT is taken wherever a folder of data is: --config.data.source=/fast/ade20k_train. With --format=tfds it is a folder of
data sets for TensorFlow Datasets, read there by tfds.data_source("ade20k", data_dir="/data/tfds") and here as
tfds:ade20k:/data/tfds:train.
"""

import re
from pathlib import Path
from typing import Any

from absl import flags

from vlseg import cli, files, storage
from vlseg.data import catalog
from vlseg.data.catalog.entry import EVALUATION
from vlseg.data.evidence import doubts
from vlseg.data.formats import prepared, tfds_builder
from vlseg.data.sources import Dataset, define_flags, kind, open_given
from vlseg.errors import ConfigError

ARRAY_RECORD, TFDS = "array_record", "tfds"
UNSPLIT = "examples"
"""The split of TFDS for data that has none, or that is all of it."""


def write_array_record(options: Any) -> int:
    """Writes our own format; the number of examples."""
    if options.tfds_name:
        raise ConfigError("--tfds_name is for --format=tfds")
    prepared.check_absent(options.out)
    storage.check_creatable(options.out)
    dataset = open_given(options)
    count = prepared.write(dataset, options.out, options.examples_per_file)
    say_doubts(dataset)
    return count


def write_tfds(options: Any) -> int:
    """Writes for TFDS; the number of examples."""
    if options["examples_per_file"].present:
        raise ConfigError("--examples_per_file is not for --format=tfds: TFDS chooses the size of its files")
    if files.is_remote(options.out):
        raise ConfigError(f"{options.out} is no local folder: write to a local disk, and copy the result")
    name = options.tfds_name or default_name(options.data)
    storage.check_folder(options.out)
    files.check_absent(Path(options.out) / name)
    splits = {
        UNSPLIT if split in ("", tfds_builder.RESERVED) else split: open_given(options, split)
        for split in split_names(options)
    }
    count = tfds_builder.write(splits, options.out, name)
    for dataset in splits.values():
        say_doubts(dataset)
    return count


def say_doubts(dataset: Dataset) -> None:
    """Prints what is doubtful of a data set that was read: what is written no longer tells."""
    for doubt in doubts(dataset):
        print(f"note: {doubt}")


def default_name(source: str) -> str:
    """A name for TFDS: that of the catalog, or of the folder."""
    name = source.partition(":")[0] if kind(source) == "catalog" else Path(source).name
    return re.sub(r"\W+", "_", name.lower())


def split_names(options: Any) -> list[str]:
    """The splits that the flags name, "" for data that has none; ConfigError if --data and --split both name one."""
    name, _, root = options.data.partition(":")
    entry = catalog.ENTRIES.get(name)
    given = [split.strip() for split in options.split.split(",")] if options.split else []
    if entry is None:
        return given or [""]
    last = root.rpartition(":")[2]
    if last in entry.splits and given:
        raise ConfigError(f"--data={options.data} names the split {last}, and --split={options.split} another")
    wanted = [last] if last in entry.splits else given or [EVALUATION]
    return [entry.evaluation if split == EVALUATION else split for split in wanted]


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    count = {ARRAY_RECORD: write_array_record, TFDS: write_tfds}[options.format](options)
    print(f"wrote {count:,} examples to {options.out}")


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_string(
        "out", None, "A new folder, also gs://BUCKET/FOLDER; of --format=tfds one for data sets.", required=True
    )
    flags.DEFINE_enum(
        "format", ARRAY_RECORD, [ARRAY_RECORD, TFDS], "tfds is for TensorFlow Datasets; --split may then be TRAIN,VAL."
    )
    flags.DEFINE_string("tfds_name", None, "With --format=tfds, the name of the data set; default: that of the data.")
    flags.DEFINE_integer("examples_per_file", 1000, "The last file may hold fewer.", lower_bound=1)
    cli.run(main)
