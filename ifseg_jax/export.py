"""Exports a model: as a directory, as an official .pt, or as one StableHLO file that needs nothing but JAX.

python -m ifseg_jax.export --checkpoint=MODEL --out=DIR --format=directory
python -m ifseg_jax.export --checkpoint=MODEL --out=FILE.pt --format=official --labels="cat,grass,dog"
python -m ifseg_jax.export --checkpoint=MODEL --out=FILE --format=stablehlo --labels="cat,grass,dog"

The official file is what the authors' code loads; their settings need --num-seg-tokens to be the number of labels.
The StableHLO file holds weights and labels. A process that has JAX alone runs it on any of --platforms:

    import jax.export
    import numpy as np

    images = np.zeros((1, 512, 512, 3), np.uint8)  # [B, H, W, 3] RGB, already --height x --width; any B
    result = jax.export.deserialize(bytearray(open("FILE", "rb").read())).call(images)
    result["label_map"], result["probabilities"]  # int32 [B, H, W]; float32 [B, h, w, M] on the token grid
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ifseg_jax import inference, storage
from ifseg_jax.knn import knn_average
from ifseg_jax.model import IFSeg, load
from vlseg import cli, files, stablehlo, state_dicts
from vlseg.errors import ConfigError
from vlseg.state_dicts import ArrayTensor

FORMATS = ("directory", "official", "stablehlo")
CATEGORY_TABLES = (
    "encoder.seg_embed_tokens.weight",
    "decoder.seg_embed_tokens.weight",
    "decoder.seg_projection.weight",
)
"""Official names of the category embeddings, which the official code keeps as parameters."""

_DECODER_WORDS = "decoder.embed_tokens.weight"


def write_official(path: str | Path, model: IFSeg) -> None:
    """Writes a PyTorch archive that the official IFSeg code loads (alinlab/ifseg).

    It holds the mean sub-word embedding of every one of the model's categories, if it has any. The decoder's copy of
    the word embedding is written because the official code lengthens both copies together; the copy that it averages
    category names from (`embed_tokens_bag`) only if the model came with it, because it is not lengthened. Segmentation
    positions are always in it. The authors' notebook, which builds a model from the file alone, also wants the
    arguments of their training run, which it does not hold.

    Raises:
        VocabularyError: the model has categories but no tokenizer.
        StorageError: it cannot be written.
    """
    converted = model.converted()
    carried = dict(converted.carried)
    if model.categories:
        table = ArrayTensor(np.asarray(model.word_embeddings().categories))
        carried |= dict.fromkeys(CATEGORY_TABLES, table)
    tied = tuple(dict.fromkeys((*converted.tied, _DECODER_WORDS)))
    storage.write_official(path, model.config, converted._replace(carried=carried, tied=tied, fresh=()))


def segmenter(model: IFSeg, knn: bool = True) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Segmentation into the model's categories as a pure function with everything but the images baked in.

    Returns:
        images uint8 [B, H, W, 3] -> {"probabilities": float32 [B, h, w, M], kNN averaged if `knn`;
        "label_map": int32 [B, H, W]}.

    Raises:
        VocabularyError: the model has no categories, or no tokenizer.
    """
    words = model.word_embeddings()
    settings = model.inference
    # The words are looked up already, and their table would be a third of the file.
    flat = state_dicts.flatten(model.variables)
    variables = state_dicts.unflatten({name: value for name, value in flat.items() if "/word_embedding/" not in name})

    def segment(images: jax.Array) -> dict[str, jax.Array]:
        batch, height, width, _ = images.shape
        prediction = inference.predict(model.config, variables, words, images)
        probabilities = jax.nn.softmax(prediction.logits, axis=-1)
        if knn and settings.knn_iterations:
            _, rows, columns, categories = probabilities.shape
            features = prediction.features.reshape(batch, rows * columns, -1)
            flat = probabilities.reshape(batch, rows * columns, categories)
            averaged = knn_average(flat, features, settings.knn_k, settings.knn_iterations)
            probabilities = averaged.reshape(probabilities.shape)
        sizes = jnp.broadcast_to(jnp.asarray([height, width], jnp.int32), (batch, 2))
        label_map = inference.label_maps(probabilities, None, sizes, height, width)
        return {"probabilities": probabilities, "label_map": label_map}

    return segment


def write_stablehlo(
    path: str | Path, model: IFSeg, height: int, width: int, platforms: Sequence[str], knn: bool = True
) -> None:
    """Writes `segmenter(model, knn)` for images of one size and any batch size; see the module's docstring.

    Args:
        path: a file.
        model: with categories.
        height, width: of the images, in pixels.
        platforms: of `vlseg.stablehlo.PLATFORMS`, whatever this machine has.

    Raises:
        VocabularyError: the model has no categories, or no tokenizer.
        ConfigError: an unknown platform, or a model too large for one file.
        StorageError: the file cannot be written.
    """
    size = sum(value.nbytes for value in jax.tree.leaves(model.variables))
    stablehlo.write(path, segmenter(model, knn), size, height, width, platforms)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    files.check_absent(options.out)
    if options.format == "directory" and options.out.endswith(".pt"):
        raise ConfigError(f"{options.out} would be a directory; for a file of the official code give --format=official")
    model = load(options.checkpoint, tokenizer=options.tokenizer)
    if options.labels:
        model = dataclasses.replace(model, categories=model.named(options.labels))
    if options.format == "directory":
        model.save(options.out)
    elif options.format == "official":
        write_official(options.out, model)
    else:
        model.named()
        side = model.config.image_grid * model.config.stride
        write_stablehlo(
            options.out, model, options.height or side, options.width or side, options.platforms, options.knn
        )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", "tiny", "tiny, ofa_base (or another size), a .pt or a model directory; gs://... too."
    )
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer; not needed for tiny.")
    flags.DEFINE_string("out", None, "A new directory, or a file.", required=True)
    flags.DEFINE_enum("format", "directory", FORMATS, "What to write.")
    flags.DEFINE_string(
        "labels", None, "Categories with commas, or a file with one per line; default: the model's own."
    )
    flags.DEFINE_integer(
        "height", None, "stablehlo: rows of the images; default: what it was trained at.", lower_bound=8
    )
    flags.DEFINE_integer("width", None, "stablehlo: columns of the images.", lower_bound=8)
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "stablehlo: where the file shall run.")
    flags.DEFINE_bool("knn", True, "stablehlo: average probabilities over nearest neighbours.")
    cli.run(main)
