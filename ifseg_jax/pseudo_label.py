"""Labels images with a model's own predictions, for self-training or to train another model on them.

python -m ifseg_jax.pseudo_label --checkpoint=MODEL --images=photos/ --out=PSEUDO
python -m ifseg_jax.pseudo_label --checkpoint=MODEL --data=coco_seen:/data/coco --split=train --out=PSEUDO

The first labels every pixel. The second keeps the labels of a data set and labels the other pixels with the categories
that the data set lacks, as when some categories were seen in training and others were not. PSEUDO holds pictures and
labels (`vlseg.data.formats.prepared`) and is taken wherever data is: train IFSeg on it with --config.mode=supervised,
or LSeg.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import pseudo_label

if __name__ == "__main__":
    pseudo_label.run(PACKAGE, __doc__)
