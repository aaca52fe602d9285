"""How many training images a second are read, augmented and put into batches: `python -m benchmarks.input_speed`.

Pictures of 640 x 480 pixels as JPEG with labels as PNG, made for the purpose, as small files and prepared
(`vlseg.data.prepare`); views of LSeg (480 x 480, bicubic) and of IFSeg (512 x 512, with colours distorted).

What it is to be held against: a training step of LSeg with ViT-L/16 takes three times 808 GFLOP an image, so a chip of
197 TFLOP/s (TPU v5e, bfloat16, published) at half of its peak asks for 41 images a second.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from ifseg_jax.config import SIZES
from ifseg_jax.objective import Supervised
from ifseg_jax.settings import Adaptation
from ifseg_jax.training import supervised_batches
from lseg_jax.batches import named_batches
from lseg_jax.settings import Training
from vlseg import cli
from vlseg.data.formats import prepared
from vlseg.data.sources import open_dataset
from vlseg.data.stream import prefetched

SIZE = (480, 640)
CLASSES = 150
BATCH = 16
MODELS = ("LSeg", "IFSeg")


def write_folder(root: Path, count: int) -> None:
    """A folder of pictures that compress like photographs, and of blocks of labels."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{number:03d}.jpg", quality=90)
        labels = Image.fromarray(rng.integers(0, CLASSES, (6, 8), dtype=np.uint8))
        labels.resize(SIZE[::-1], Image.Resampling.NEAREST).save(root / "labels" / f"{number:03d}.png")
    (root / "names.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)))


def images_per_second(source: str, model: str, threads: int, workers: int, batches: int) -> float:
    """The rate over some batches, after as many as may have been made ahead."""
    dataset = open_dataset(source)
    make: Callable[[int], Any]
    if model == "LSeg":
        make = named_batches([dataset], Training(batch_size=BATCH))
    else:
        make = supervised_batches(dataset, Supervised(SIZES["ofa_base"], Adaptation(batch_size=BATCH), CLASSES, 0))
    values = prefetched(make, threads, workers)
    ahead = 1 + threads + 3 * workers
    for number in range(ahead):
        values(number)
    started = time.perf_counter()
    for number in range(ahead, ahead + batches):
        values(number)
    return batches * BATCH / (time.perf_counter() - started)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write_folder(small, options.images)
        prepared.write(open_dataset(str(small)), large)
        print("| views | files | threads | processes | images/s |\n|---|---|---|---|---|")
        for model in MODELS:
            for title, source in (("small", small), ("prepared", large)):
                for threads, workers in ((0, 0), (options.threads, 0), (1, options.workers)):
                    rate = images_per_second(str(source), model, threads, workers, options.batches)
                    print(f"| {model} | {title} | {threads} | {workers} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("images", 100, "Pictures in the data set.", lower_bound=1)
    flags.DEFINE_integer("batches", 20, "Batches of 16 that are timed.", lower_bound=1)
    flags.DEFINE_integer("threads", 4, "Threads of the second row.", lower_bound=1)
    flags.DEFINE_integer("workers", 2, "Processes of the third row.", lower_bound=1)
    cli.run(main)
