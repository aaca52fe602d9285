"""What IFSeg tells shared code about itself."""

from typing import Any

import numpy as np

from ifseg_jax import checkpoint, model
from ifseg_jax.settings import Inference, Settings
from ifseg_jax.weights import WEIGHTS
from vlseg.checkpoints.directory import Stored
from vlseg.packages import Flags, Official, Package, Shortcut, register

FLAGS = Flags(
    seen=Inference,
    shortcuts={
        "knn": Shortcut(
            "Average probabilities over nearest neighbours; default: as the model does.",
            on={},
            off={"knn_iterations": 0},
        )
    },
    compiled=("knn_k", "knn_iterations"),
)


def _with_category_tables(segmenter: Any) -> Stored:
    """A model as the official IFSeg code wants it."""
    tables = np.asarray(segmenter.embed().projected) if segmenter.categories else None
    return checkpoint.with_category_tables(segmenter.stored(), tables)


PACKAGE = register(
    Package(
        name=checkpoint.FORMAT,
        settings=lambda config: Settings(),
        axes=checkpoint.AXES,
        load=model.load,
        read=checkpoint.read,
        training="ifseg_jax.training",
        verification="ifseg_jax.verification",
        bundled=checkpoint.BUNDLED_MODELS,
        weights=WEIGHTS,
        official=Official((".pt",), checkpoint.write_official, _with_category_tables),
        flags=FLAGS,
        filled=("model", "inference", "adaptation.image_size"),
    )
)
