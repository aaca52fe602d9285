"""Adapts OFA to categories, image-free or supervised.

python -m ifseg_jax.train --config=configs/coco.py --config.tokenizer=BPE_DIRECTORY --workdir=runs/coco

WORKDIR receives config.json, checkpoints, metrics.jsonl, TensorBoard events, and at the end WORKDIR/model, which
`ifseg_jax.load`, evaluate, predict and export read. It may be gs://BUCKET/FOLDER. The same command continues a run that
was stopped.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import train

if __name__ == "__main__":
    train.run(PACKAGE, __doc__)
