"""Scores a model on labelled images, with and without kNN averaging.

python -m ifseg_jax.evaluate --checkpoint=MODEL --data=FOLDER --out=DIR
python -m ifseg_jax.evaluate --checkpoint=MODEL --data=coco_unseen:ROOT --labels=coco_stuff_171    # 15 among 171
python -m ifseg_jax.evaluate --checkpoint=MODEL --config=configs/open_vocabulary.py:voc21 --root=ROOT

FOLDER holds images/, labels/ (PNG) and names.txt. --data=ade20k:/data/ade20k reads a data set of the catalog in its
official layout (`python -m vlseg.data.list`), --data=tiny_world held-out scenes of the tiny world.
Every image is scored at its original size. Prints mIoU, mAcc, aAcc and IoU per class; writes metrics.json and, by
class, plain.csv and knn.csv. --labels are the words that the model is asked for: the names of the classes and others,
which count as wrong answers, or as many other words for the classes, in their order. --score_labels names the classes
that are scored; pixels of the others do not count. --config names a data set with its words and what counts as its
background.
--report also writes OUT/report: a confusion matrix, the scores of every picture, and the ten worst ones drawn.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import evaluate

if __name__ == "__main__":
    evaluate.run(PACKAGE, __doc__)
