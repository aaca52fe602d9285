"""Records how the official LSeg (isl-org/lang-seg) starts: mean, deviation and bound of every kind of fresh parameter.

python -m tests.lseg_jax.golden.record_fresh CLONE

CLONE: a checkout of lang-seg; packages as in `small`. fresh.json holds, by the names of `MODELS` and of official
parameters, the number of values, their mean, standard deviation and largest magnitude. Layers that repeat are recorded
once. A block is so small that it is built `TIMES` times.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import clip.model
import torch

from tests.lseg_jax.golden import small

TIMES = 1000
SEED = 1  # 0 meets a rounding of timm, which makes one of a million of its normally distributed values a 2.0
REPEATED = re.compile(
    r".*(blocks\.[1-9]|layer[234]\.|layer1\.4\.0\.(conv3|bn[23]|downsample\.1)|refinenet[124]|num_batches_tracked"
    r"|logit_scale|running_|model\.(norm|head)\.|head_block)"
)
"""What is recorded under another name, has one value, or is not a part of the network here."""


def text() -> clip.model.CLIP:
    """CLIP with two layers in both towers."""
    return clip.model.CLIP(512, 64, 2, 256, 16, 77, 4096, 512, 8, 2)


def vit() -> torch.nn.Module:
    """LSegNet, narrow."""
    sizes = {"width": 192, "heads": 3, "layers": 4, "grid": 12, "reassembled": (96, 192, 384, 768), "features": 256}
    return small.vit(text(), **sizes)


def block() -> torch.nn.Module:
    """The authors' block by the name that it has in a network."""
    made = importlib.import_module("modules.models.lseg_net").bottleneck_block()
    return torch.nn.ModuleDict({"scratch": torch.nn.ModuleDict({"head_block": made})})


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], int, re.Pattern[str]]] = {
    "vitl16": (lambda: small.vit_large(text()), 1, re.compile(r"pretrained\.act_postprocess4")),
    "vitb32": (vit, 1, re.compile(r"(clip_pretrained\.(?!visual)|pretrained\.|scratch\.)")),
    "resnet": (lambda: small.resnet(text()), 1, re.compile(r"pretrained\.")),
    "clip": (vit, 1, re.compile(r"clip_pretrained\.visual\.(?!ln_post|proj)")),
    "block": (block, TIMES, re.compile(r"scratch\.")),
}
"""How a model is built, how often, and the names that are recorded of it."""


def statistics(values: Iterable[torch.Tensor]) -> list[float]:
    """Of values that are drawn alike: their number, mean, deviation and largest magnitude."""
    flat = torch.cat([value.detach().flatten().double() for value in values])
    found = flat.mean(), flat.std(unbiased=False), flat.abs().max()
    return [flat.numel(), *(float(f"{value:.6g}") for value in found)]


if __name__ == "__main__":
    small.import_authors(sys.argv[1])
    torch.manual_seed(SEED)
    found: dict[str, dict[str, list[float]]] = {}
    for name, (build, times, wanted) in MODELS.items():
        states = [build().state_dict() for _ in range(times)]
        names = [key for key in states[0] if wanted.match(key) and (times > 1 or not REPEATED.match(key))]
        found[name] = {key: statistics(state[key] for state in states) for key in names}
        print(name, len(found[name]))
    # One line for each parameter.
    text_found = re.sub(r"\[[^]]*\]", lambda match: " ".join(match[0].split()), json.dumps(found, indent=1))
    Path(__file__).with_name("fresh.json").write_text(f"{text_found}\n")
