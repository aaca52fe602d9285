"""What IFSeg tells shared code about itself."""

import dataclasses
from typing import Any

import numpy as np
from absl import flags

from ifseg_jax import checkpoint, model
from ifseg_jax.settings import Inference, Settings
from ifseg_jax.weights import WEIGHTS
from vlseg.checkpoints.directory import Stored
from vlseg.packages import Flags, Official, Package, register

# They belong to the command that is run, so its --help shows them.
flags.disclaim_key_flags()


class IFSegFlags(Flags):
    """--knn, of commands that segment with one setting."""

    def define(self, command: str) -> None:
        if command in ("predict", "export"):
            flags.DEFINE_bool("knn", True, "Average probabilities over nearest neighbours.")

    def inference(self, segmenter: Any, options: Any) -> Inference:
        settings: Inference = segmenter.inference
        averages = "knn" not in options or options.knn
        return settings if averages else dataclasses.replace(settings, knn_iterations=0)


def _with_category_tables(segmenter: Any) -> Stored:
    """A model as the official IFSeg code wants it."""
    tables = np.asarray(segmenter.embed().categories) if segmenter.categories else None
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
        flags=IFSegFlags(),
    )
)
