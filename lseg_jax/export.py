"""Exports a model: as a directory, as an official Lightning .ckpt, or as one StableHLO file.

python -m lseg_jax.export --checkpoint=MODEL --out=DIR --format=directory
python -m lseg_jax.export --checkpoint=MODEL --out=FILE.ckpt --format=official
python -m lseg_jax.export --checkpoint=MODEL --out=FILE --format=stablehlo --labels="cat,grass,other"

The StableHLO file holds weights and labels. A process that has JAX alone runs it on any of --platforms:

    import jax.export
    import numpy as np

    images = np.zeros((1, 480, 480, 3), np.uint8)  # [B, H, W, 3] RGB, already --height x --width; any B
    result = jax.export.deserialize(bytearray(open("FILE", "rb").read())).call(images)
    result["label_map"], result["probabilities"]  # int32 [B, H, W]; float32 [B, H / 2, W / 2, N]
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from lseg_jax import inference, model_flags, storage
from lseg_jax.lseg import LSegNet
from lseg_jax.model import STRIDE, LSeg
from vlseg import cli, files, stablehlo
from vlseg.data.folder import names_from
from vlseg.errors import ConfigError
from vlseg.nn.resize import resize_bilinear

FORMATS = ("directory", "official", "stablehlo")


def segmenter(model: LSeg) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Segmentation into the model's labels as a pure function with everything but the images baked in.

    Returns:
        images uint8 [B, H, W, 3], sides multiples of 32 -> {"probabilities": float32 [B, H / 2, W / 2, N], "label_map":
        int32 [B, H, W]}.

    Raises:
        VocabularyError: the model has no labels, or no tokenizer.
    """
    labels = model.encode_text()
    variables = without_text(model)
    net: Any = LSegNet(model.config)

    def segment(images: jax.Array) -> dict[str, jax.Array]:
        pixels = net.apply(variables, inference.normalize(model.config, images), method=LSegNet.encode_pixels)
        cells = net.apply(variables, pixels, labels, method=LSegNet.cell_logits)
        logits = resize_bilinear(cells, images.shape[1], images.shape[2], align_corners=True)
        label_map = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return {"probabilities": jax.nn.softmax(cells, axis=-1), "label_map": label_map}

    return segment


def without_text(model: LSeg) -> dict[str, Any]:
    """The model's variables without its text encoder, which has said what it has to say."""
    params = {name: value for name, value in model.variables["params"].items() if name != "text"}
    return {**model.variables, "params": params}


def with_known(model: LSeg, labels: str | None, dtype: str) -> LSeg:
    """The model with the embeddings of some labels, comma-separated or in a file, and its weights in a dtype."""
    known = dict(model.known)
    if labels:
        names = model.names(names_from(labels))
        known |= dict(zip(names, np.asarray(model.encode_text(names)), strict=True))
    variables = jax.tree.map(lambda value: np.asarray(value, dtype), dict(model.variables))
    return dataclasses.replace(model, variables=variables, known=known)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    files.check_absent(options.out)
    model = model_flags.load_model(options)
    if options.labels:
        model = dataclasses.replace(model, labels=model.names(names_from(options.labels)))
    if options.format == "directory":
        with_known(model, options.known_labels, options.weights).save(options.out)
    elif options.format == "official":
        storage.write_official(options.out, model.config, model.converted())
    else:
        height, width = (side or model.inference.crop_size for side in (options.height, options.width))
        if height % STRIDE or width % STRIDE:
            raise ConfigError(f"images of {height} x {width} pixels: both sides must be multiples of {STRIDE}")
        size = sum(value.nbytes for value in jax.tree.leaves(without_text(model)))
        stablehlo.write(options.out, segmenter(model), size, height, width, options.platforms)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    model_flags.define()
    flags.DEFINE_string("out", None, "A new directory, or a file.", required=True)
    flags.DEFINE_enum("format", "directory", FORMATS, "What to write.")
    flags.DEFINE_string("labels", None, "Labels with commas, or a file with one per line; default: the model's own.")
    flags.DEFINE_string("known_labels", None, "directory: labels that shall need no text encoder, given as --labels.")
    flags.DEFINE_enum("weights", "float32", ["float32", "float16"], "directory: data type of the weights in the file.")
    flags.DEFINE_integer("height", None, "stablehlo: rows of the images; default: the window's.", lower_bound=STRIDE)
    flags.DEFINE_integer("width", None, "stablehlo: columns of the images.", lower_bound=STRIDE)
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "stablehlo: where the file shall run.")
    cli.run(main)
