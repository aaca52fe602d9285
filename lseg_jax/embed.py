"""Writes the embedding of every pixel of images, to be compared with any text later.

python -m lseg_jax.embed --checkpoint=MODEL --images=FILES_OR_DIR --out=DIR

Writes DIR/NAME.npz with `embeddings` (float16 [h, w, C], l2-normalised) and DIR/embeddings.json with the size of every
image; cell (i, j) is at the pixel (i * (H - 1) / (h - 1), j * (W - 1) / (w - 1)). An image is seen whole, at
--long_side pixels (default: the model's), its sides rounded to multiples of 32. A run that was
stopped goes on where it was.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from numpy.typing import NDArray

from lseg_jax.model import LSeg
from lseg_jax.package import PACKAGE
from vlseg import cli, files, storage
from vlseg.commands import models
from vlseg.commands.journal import identity
from vlseg.commands.pictures import Pictures
from vlseg.commands.pictures import define as define_pictures
from vlseg.data.listing import announced_images
from vlseg.errors import ConfigError

REPORT = "embeddings.json"


def write(out: Path, name: str, image: NDArray[np.uint8], model: LSeg, long_side: int | None) -> dict[str, object]:
    """Writes the embeddings of one image; returns what the report says of it."""
    embeddings = np.asarray(model.encode_pixels(model.preprocess(image, long_side))[0], np.float16)
    with files.atomic_file(out / f"{name}.npz") as file:
        np.savez(file, embeddings=embeddings)
    height, width = image.shape[:2]
    return {"height": height, "width": width, "shape": list(embeddings.shape)}


def main(_: list[str]) -> int:
    """The command; its exit code."""
    options = flags.FLAGS
    if options.tokenizer:
        raise ConfigError("--tokenizer has no effect: pixels are embedded without any word; leave it out")
    storage.check_folder(options.out)
    pictures = Pictures(announced_images(options.images, options.strict), options.skip_damaged)
    source = models.path(PACKAGE, options)
    model: Any = models.load(PACKAGE, options, source)
    settings = {"checkpoint": identity(source), "long_side": options.long_side}
    with files.output_directory(options.out) as out, pictures.start(out, REPORT, settings):
        for image in pictures.pixels():
            picture = pictures.take()
            pictures.add(picture, write(out, picture.name, image, model, options.long_side))
        entries = pictures.entries()
        code = pictures.finish({"images": entries})
    print(f"wrote the embeddings of {len(entries)} images to {options.out}")
    return code


if __name__ == "__main__":
    models.define(PACKAGE, "embed")
    define_pictures()
    flags.DEFINE_integer("long_side", None, "Pixels of the long side, as the model sees it.", lower_bound=32)
    cli.run(main)
