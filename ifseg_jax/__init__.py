"""IFSeg: image-free semantic segmentation with a vision-language encoder-decoder.

import ifseg_jax
model = ifseg_jax.load("tiny").adapt(["grass", "water", "house"])
model.segment("photo.jpg").overlay().show()
"""

import vlseg  # noqa: F401 - first, as it watches over the other imports
from ifseg_jax.model import IFSeg, load
from ifseg_jax.package import PACKAGE
from ifseg_jax.postprocess import knn_average
from ifseg_jax.settings import Inference
from vlseg.evaluation.crf import CRF
from vlseg.segmentation import Rejection, Segmentation

__all__ = ["CRF", "PACKAGE", "IFSeg", "Inference", "Rejection", "Segmentation", "knn_average", "load"]
