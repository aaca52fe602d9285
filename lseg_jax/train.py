"""Trains LSeg on labelled images: data sets of the catalog or folders, each with labels of its own.

python -m lseg_jax.train --config=configs/lseg_folder.py --config.data.source=FOLDER --workdir=runs/mine

A folder holds images/, labels/ (PNG) and names.txt; instead of it NAME:ROOT is a data set of the catalog in its
official layout (`python -m vlseg.data.list`), such as ade20k:/data/ade20k. Several are given with commas. WORKDIR
receives config.json, checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which
`lseg_jax.load`, evaluate, predict and export read; it may be gs://BUCKET/FOLDER. The same command continues a run that
was stopped.
"""

from lseg_jax.package import PACKAGE
from vlseg.commands import train

if __name__ == "__main__":
    train.run(PACKAGE, __doc__)
