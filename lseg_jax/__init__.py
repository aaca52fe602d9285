"""LSeg: language-driven semantic segmentation. Pixels and labels in one embedding space; any labels at test time.

import lseg_jax
model = lseg_jax.load("demo_e200.ckpt")
model.segment("photo.jpg", ["cat", "grass", "other"]).overlay().show()
"""

import vlseg  # noqa: F401 - first, as it watches over the other imports
from lseg_jax.model import LSeg, load
from lseg_jax.package import PACKAGE
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.sliding_window import Scheme
from vlseg.segmentation import Rejection, Segmentation

__all__ = ["CRF", "PACKAGE", "LSeg", "Rejection", "Scheme", "Segmentation", "load"]
