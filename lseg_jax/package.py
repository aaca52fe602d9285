"""What LSeg tells shared code about itself."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from lseg_jax import checkpoint, model, official
from lseg_jax.config import ACTIVATIONS, LSegConfig
from lseg_jax.encoders import KINDS
from lseg_jax.settings import SQUARED, Settings
from vlseg import overrides
from vlseg.evaluation.sliding_window import OFFICIAL_SCALES, Scheme
from vlseg.labels import names_from
from vlseg.packages import Flags, Official, Package, Shortcut, register

BLOCK_FLAGS = ("block", "block_depth", "activation")

# They belong to the command that is run, so its --help shows them.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class LSegFlags(Flags):
    """Besides, what an official checkpoint may not say itself; --known_labels of export."""

    def define(self, command: str) -> None:
        super().define(command)
        if command == "load":
            kinds = ["bottleneck", "depthwise"]
            flags.DEFINE_enum("block", None, kinds, "Block of an official .ckpt that does not say which.")
            flags.DEFINE_integer("block_depth", None, "How often the block is applied.", lower_bound=1)
            flags.DEFINE_enum("activation", None, list(ACTIVATIONS), "The block's activation.")
        elif command == "fewshot":
            overrides.define(Scheme, SQUARED)
        elif command == "export":
            help_string = "directory: labels that shall need no text encoder, given as --labels."
            flags.DEFINE_string("known_labels", None, help_string)

    def load_options(self, options: Any) -> dict[str, Any]:
        return {name: options[name].value for name in BLOCK_FLAGS}

    def for_directory(self, segmenter: Any, options: Any) -> Any:
        if not options.known_labels:
            return segmenter
        names = segmenter.names(names_from(options.known_labels))
        known = dict(zip(names, np.asarray(segmenter.encode_text(names)), strict=True))
        return dataclasses.replace(segmenter, known={**segmenter.known, **known})


def _settings(config: ml_collections.ConfigDict) -> Settings:
    """The official settings for ADE20K, with encoders of the kinds that the file names."""
    parts = config.get("model", {})
    kinds = {part: {"kind": parts[part].kind} for part in KINDS if "kind" in parts.get(part, {})}
    return Settings(model=LSegConfig.from_dict(kinds).to_dict())


PACKAGE = register(
    Package(
        name=checkpoint.FORMAT,
        settings=_settings,
        axes=official.AXES,
        load=model.load,
        read=checkpoint.read,
        training="lseg_jax.training",
        verification="lseg_jax.verification",
        bundled=checkpoint.BUNDLED_MODELS,
        official=Official((".ckpt", ".pt", ".pth"), checkpoint.write_official),
        flags=LSegFlags(
            seen=Scheme,
            shortcuts={
                "multi_scale": Shortcut(
                    "Six scales and mirrored windows, as in the paper; default: as the model does.",
                    on={"scales": OFFICIAL_SCALES, "flip": True},
                    off={"scales": (1.0,), "flip": False},
                )
            },
        ),
        movable=("pretrained.text", "pretrained.image"),
        free=("benchmark.root", "root", "roots"),
        filled=("model", "inference", "training.steps"),
    )
)
