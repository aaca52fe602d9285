"""Scores a model on labelled images, with and without kNN averaging.

python -m ifseg_jax.evaluate --checkpoint=MODEL --data=FOLDER --out=DIR
python -m ifseg_jax.evaluate --checkpoint=MODEL --config=configs/open_vocabulary.py:voc21 --root=ROOT

FOLDER holds images/, labels/ (PNG) and names.txt. --data=ade20k:/data/ade20k reads a data set of the catalog in its
official layout (`python -m vlseg.data.list`), --data=tiny_world held-out scenes of the tiny world.
Every image is scored at its original size. Prints mIoU, mAcc, aAcc and IoU per class; writes metrics.json and, by
class, plain.csv and knn.csv. --config names a data set with the words for its classes and what counts as background.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import evaluate

if __name__ == "__main__":
    evaluate.run(PACKAGE, __doc__)
