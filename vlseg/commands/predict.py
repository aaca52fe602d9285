"""Segments images into labels given as words.

Writes DIR/overlays/NAME.png (image, colours and legend; small images enlarged), DIR/labels/NAME.png (label indices with
a palette) and DIR/predictions.json (settings, sizes, and the share of every label). Pixels that are none of the labels,
by --min_similarity or --min_margin, become one more label, "none of these", in grey. With --top_k above 1,
DIR/top/NAME.npz holds the best labels of every pixel and their scores. The report says what scores are: "similarities"
of pixel and label, or "probabilities", which they always are after a CRF. Images are read one at a time. A run that was
stopped goes on where it was.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NoReturn

import numpy as np
from absl import flags

from vlseg import cli, files, storage, visualize
from vlseg.commands import models
from vlseg.commands.journal import identity
from vlseg.commands.pictures import Pictures
from vlseg.commands.pictures import define as define_pictures
from vlseg.data.listing import announced_images
from vlseg.errors import ConfigError
from vlseg.labels import NONE, names_from
from vlseg.packages import Package
from vlseg.segmentation import Rejection, Segmentation

REPORT = "predictions.json"
SCORES = "scores"

_PNG_LABELS = 2**16
"""What a PNG can tell apart."""


# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def write(out: Path, name: str, segmentation: Segmentation) -> dict[str, object]:
    """Writes overlay and label map of one image, and several labels a pixel; returns what the report says of it."""
    visualize.save_image(out / "overlays" / f"{name}.png", segmentation.overlay())
    if len(segmentation.labels) <= _PNG_LABELS:
        path_of_labels = out / "labels" / f"{name}.png"
        visualize.save_label_png(path_of_labels, segmentation.label_map, segmentation.labels)
    else:
        with files.atomic_file(out / "labels" / f"{name}.npy") as file:
            np.save(file, segmentation.label_map)
    if segmentation.top_labels.shape[-1] > 1:
        with files.atomic_file(out / "top" / f"{name}.npz") as file:
            similarities = segmentation.top_similarities.astype(np.float16)
            np.savez_compressed(file, labels=segmentation.top_labels, similarities=similarities)
    height, width = segmentation.label_map.shape
    listed = {label: round(share, 6) for label, share in segmentation.shares().items() if share}
    return {"height": height, "width": width, "shares": listed}


def main(package: Package, _: list[str]) -> int:
    """The command; its exit code."""
    options = flags.FLAGS
    storage.check_folder(options.out)
    pictures = Pictures(announced_images(options.images, options.strict), options.skip_damaged)
    source = models.path(package, options)
    model = package.flags.applied(models.load(package, options, source), options)
    labels = model.names(names_from(options.labels) if options.labels else None)
    if options.min_margin is not None and len(labels) == 1:
        raise ConfigError("--min_margin has no effect with one label, which has no second: leave it out")
    rejection = Rejection(options.min_similarity, options.min_margin)
    inference = dataclasses.asdict(model.inference)
    settings = {
        "checkpoint": identity(source),
        "labels": labels,
        "inference": inference,
        **{name: options[name].value for name in ("min_similarity", "min_margin", "top_k", "batch_size")},
    }
    folders = ("overlays", "labels", "top") if options.top_k > 1 else ("overlays", "labels")
    with files.output_directory(options.out, *folders) as out, pictures.start(out, REPORT, settings):
        segmentations = model.segment_each(
            pictures.pixels(),
            labels,
            top_k=options.top_k,
            rejection=rejection,
            batch_size=options.batch_size,
        )
        for segmentation in segmentations:
            picture = pictures.take()
            entry = write(out, picture.name, segmentation)
            pictures.add(picture, {**entry, SCORES: segmentation.scores.kind})
        entries = pictures.entries()
        report = {
            "labels": [*labels, NONE] if rejection else list(labels),
            "inference": inference,
            **({SCORES: entries[0][SCORES]} if entries else {}),
            "images": [{name: value for name, value in entry.items() if name != SCORES} for entry in entries],
        }
        code = pictures.finish(report)
    print(f"wrote {len(entries)} segmentations to {options.out}")
    return code


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "predict")
    flags.DEFINE_string("labels", None, "Labels with commas, or a file with one per line; default: the model's own.")
    define_pictures()
    flags.DEFINE_float("min_similarity", None, "Least score of the best label, or the pixel is none of them.")
    flags.DEFINE_float("min_margin", None, "Least lead of the best label over the second.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 1, "Labels to give for every pixel.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Images, or windows of an image, of a forward pass.", lower_bound=1)
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
