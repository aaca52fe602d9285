"""Labels images with a model's own predictions, for self-training or to train another model on them.

python -m lseg_jax.pseudo_label --checkpoint=MODEL --images=photos/ --labels="cat,grass,other" --out=PSEUDO

PSEUDO holds pictures and labels (`vlseg.data.formats.prepared`) and is taken wherever data is.
"""

from lseg_jax.package import PACKAGE
from vlseg.commands import pseudo_label

if __name__ == "__main__":
    pseudo_label.run(PACKAGE, __doc__)
