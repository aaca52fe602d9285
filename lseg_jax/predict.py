"""Segments images into any labels.

python -m lseg_jax.predict --checkpoint=MODEL --images=FILES_OR_DIR --labels="cat,grass,other" --out=DIR

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (label indices with a palette) and
DIR/predictions.json (settings, sizes, and the share of every label). Pixels that are none of the labels, by
--min_similarity or --min_margin, become one more label, "none of these". With --top_k above 1, DIR/top/NAME.npz holds
the best labels of every pixel and their similarities, or after --crf their probabilities; the two flags refer to the
same. Images are read one at a time.
"""

from lseg_jax.package import PACKAGE
from vlseg.commands import predict

if __name__ == "__main__":
    predict.run(PACKAGE, __doc__)
