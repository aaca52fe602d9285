"""Segments images into named categories.

python -m ifseg_jax.predict --checkpoint=MODEL --images=FILES_OR_DIR --labels="cat,grass,dog" --out=DIR

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (category indices with a palette) and
DIR/predictions.json (settings, sizes, and the share of every category). Images are read one at a time.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import predict

if __name__ == "__main__":
    predict.run(PACKAGE, __doc__)
