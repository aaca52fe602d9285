"""Speed and memory of IFSeg on this machine, beside its matrix-multiplication rate in the same run.

python -m benchmarks.ifseg_speed --size=ofa_base --task=inference     # 512 x 683, 171 categories, batch 1, float32
python -m benchmarks.ifseg_speed --size=ofa_base --task=train         # one image-free step at 512 x 512

FLOPs are those of the definition (ifseg_jax/flops.py). Weights are random: time does not depend on them. Prints medians
and the peak resident memory of the process, whose matrix multiplications are measured last so as not to count.
"""

import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ifseg_jax import adaptation, flops, inference
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.inference import WordEmbeddings
from ifseg_jax.ofa import OFA
from vlseg import cli

CATEGORIES = 171
WORDS = 239
"""Length of the official prompt for the 171 categories of COCO-Stuff."""


def random_variables(config: OFAConfig) -> Any:
    """Variables of the right shapes with small random values, made one array at a time."""
    images, ids = jnp.zeros((1, 64, 64, 3)), jnp.arange(3)
    shapes = jax.eval_shape(OFA(config).init, jax.random.key(0), images, ids)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.02)

    variables = jax.tree.map(fill, shapes)
    jax.clear_caches()  # weights that are read from a file leave no traces of their initialisation in memory
    return variables


def random_words(config: OFAConfig) -> WordEmbeddings:
    """Embeddings of a COCO-Stuff prompt's size."""
    rng = np.random.default_rng(1)
    shapes = ((CATEGORIES, config.width), (1, WORDS, config.width), (config.width,))
    return WordEmbeddings(*(jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes))


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `repeats` runs after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def matmul_rate(side: int = 3072, repeats: int = 5) -> float:
    """Median float32 FLOP/s of a square matrix product."""
    a = jnp.ones((side, side))
    product = jax.jit(lambda a: a @ a)
    return 2 * side**3 / statistics.median(seconds(lambda: product(a), repeats))


def inference_task(config: OFAConfig, height: int, width: int) -> tuple[Callable[[], Any], int]:
    """The function to time and its FLOPs: logits of one image."""
    variables, words = random_variables(config), random_words(config)
    image = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, height, width, 3), np.uint8))
    work = flops.inference(config, height, width, WORDS, CATEGORIES)
    return lambda: inference.predict(config, variables, words, image).logits, work


def train_task(config: OFAConfig) -> tuple[Callable[[], Any], int]:
    """The function to time and its FLOPs: one image-free step of batch 1."""
    settings = adaptation.Adaptation(batch_size=1)
    words = random_words(config)
    variables = random_variables(config)
    del variables["params"]["encoder"]["resnet"], variables["params"]["word_embedding"], variables["batch_stats"]
    trained, kept = adaptation.split(variables, config)
    del variables
    step = adaptation.image_free_step(config, settings, words, kept)
    state = [adaptation.initial_state(trained, settings.optimizer(), copy=False)]
    del trained

    def run() -> jax.Array:
        state[0], metrics = step(state[0], 0)
        return metrics["loss"]

    return run, flops.image_free_step(config, settings.side(config), WORDS, CATEGORIES)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    config = SIZES[options.size]
    if options.task == "inference":
        run, work = inference_task(config, options.height, options.width)
    else:
        run, work = train_task(config)
    times = seconds(run, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    median = statistics.median(times)
    rate = matmul_rate()
    report = {
        "size": options.size,
        "task": options.task,
        "seconds_median": round(median, 3),
        "seconds_min": round(min(times), 3),
        "seconds_max": round(max(times), 3),
        "definition_gflop": round(work / 1e9, 1),
        "gflop_per_second": round(work / median / 1e9, 1),
        "matmul_gflop_per_second": round(rate / 1e9, 1),
        "share_of_matmul_rate": round(work / median / rate, 3),
        "peak_memory_gb": round(peak / 1e9, 3),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    flags.DEFINE_enum("size", "ofa_base", list(SIZES), "Model size.")
    flags.DEFINE_enum("task", "inference", ["inference", "train"], "What to time.")
    flags.DEFINE_integer("height", 512, "Image height for inference.")
    flags.DEFINE_integer("width", 683, "Image width for inference.")
    flags.DEFINE_integer("repeats", 5, "Runs that count.", lower_bound=1)
    cli.run(main)
