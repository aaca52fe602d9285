"""Speed and memory of LSeg on this machine, beside its matrix-multiplication rate in the same run.

python -m benchmarks.lseg_speed                        # ViT-L/16, 480 x 480, 150 labels, batch 1, float32
python -m benchmarks.lseg_speed --torch                # and an equal PyTorch model in a process of its own

From pixels to logits at the size of the image; the embeddings of the labels are given. FLOPs are those of the
definition (lseg_jax/flops.py). Weights are random: time does not depend on them. Prints medians and the peak resident
memory of the process, whose matrix multiplications are measured last so as not to count.
"""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import timing
from lseg_jax import flops
from lseg_jax.config import RESNET_101, VIT_BASE_32, VIT_LARGE_16, LSegConfig, ResNetConfig, ViTConfig
from lseg_jax.lseg import LSegNet
from vlseg import cli
from vlseg.errors import ConfigError

IMAGES: dict[str, ViTConfig | ResNetConfig] = {"vit_l16": VIT_LARGE_16, "vit_b32": VIT_BASE_32, "resnet101": RESNET_101}


def random_image(height: int, width: int) -> np.ndarray:
    """Float32 [1, height, width, 3] in [-1, 1]."""
    return np.random.default_rng(2).uniform(-1, 1, (1, height, width, 3)).astype(np.float32)


def random_labels(config: LSegConfig, count: int) -> np.ndarray:
    """Label embeddings float32 [count, C], l2-normalised."""
    labels = np.random.default_rng(1).standard_normal((count, config.text.features), np.float32)
    return labels / np.linalg.norm(labels, axis=-1, keepdims=True)


def random_variables(config: LSegConfig) -> Any:
    """Variables of all but the text encoder, of the right shapes and with small random values."""
    model, images = LSegNet(config), jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda key: model.init(key, images, method=LSegNet.encode_pixels), jax.random.key(0))
    return timing.random_arrays(shapes)


def jax_report(config: LSegConfig, height: int, width: int, labels: int, repeats: int) -> dict[str, float]:
    """Figures of our model."""
    variables = random_variables(config)
    image, embeddings = jnp.asarray(random_image(height, width)), jnp.asarray(random_labels(config, labels))
    model = LSegNet(config)
    segment = jax.jit(lambda *arguments: model.apply(*arguments, method=LSegNet.segment))
    work = flops.inference(config, height, width, labels)
    return timing.report(lambda: segment(variables, image, embeddings), repeats, work, jnp.ones)


def torch_report(config: LSegConfig, height: int, width: int, labels: int, repeats: int) -> dict[str, float]:
    """Figures of the PyTorch model, and of PyTorch's matrix multiplication.

    Raises:
        ConfigError: PyTorch or timm is not installed.
    """
    try:
        import torch

        from benchmarks import lseg_torch
    except ImportError as error:
        raise ConfigError(f"the PyTorch model needs torch and timm, see the extra `bench`: {error}") from error
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with torch.inference_mode():
        model = lseg_torch.LSeg(config, height, width).eval()
        image = torch.from_numpy(random_image(height, width)).permute(0, 3, 1, 2).contiguous()
        embeddings = torch.from_numpy(random_labels(config, labels))
        work = flops.inference(config, height, width, labels)
        return timing.report(lambda: model(image, embeddings), repeats, work, torch.ones)


def in_own_process(arguments: list[str]) -> dict[str, float]:
    """Figures that this benchmark prints when it runs with these arguments.

    Raises:
        ConfigError: it failed; it has said why.
    """
    command = [sys.executable, "-m", "benchmarks.lseg_speed", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise ConfigError(f"{' '.join(command[1:])} failed")
    return json.loads(finished.stdout)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    config = LSegConfig(image=IMAGES[options.image])
    if options.height % 32 or options.width % 32:
        raise ConfigError(f"an image of {options.height} x {options.width} pixels has sides that are no multiple of 32")
    measure = {"jax": jax_report, "torch": torch_report}[options.framework]
    figures: dict[str, Any] = {"image": options.image, "framework": options.framework}
    figures |= measure(config, options.height, options.width, options.labels, options.repeats)
    if options.torch:
        same = [f"--{name}={options[name].value}" for name in ("image", "height", "width", "labels", "repeats")]
        figures["torch"] = in_own_process([*same, "--framework=torch"])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    flags.DEFINE_enum("image", "vit_l16", list(IMAGES), "Image encoder.")
    flags.DEFINE_enum("framework", "jax", ["jax", "torch"], "What to time: our model or an equal one in PyTorch.")
    flags.DEFINE_boolean("torch", False, "Time the PyTorch model afterwards, too.")
    flags.DEFINE_integer("height", 480, "Image height.")
    flags.DEFINE_integer("width", 480, "Image width.")
    flags.DEFINE_integer("labels", 150, "Number of labels.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs that count.", lower_bound=1)
    cli.run(main)
