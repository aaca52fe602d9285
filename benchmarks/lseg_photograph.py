"""From a photograph to its label map with a small LSeg: time and memory of `segment` beside an equal PyTorch model.

python -m benchmarks.lseg_photograph                   # EfficientNet-Lite0, decoder of 64 channels, 59 words, two cores
python -m benchmarks.lseg_photograph --checkpoint=clothing --image=FILE.jpg

A photograph of 512 x 341 pixels unless --image names another, the words' embeddings known. Both models have the same
weights, random unless --checkpoint names a model with this encoder. Each runs in a process of its own, in turns, so
that what else the machine does slows both. Prints medians, their ratio, the peak resident memory of either process, and
the share of pixels with the same label.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import timing
from lseg_jax import checkpoint, official
from lseg_jax.config import LSegConfig, SentenceConfig
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.model import LSeg, load
from vlseg import cli
from vlseg.checkpoints import efficientnet, rules
from vlseg.data.images import read_image
from vlseg.errors import ConfigError
from vlseg.evaluation import sliding_window
from vlseg.evaluation.sliding_window import Scheme
from vlseg.nn.efficientnet import blocks

WORDS, SIZE = 59, (512, 341)
Segment = Callable[[], np.ndarray]


def random_model(features: int) -> LSeg:
    """A model with small random weights and random embeddings of words."""
    config = LSegConfig(SentenceConfig(), EfficientNetConfig(), features=features)
    embeddings = np.random.default_rng(1).standard_normal((WORDS, config.text.features)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    names = tuple(f"word {number}" for number in range(WORDS))
    variables = timing.random_arrays(checkpoint.abstract_variables(config))
    known = dict(zip(names, embeddings, strict=True))
    return LSeg(config, variables, inference=Scheme(512, 512, trim=True), labels=names, known=known)


def photograph(path: str) -> np.ndarray:
    """uint8 [H, W, 3]: a file, or noise that was enlarged."""
    if path:
        return read_image(path)
    small = np.random.default_rng(0).integers(0, 256, (32, 21, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def jax_segment(model: LSeg, image: np.ndarray) -> Segment:
    """Ours."""
    return lambda: model.segment(image).label_map


def torch_segment(model: LSeg, image: np.ndarray) -> Segment:
    """The same in PyTorch: one window, padded with black, logits at its size, then at the image's."""
    try:
        import torch
        from torch.nn import functional

        from benchmarks import lseg_torch
    except ImportError as error:
        raise ConfigError(f"the PyTorch model needs torch and timm, see the extra `bench`: {error}") from error
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config, scheme = model.config, model.inference
    if not isinstance(config.image, EfficientNetConfig):
        raise ConfigError("the model's image encoder is no EfficientNet: see benchmarks/lseg_speed.py for others")
    height, width = image.shape[:2]
    window, *more = sliding_window.windows(height, width, scheme)
    if more:
        raise ConfigError(f"the image has {1 + len(more)} windows of {scheme.crop_size} pixels: give one that has one")
    rows, columns = sliding_window.window_size(height, width, scheme)
    net = lseg_torch.LSeg(config, rows, columns)
    flat = rules.flatten(model.variables)
    named = efficientnet.timm_names(len(blocks(config.image.variant)))
    state = {f"pretrained.model.{named[rule.official]}": rule for rule in config.image.rules()}
    state |= {rule.official: rule for rule in official.decoder_rules()}
    tensors = {
        name: torch.from_numpy(np.array(rule.layout.to_official(np.asarray(flat[rule.path])), order="C"))
        for name, rule in state.items()
    }
    missing = net.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys), missing.missing_keys
    net = cast(Any, net.eval().to(memory_format=torch.channels_last))
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (config.mean, config.deviation))
    embeddings = torch.from_numpy(np.array(model.encode_text()))

    def segment() -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
            size = window.height, window.width
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=True)
            pixels = functional.pad(pixels, (0, columns - window.width, 0, rows - window.height))
            pixels = ((pixels / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)
            logits = net(pixels, embeddings)[..., : window.height, : window.width]
            if image.shape[:2] != size:
                logits = functional.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=True)
            return logits.argmax(dim=1)[0].to(torch.int32).numpy()

    return segment


def work(segment: Segment) -> None:
    """Runs once for every line of standard input and answers with the seconds; then with memory and labels."""
    segment()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        segment()
        print(time.perf_counter() - start, flush=True)
    print(json.dumps({"peak_memory_mb": round(timing.peak_memory() / 1e6), "labels": segment().tolist()}))


def compared(frameworks: list[str], arguments: list[str], repeats: int) -> dict[str, Any]:
    """Figures of processes that take turns.

    Raises:
        ConfigError: one failed; it has said why.
    """
    command = [sys.executable, "-m", "benchmarks.lseg_photograph", *arguments]
    processes = {
        name: subprocess.Popen(
            [*command, f"--framework={name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in frameworks
    }
    times: dict[str, list[float]] = {name: [] for name in frameworks}

    def answer(name: str, asked: str = "") -> str:
        process = processes[name]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(asked)
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise ConfigError(f"{' '.join(command[1:])} --framework={name} failed")
        return line

    for name in frameworks:
        answer(name)
    for _ in range(repeats):
        for name in frameworks:
            times[name].append(float(answer(name, "\n")))
    figures: dict[str, Any] = {}
    labels = []
    for name, process in processes.items():
        last = json.loads(process.communicate()[0])
        labels.append(np.asarray(last.pop("labels")))
        seconds = times[name]
        figures[name] = {"seconds_median": round(statistics.median(seconds), 3), "seconds_min": round(min(seconds), 3)}
        figures[name] |= last
    if len(frameworks) > 1:
        ours, theirs = (figures[name] for name in frameworks)
        figures["ratio_of_medians"] = round(ours["seconds_median"] / theirs["seconds_median"], 2)
        figures["same_labels"] = float(np.mean(labels[0] == labels[1]))
    return figures


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if not options.framework:
        named = [(name, options[name].value) for name in ("checkpoint", "image", "features")]
        same = [f"--{name}={value}" for name, value in named if value]
        print(json.dumps(compared(["jax", "torch"] if options.torch else ["jax"], same, options.repeats), indent=2))
        return
    model = load(options.checkpoint) if options.checkpoint else random_model(options.features)
    make = {"jax": jax_segment, "torch": torch_segment}[options.framework]
    work(make(model, photograph(options.image)))


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", "", "A model with an EfficientNet; random weights by default.")
    flags.DEFINE_string("image", "", "A photograph.")
    flags.DEFINE_integer("features", 64, "Channels of the decoder of the random model.", lower_bound=1)
    flags.DEFINE_enum("framework", None, ["jax", "torch"], "Only answer to standard input, with this one.")
    flags.DEFINE_boolean("torch", True, "Time the PyTorch model, too.")
    flags.DEFINE_integer("repeats", 15, "Runs of each that count.", lower_bound=1)
    cli.run(main)
