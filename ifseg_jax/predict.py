"""Segments images into named categories.

python -m ifseg_jax.predict --checkpoint=MODEL --images=FILES_OR_DIR --labels="cat,grass,dog" --out=DIR

Writes DIR/overlays/NAME.png (image, colours and legend), DIR/labels/NAME.png (category indices with a palette) and
DIR/predictions.json (sizes and the share of every category). Images are read one at a time.
"""

import collections
import sys
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from ifseg_jax.model import Segmentation, load
from vlseg import cli, files, visualize
from vlseg.data import images as image_files
from vlseg.data.folder import names_from
from vlseg.errors import VocabularyError

REPORT = "predictions.json"


def output_names(paths: list[Path]) -> list[str]:
    """A file name without suffix for each image; equal stems keep their suffix and number apart."""
    count = collections.Counter(path.stem for path in paths)
    names: list[str] = []
    for path in paths:
        name = path.stem if count[path.stem] == 1 else path.name.replace(".", "_")
        taken = sum(other == name or other.startswith(f"{name}_") for other in names)
        names.append(f"{name}_{taken}" if name in names else name)
    return names


def write(out: Path, name: str, path: Path, segmentation: Segmentation) -> dict[str, object]:
    """Writes overlay and label map of one image; returns its entry in predictions.json."""
    visualize.save_image(out / "overlays" / f"{name}.png", segmentation.overlay())
    label_path = out / "labels" / f"{name}.png"
    visualize.save_label_png(label_path, segmentation.label_map, len(segmentation.labels))
    pixels = np.bincount(segmentation.label_map.ravel(), minlength=len(segmentation.labels))
    shares = pixels / segmentation.label_map.size
    height, width = segmentation.label_map.shape
    listed = {label: round(float(share), 6) for label, share in zip(segmentation.labels, shares, strict=True) if share}
    return {"image": str(path), "name": name, "height": height, "width": width, "shares": listed}


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    paths = image_files.list_images(options.images)
    for path in paths:
        image_files.check_image(path)
    model = load(options.checkpoint, tokenizer=options.tokenizer)
    labels = names_from(options.labels) if options.labels else model.categories
    if not labels:
        raise VocabularyError('this model was not adapted to categories: name some, e.g. --labels="cat,grass,dog"')
    labels = model.words(labels).names
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
    flags.DEFINE_string("checkpoint", "tiny", "tiny, ofa_base (or another size), a .pt file or a model directory.")
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer; not needed for tiny.")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    flags.DEFINE_string("labels", None, "Categories with commas, or a file with one per line.")
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    flags.DEFINE_bool("knn", True, "Average probabilities over nearest neighbours.")
    flags.DEFINE_integer("batch_size", 1, "Images per forward pass.", lower_bound=1)
    cli.run(main)
