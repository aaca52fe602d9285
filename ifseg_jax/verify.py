"""Checks a model: its file, its values, its tokenizer, some of its layers beside NumPy's, and a photograph.

python -m ifseg_jax.verify --checkpoint=ofa_base [--tokenizer=BPE_DIRECTORY]

Prints a line for each check, yes or no; a dash where there is nothing to compare with. Exit code 0: no check failed,
1: one did, 2: there is nothing to check. --out=FILE.png writes the photograph as it was segmented.
"""

from ifseg_jax.package import PACKAGE
from vlseg.commands import verify

if __name__ == "__main__":
    verify.run(PACKAGE, __doc__)
