"""Segments images into any labels.

python -m lseg_jax.predict --checkpoint=MODEL --images=FILES_OR_DIR --labels="cat,grass,other" --out=DIR

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (label indices with a palette) and
DIR/predictions.json (sizes and the share of every label). Pixels that are none of the labels, by --min_similarity or
--min_margin, become one more label, "none of these". With --top_k above 1, DIR/top/NAME.npz holds the best labels of
every pixel and their similarities. Images are read one at a time.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from lseg_jax import model_flags
from lseg_jax.model import NONE, Rejection, Segmentation
from vlseg import cli, files
from vlseg.data import images as image_files
from vlseg.data.folder import names_from
from vlseg.predictions import REPORT, output_names, write


def write_top(path: Path, segmentation: Segmentation) -> None:
    """Writes labels int32 [H, W, k] and similarities float16 [H, W, k]."""
    with files.atomic_file(path) as file:
        similarities = segmentation.top_similarities.astype(np.float16)
        np.savez_compressed(file, labels=segmentation.top_labels, similarities=similarities)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    paths = image_files.list_checked_images(options.images)
    model = model_flags.load_model(options)
    labels = model.names(names_from(options.labels) if options.labels else None)
    rejection = Rejection(options.min_similarity, options.min_margin)
    settings = {"top_k": options.top_k, "rejection": rejection, "batch_size": options.batch_size}
    names = output_names(paths)
    folders = ("overlays", "labels", "top") if options.top_k > 1 else ("overlays", "labels")
    entries = []
    with files.output_directory(options.out, *folders) as out:
        (out / REPORT).unlink(missing_ok=True)  # an earlier run's: a run that fails leaves none
        results = model.segment_each(paths, labels, **settings)
        bar = tqdm(results, total=len(paths), unit="image", disable=not sys.stderr.isatty())
        for name, path, segmentation in zip(names, paths, bar, strict=True):
            entries.append(write(out, name, path, segmentation))
            if options.top_k > 1:
                write_top(out / "top" / f"{name}.npz", segmentation)
        known = [*labels, NONE] if rejection else list(labels)
        files.atomic_write_json(out / REPORT, {"labels": known, "images": entries})
    print(f"wrote {len(paths)} segmentations to {options.out}")


if __name__ == "__main__":
    model_flags.define()
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    flags.DEFINE_string("labels", None, "Labels with commas, or a file with one per line; default: the model's own.")
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    flags.DEFINE_float("min_similarity", None, "Least similarity of the best label, or the pixel is none of them.")
    flags.DEFINE_float("min_margin", None, "Least lead of the best label over the second.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 1, "Labels to give for every pixel.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Windows in a forward pass.", lower_bound=1)
    cli.run(main)
