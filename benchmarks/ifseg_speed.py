"""Speed and memory of IFSeg on this machine, beside its matrix-multiplication rate in the same run.

python -m benchmarks.ifseg_speed --size=ofa_base --task=inference     # 512 x 683, 171 categories, batch 1, float32
python -m benchmarks.ifseg_speed --size=ofa_base --task=train         # one image-free step at 512 x 512

FLOPs are those of the definition (ifseg_jax/flops.py). Weights are random: time does not depend on them. Prints medians
and the peak resident memory of the process, whose matrix multiplications are measured last so as not to count.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import timing
from ifseg_jax import flops, inference
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.objective import ImageFree
from ifseg_jax.ofa import OFA
from ifseg_jax.prompt import WordEmbeddings
from ifseg_jax.settings import Adaptation
from vlseg import cli
from vlseg.training.program import compile_step

CATEGORIES = 171
WORDS = 239
"""Length of the official prompt for the 171 categories of COCO-Stuff."""


def random_variables(config: OFAConfig) -> Any:
    """Variables of the right shapes with small random values."""
    images, ids = jnp.zeros((1, 64, 64, 3)), jnp.arange(3)
    shapes = jax.eval_shape(OFA(config).init, jax.random.key(0), images, ids)
    return timing.random_arrays(shapes)


def random_words(config: OFAConfig) -> WordEmbeddings:
    """Embeddings of a COCO-Stuff prompt's size."""
    rng = np.random.default_rng(1)
    shapes = ((CATEGORIES, config.width), (1, WORDS, config.width), (config.width,))
    return WordEmbeddings(*(jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes))


def inference_task(config: OFAConfig, height: int, width: int) -> tuple[Callable[[], Any], int]:
    """The function to time and its FLOPs: logits of one image."""
    variables, words = random_variables(config), random_words(config)
    image = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, height, width, 3), np.uint8))
    work = flops.inference(config, height, width, WORDS, CATEGORIES)
    return lambda: inference.predict(config, variables, words, image).logits, work


def train_task(config: OFAConfig) -> tuple[Callable[[], Any], int]:
    """The function to time and its FLOPs: one image-free step of batch 1."""
    task = ImageFree(config, Adaptation(batch_size=1), CATEGORIES, WORDS)
    variables = random_variables(config)
    del variables["params"]["encoder"]["resnet"], variables["params"]["word_embedding"], variables["batch_stats"]
    state, needed, _ = task.split(variables)
    del variables
    constants, update, held = {"frozen": needed, "words": random_words(config)}, compile_step(task.update), [state]
    del state

    def run() -> jax.Array:
        held[0], metrics = update(held[0], constants, None, np.int32(0))
        return metrics["loss"]

    return run, round(task.flops)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    config = SIZES[options.size]
    if options.task == "inference":
        run, work = inference_task(config, options.height, options.width)
    else:
        run, work = train_task(config)
    figures = timing.report(run, options.repeats, work, jnp.ones)
    print(json.dumps({"size": options.size, "task": options.task, **figures}, indent=2))


if __name__ == "__main__":
    flags.DEFINE_enum("size", "ofa_base", list(SIZES), "Model size.")
    flags.DEFINE_enum("task", "inference", ["inference", "train"], "What to time.")
    flags.DEFINE_integer("height", 512, "Image height for inference.")
    flags.DEFINE_integer("width", 683, "Image width for inference.")
    flags.DEFINE_integer("repeats", 5, "Runs that count.", lower_bound=1)
    cli.run(main)
