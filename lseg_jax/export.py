"""Exports a model: as a directory, as an official Lightning .ckpt, or as one StableHLO file.

python -m lseg_jax.export --checkpoint=MODEL --out=DIR --format=directory
python -m lseg_jax.export --checkpoint=MODEL --out=FILE.ckpt --format=official
python -m lseg_jax.export --checkpoint=MODEL --out=FILE --format=stablehlo --labels="cat,grass,other"

The StableHLO file holds weights and labels; `vlseg/commands/export.py` shows how a process that has JAX alone runs it.
"""

from lseg_jax.package import PACKAGE
from vlseg.commands import export

if __name__ == "__main__":
    export.run(PACKAGE, __doc__)
