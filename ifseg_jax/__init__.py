"""IFSeg: image-free semantic segmentation with a vision-language encoder-decoder.

import ifseg_jax
model = ifseg_jax.load("tiny").adapt(["grass", "water", "house"])
model.segment("photo.jpg").overlay().show()
"""

from ifseg_jax.knn import knn_average
from ifseg_jax.model import IFSeg, Inference, Segmentation, load

__all__ = ["IFSeg", "Inference", "Segmentation", "knn_average", "load"]
