"""Writes the embedding of every pixel of images, to be compared with any text later.

python -m lseg_jax.embed --checkpoint=MODEL --images=FILES_OR_DIR --out=DIR

Writes DIR/NAME.npz with `embeddings` (float16 [h, w, C], l2-normalised) and DIR/embeddings.json with the size of every
image; cell (i, j) is at the pixel (i * (H - 1) / (h - 1), j * (W - 1) / (w - 1)). An image is seen whole, at
--long_side pixels (default: the model's), its sides rounded to multiples of 32.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from lseg_jax.model import LSeg
from lseg_jax.package import PACKAGE
from vlseg import cli, files
from vlseg.commands import models
from vlseg.commands.predict import output_names
from vlseg.data import images as image_files

REPORT = "embeddings.json"


def write(out: Path, name: str, path: Path, model: LSeg, long_side: int | None) -> dict[str, object]:
    """Writes the embeddings of one image; returns its entry in the report."""
    image = image_files.read_image(path)
    embeddings = np.asarray(model.encode_pixels(model.preprocess(image, long_side))[0], np.float16)
    with files.atomic_file(out / f"{name}.npz") as file:
        np.savez(file, embeddings=embeddings)
    height, width = image.shape[:2]
    return {"image": str(path), "name": name, "height": height, "width": width, "shape": list(embeddings.shape)}


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    paths = image_files.list_checked_images(options.images)
    model: Any = models.load(PACKAGE, options)
    names = output_names(paths)
    with files.output_directory(options.out) as out:
        (out / REPORT).unlink(missing_ok=True)  # an earlier run's: a run that fails leaves none
        bar = tqdm(zip(names, paths, strict=True), total=len(paths), unit="image", disable=not sys.stderr.isatty())
        entries = [write(out, name, path, model, options.long_side) for name, path in bar]
        files.atomic_write_json(out / REPORT, {"images": entries})
    print(f"wrote the embeddings of {len(paths)} images to {options.out}")


if __name__ == "__main__":
    models.define(PACKAGE, "embed")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.", required=True)
    flags.DEFINE_string("out", None, "Where the results go.", required=True)
    flags.DEFINE_integer("long_side", None, "Pixels of the long side, as the model sees it.", lower_bound=32)
    cli.run(main)
