"""Files of EfficientNet-Lite as others publish them, and a package that carries one, with weights of our own."""

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import micro
from vlseg import torch_files
from vlseg.checkpoints import efficientnet
from vlseg.checkpoints.rules import flatten
from vlseg.nn import efficientnet as network


def state(variant: str = "lite0") -> dict[str, np.ndarray]:
    """A state dict by the names of EfficientNet-PyTorch, whose values follow from ours; with a classifier."""
    shapes, (*_, (_, last)) = _shapes(variant), network.levels(variant)
    found = {
        rule.official: np.ascontiguousarray(rule.layout.to_official(micro.parameter(rule.path, shapes[rule.path])))
        for rule in efficientnet.rules(variant, "image")
    }
    found |= {"_conv_head.weight": np.zeros((8, last, 1, 1), np.float32), "_bn1.weight": np.ones(8, np.float32)}
    return found | {"_fc.weight": np.zeros((2, 8), np.float32), "_fc.bias": np.zeros(2, np.float32)}


@functools.cache
def _shapes(variant: str) -> dict[str, tuple[int, ...]]:
    found = jax.eval_shape(network.EfficientNet(variant).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {path: leaf.shape for path, leaf in flatten({kind: {"image": tree} for kind, tree in found.items()}).items()}


def timm_state(variant: str = "lite0") -> dict[str, np.ndarray]:
    """The same by timm's names."""
    found, count = state(variant), len(network.blocks(variant))
    named = {theirs: found[ours] for ours, theirs in efficientnet.timm_names(count).items()}
    others = {"conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    return named | {f"{theirs}.weight": found[f"{ours}.weight"] for theirs, ours in others.items()}


def squeezed_state() -> dict[str, np.ndarray]:
    """A state dict of EfficientNet-B0: the same blocks, with squeeze and excitation."""
    found = state()
    for number, block in enumerate(network.blocks("lite0")):
        few = max(1, block.inputs // 4)
        for name, shape in {"reduce": (few, block.inner, 1, 1), "expand": (block.inner, few, 1, 1)}.items():
            found[f"_blocks.{number}._se_{name}.weight"] = np.zeros(shape, np.float32)
            found[f"_blocks.{number}._se_{name}.bias"] = np.zeros(shape[:1], np.float32)
    return found


def install(
    monkeypatch: pytest.MonkeyPatch, root: Path, tensors: Mapping[str, np.ndarray], name: str = "efficientnet_lite0"
) -> Path:
    """A package with these weights, before all that are installed; they stand for those that have the name.

    Its code ends the process that imports it.

    Returns:
        The file.
    """
    wanted = efficientnet.WEIGHTS[name]
    file = root / wanted.file
    file.parent.mkdir(parents=True)
    torch_files.save(file, dict(tensors))
    content = file.read_bytes()
    known = wanted._replace(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(efficientnet.WEIGHTS, name, known)
    module = wanted.package.replace("-", "_")
    (root / module / "__init__.py").write_text("raise SystemExit('imported')\n")
    described = root / f"{module}-0.1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wanted.package}\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(root)
    return file


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the packages that carry weights."""

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
