"""Converts checkpoints between the official Lightning format and ours; weights bit for bit, without PyTorch.

python -m lseg_jax.convert --checkpoint=demo_e200.ckpt --out=lseg_vitl16     # official .ckpt -> our directory
python -m lseg_jax.convert --checkpoint=lseg_vitl16 --out=again.ckpt         # our directory -> official .ckpt

A .ckpt with a block (bottleneck or depthwise) says which in its hyperparameters; if it does not, give --block,
--block_depth and --activation, the authors' --arch_option, --block_depth and --activation.
"""

from lseg_jax.package import PACKAGE
from vlseg.commands import convert

if __name__ == "__main__":
    convert.run(PACKAGE, __doc__)
