"""Segments images into labels given as words.

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (label indices with a palette) and
DIR/predictions.json (settings, sizes, and the share of every label). Pixels that are none of the labels, by
--min_similarity or --min_margin, become one more label, "none of these". With --top_k above 1, DIR/top/NAME.npz holds
the best labels of every pixel and their scores. The report says what scores are: "similarities" of pixel and label, or
"probabilities", which they always are after a CRF. Images are read one at a time.
"""

import collections
import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from absl import flags
from tqdm import tqdm

from vlseg import cli, files, visualize
from vlseg.commands import models
from vlseg.data import images as image_files
from vlseg.labels import names_from
from vlseg.packages import Package
from vlseg.segmenter import NONE, Rejection, Segmentation

REPORT = "predictions.json"

_PNG_LABELS = 2**16
"""What a PNG can tell apart."""

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def output_names(paths: list[Path]) -> list[str]:
    """A file name without suffix for each image; equal stems keep their suffix and number apart."""
    count = collections.Counter(path.stem for path in paths)
    names: dict[str, None] = {}
    for path in paths:
        name = path.stem if count[path.stem] == 1 else path.name.replace(".", "_")
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        names[next(free for free in itertools.chain([name], numbered) if free not in names)] = None
    return list(names)


def write(out: Path, name: str, path: Path, segmentation: Segmentation) -> dict[str, object]:
    """Writes overlay and label map of one image, and several labels a pixel; returns its entry in the report."""
    visualize.save_image(out / "overlays" / f"{name}.png", segmentation.overlay())
    if len(segmentation.labels) <= _PNG_LABELS:
        path_of_labels = out / "labels" / f"{name}.png"
        visualize.save_label_png(path_of_labels, segmentation.label_map, len(segmentation.labels))
    else:
        with files.atomic_file(out / "labels" / f"{name}.npy") as file:
            np.save(file, segmentation.label_map)
    if segmentation.top_labels.shape[-1] > 1:
        with files.atomic_file(out / "top" / f"{name}.npz") as file:
            similarities = segmentation.top_similarities.astype(np.float16)
            np.savez_compressed(file, labels=segmentation.top_labels, similarities=similarities)
    pixels = np.bincount(segmentation.label_map.ravel(), minlength=len(segmentation.labels))
    shares = pixels / segmentation.label_map.size
    height, width = segmentation.label_map.shape
    listed = {label: round(float(share), 6) for label, share in zip(segmentation.labels, shares, strict=True) if share}
    return {"image": str(path), "name": name, "height": height, "width": width, "shares": listed}


def main(package: Package, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    paths = image_files.list_checked_images(options.images)
    model = package.flags.applied(models.load(package, options), options)
    labels = model.names(names_from(options.labels) if options.labels else None)
    rejection = Rejection(options.min_similarity, options.min_margin)
    folders = ("overlays", "labels", "top") if options.top_k > 1 else ("overlays", "labels")
    entries = []
    with files.output_directory(options.out, *folders) as out:
        (out / REPORT).unlink(missing_ok=True)  # an earlier run's: a run that fails leaves none
        segmentations = model.segment_each(
            paths,
            labels,
            top_k=options.top_k,
            rejection=rejection,
            batch_size=options.batch_size,
        )
        bar = tqdm(segmentations, total=len(paths), unit="image", disable=not sys.stderr.isatty())
        for name, path, segmentation in zip(output_names(paths), paths, bar, strict=True):
            entries.append(write(out, name, path, segmentation))
            scores = segmentation.scores.kind
        report = {
            "labels": [*labels, NONE] if rejection else list(labels),
            "inference": dataclasses.asdict(model.inference),
            "scores": scores,
            "images": entries,
        }
        files.atomic_write_json(out / REPORT, report)
    print(f"wrote {len(paths)} segmentations to {options.out}")


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "predict")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    flags.DEFINE_string("labels", None, "Labels with commas, or a file with one per line; default: the model's own.")
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    flags.DEFINE_float("min_similarity", None, "Least score of the best label, or the pixel is none of them.")
    flags.DEFINE_float("min_margin", None, "Least lead of the best label over the second.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 1, "Labels to give for every pixel.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Images, or windows of an image, of a forward pass.", lower_bound=1)
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
