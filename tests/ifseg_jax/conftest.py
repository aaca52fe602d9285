"""Models that the tests share: one with the weights behind the official implementation's outputs, and a micro one."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ifseg_jax
from ifseg_jax.checkpoint import parameter_shapes
from ifseg_jax.config import OFAConfig
from ifseg_jax.prompt import PROMPT, UNKNOWN
from tests import micro

GOLDEN = Path(__file__).with_name("golden")


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file of official outputs.

    arrays: the outputs by name. meta: what else was recorded. spec: official parameter names -> shapes.
    state: the official state dict.
    gradient_norms: official name -> l2 norm of the gradient of the artificial loss; empty where not recorded.
    image: float32 [1, H, W, 3]. categories: stand-ins for the names, whose ids `tokenizer` knows.
    """

    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]
    spec: Mapping[str, tuple[int, ...]]
    state: Mapping[str, np.ndarray]
    gradient_norms: Mapping[str, float]
    image: np.ndarray
    categories: tuple[str, ...]
    tokenizer: Callable[[str], list[int]]


def read_golden(name: str, golden_tensor: Callable[[str, tuple[int, ...]], np.ndarray]) -> Golden:
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    meta = json.loads(str(arrays.pop("meta")))
    spec = {name: tuple(shape) for name, shape in meta["spec"].items()}
    state = {name: golden_tensor(name, shape) for name, shape in spec.items()}
    words = state["encoder.embed_tokens.weight"]
    means = np.stack([words[ids].mean(axis=0) for ids in meta["names_tok"][: meta["num_seg"]]])
    for name in state:
        if name.endswith(("decoder.embed_tokens.weight", "embed_tokens_bag.weight")):
            state[name] = words
        elif "seg_embed_tokens" in name or "seg_projection" in name:
            state[name] = means
    categories = tuple(f"category {number}" for number in range(meta["num_seg"]))
    ids = dict(zip((*categories, UNKNOWN), meta["names_tok"], strict=True)) | {PROMPT: meta["prompt"]}
    image = np.random.default_rng(7).uniform(-1, 1, (1, 3, *meta["hw"])).astype(np.float32).transpose(0, 2, 3, 1)
    norms = json.loads(str(arrays.pop("grad_norms", "{}")))
    return Golden(arrays, meta, spec, state, norms, image, categories, lambda text: ids[text])


@pytest.fixture(scope="session")
def golden_square(golden_tensor) -> Golden:
    """Image of 96 x 96 on the trained grid of 6 x 6; with the image-free branch's gradients."""
    return read_golden("ofa_micro_square", golden_tensor)


@pytest.fixture(scope="session")
def golden_wide(golden_tensor) -> Golden:
    """The same weights; image of 96 x 141, so a grid of 6 x 9."""
    return read_golden("ofa_micro_wide", golden_tensor)


@pytest.fixture(scope="session")
def micro_config() -> OFAConfig:
    """A model that compiles in a second or two."""
    return micro.IFSEG


@pytest.fixture(scope="session")
def micro_variables(micro_config):
    """Random variables of `micro_config`."""
    return micro.variables(parameter_shapes(micro_config))


@pytest.fixture(scope="session")
def micro_directory(tmp_path_factory) -> Path:
    """The micro model as a directory that `ifseg_jax.load` and every command read; knows the tiny world's words."""
    path = tmp_path_factory.mktemp("micro") / "model"
    micro.save_ifseg(path, inference={"short_side": 40, "long_side": 64, "knn_k": 3, "knn_iterations": 5})
    return path


@pytest.fixture(scope="session")
def micro_model(micro_directory) -> ifseg_jax.IFSeg:
    """The micro model, loaded."""
    return ifseg_jax.load(micro_directory)
