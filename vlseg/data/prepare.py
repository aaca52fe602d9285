"""Writes a data set into few large files, for disks and networks on which many small ones are slow.

python -m vlseg.data.prepare --data=ade20k:/data/ade20k --split=train --out=/fast/ade20k_train

OUT is taken wherever a folder of data is: --config.data.source=/fast/ade20k_train.
"""

from absl import flags

from vlseg import cli, files
from vlseg.data import flags as data_flags
from vlseg.data import prepared


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    files.check_absent(options.out)
    dataset = data_flags.open_data(options)
    count = prepared.write(dataset, options.out, options.examples_per_file)
    print(f"wrote {count:,} examples to {options.out}")


if __name__ == "__main__":
    data_flags.define()
    flags.DEFINE_string("out", None, "A new folder.", required=True)
    flags.DEFINE_integer("examples_per_file", 1000, "The last file may hold fewer.", lower_bound=1)
    cli.run(main)
