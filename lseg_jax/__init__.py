"""LSeg: language-driven semantic segmentation. Pixels and labels in one embedding space; any labels at test time.

import lseg_jax
model = lseg_jax.load("demo_e200.ckpt")
model.segment("photo.jpg", ["cat", "grass", "other"]).overlay().show()
"""

from lseg_jax.model import LSeg, Rejection, Segmentation, load
from vlseg.evaluation.sliding_window import Scheme

__all__ = ["LSeg", "Rejection", "Scheme", "Segmentation", "load"]
