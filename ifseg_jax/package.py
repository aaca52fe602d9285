"""What IFSeg tells shared code about itself."""

from typing import Any

import numpy as np

from ifseg_jax import checkpoint, model
from ifseg_jax.settings import Inference, Settings
from ifseg_jax.tokenizer import own_tokenizer
from ifseg_jax.weights import WEIGHTS
from vlseg.checkpoints import rules
from vlseg.checkpoints.directory import Stored
from vlseg.errors import ConfigError
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


def _complete(stored: Stored, tokenizer: str | None) -> tuple[Stored, str]:
    """The same of a model directory, as far as there is a tokenizer."""
    categories = tuple(stored.settings.get("categories", ()))
    if not categories:
        if tokenizer:
            raise ConfigError("--tokenizer has no effect: the model was not adapted to categories; leave it out")
        return stored, ""
    if stored.config.category_rows:
        table = rules.flatten(stored.weights.variables)[checkpoint.CATEGORY_TABLE]
        return checkpoint.with_category_tables(stored, np.asarray(table)), ""
    found = own_tokenizer(stored, tokenizer)
    if found is None:
        return stored, (
            f"without the tables of its {len(categories)} categories, which need a tokenizer (--tokenizer=DIRECTORY)"
        )
    whole = model.IFSeg(stored.config, stored.weights.variables, found, categories=categories)
    return checkpoint.with_category_tables(stored, np.asarray(whole.embed().projected)), ""


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
        official=Official((".pt",), checkpoint.write_official, _with_category_tables, labels=True, complete=_complete),
        flags=FLAGS,
        filled=("model", "inference", "adaptation.image_size"),
    )
)
