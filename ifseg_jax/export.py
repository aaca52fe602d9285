"""Exports a model: as a directory, as an official .pt, or as one StableHLO file that needs nothing but JAX.

python -m ifseg_jax.export --checkpoint=MODEL --out=DIR --format=directory
python -m ifseg_jax.export --checkpoint=MODEL --out=FILE.pt --format=official --labels="cat,grass,dog"
python -m ifseg_jax.export --checkpoint=MODEL --out=FILE --format=stablehlo --labels="cat,grass,dog"

The official file is what the authors' code loads; their settings need --num-seg-tokens to be the number of labels.
The StableHLO file holds weights and labels; `vlseg/commands/export.py` shows how a process that has JAX alone runs it.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import export

if __name__ == "__main__":
    export.run(PACKAGE, __doc__)
