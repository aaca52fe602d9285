"""Our dense CRF beside recorded outputs of pydensecrf2, its time and its memory.

python tests/vlseg/evaluation/golden/record_crf.py DIR --whole     # in an environment of its own, see there
python -m benchmarks.crf --recorded=DIR                            # three photographs; 12 labels at 512 x 683

"Changed" are the pixels to which pydensecrf2 gives another label than they had. Time and memory are of one photograph
resized, with probabilities drawn on a 32 x 43 grid; memory is the peak of the process above what it was before.
"""

import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from benchmarks import timing
from vlseg import cli
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF, refine
from vlseg.nn.resize import resize_bilinear

HEIGHT, WIDTH, LABELS = 512, 683, 12
SETTINGS = CRF(iterations=10)


def upsample(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Probabilities float32 [height, width, M] of those of a grid [h, w, M]."""
    return np.asarray(resize_bilinear(jnp.asarray(grid)[None], height, width)[0])


def agreement(path: Path) -> tuple[float, float, float, float]:
    """Shares of pixels of a recorded photograph: changed, equal in ours, equal among the changed; and seconds."""
    with np.load(path) as recorded:
        given, labels = upsample(recorded["grid"], *recorded["label_map"].shape), recorded["label_map"]
        started = time.perf_counter()
        ours = refine(given, recorded["image"], SETTINGS).argmax(-1)
        seconds = time.perf_counter() - started
    changed = given.argmax(-1) != labels
    equal = ours == labels
    return changed.mean(), equal.mean(), equal[changed].mean(), seconds


def cost(image: np.ndarray) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and GB of memory for one photograph at full size."""
    grid = np.random.default_rng(0).dirichlet(np.full(LABELS, 0.3), (32, 43)).astype(np.float32)
    given = upsample(grid, HEIGHT, WIDTH)
    large = np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    before = timing.peak_memory()
    started, worked = time.perf_counter(), time.process_time()
    refine(given, large, SETTINGS)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    return seconds, work, (timing.peak_memory() - before) / 1e9


def main(_: list[str]) -> None:
    """The command."""
    paths = sorted(Path(flags.FLAGS.recorded).glob("crf_*.npz"))
    if not paths:
        raise ConfigError(f"--recorded={flags.FLAGS.recorded}: no crf_*.npz there")
    # The memory is that of a process that has not refined anything yet.
    seconds, work, memory = zip(*(cost(np.load(paths[0])["image"]) for _ in range(3)), strict=True)
    print(
        f"{HEIGHT} x {WIDTH}, {LABELS} labels, {SETTINGS.iterations} iterations, best of 3: {min(seconds):.1f} s, "
        f"{min(work):.1f} s of processor time, {memory[0]:.2f} GB more"
    )
    print("| photograph | changed % | equal % | equal of changed % | s |\n|---|---|---|---|---|")
    for path in paths:
        changed, equal, of_changed, took = agreement(path)
        shares = " | ".join(f"{100 * share:.3f}" for share in (changed, equal, of_changed))
        print(f"| {path.stem.removeprefix('crf_')} | {shares} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("recorded", None, "Directory of recorded photographs.", required=True)
    cli.run(main)
