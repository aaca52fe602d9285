"""Segments images into named categories.

python -m ifseg_jax.predict --checkpoint=MODEL --images=FILES_OR_DIR --labels="cat,grass,dog" --out=DIR

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (category indices with a palette) and
DIR/predictions.json (sizes and the share of every category). Images are read one at a time.
"""

import sys

from absl import flags
from tqdm import tqdm

from ifseg_jax.model import load
from vlseg import cli, files
from vlseg.data import images as image_files
from vlseg.predictions import REPORT, output_names, write


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    paths = image_files.list_checked_images(options.images)
    model = load(options.checkpoint, tokenizer=options.tokenizer)
    labels = model.named(options.labels)
    names = output_names(paths)
    entries: dict[int, dict[str, object]] = {}
    with files.output_directory(options.out, "overlays", "labels") as out:
        (out / REPORT).unlink(missing_ok=True)  # an earlier run's: a run that fails leaves none
        results = model.segment_each(paths, labels, knn=options.knn, batch_size=options.batch_size)
        for index, segmentation in tqdm(results, total=len(paths), unit="image", disable=not sys.stderr.isatty()):
            entries[index] = write(out, names[index], paths[index], segmentation)
        report = {"labels": list(labels), "images": [entries[index] for index in range(len(paths))]}
        files.atomic_write_json(out / REPORT, report)
    print(f"wrote {len(paths)} segmentations to {options.out}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", "tiny", "tiny, ofa_base (or another size), a .pt or a model directory; gs://... too."
    )
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer; not needed for tiny.")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    flags.DEFINE_string("labels", None, "Categories with commas, or a file with one per line.")
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    flags.DEFINE_bool("knn", True, "Average probabilities over nearest neighbours.")
    flags.DEFINE_integer("batch_size", 1, "Images per forward pass.", lower_bound=1)
    cli.run(main)
