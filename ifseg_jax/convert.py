"""Converts checkpoints between the official format and ours; weights bit for bit, without PyTorch.

python -m ifseg_jax.convert --checkpoint=ofa_base.pt --out=ofa_base      # official .pt -> our directory
python -m ifseg_jax.convert --checkpoint=ofa_base --out=again.pt         # our directory -> official .pt
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import convert

if __name__ == "__main__":
    convert.run(PACKAGE, __doc__)
