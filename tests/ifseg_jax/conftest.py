"""Models that the tests share: one with the weights behind the official implementation's outputs, and a micro one."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import storage
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from ifseg_jax.official import Converted
from ifseg_jax.vocabulary import PROMPT, UNKNOWN
from vlseg import state_dicts

# Programs run for milliseconds here and take seconds to compile, a quarter as long with these. Read at the first use of
# a device, and by the commands that tests start.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

GOLDEN = Path(__file__).with_name("golden")
WORDS = Path(ifseg_jax.__file__).with_name("tiny") / "words.txt"


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file of official outputs.

    arrays: the outputs by name. spec: official parameter names -> shapes. state: the official state dict.
    gradient_norms: official name -> l2 norm of the gradient of the artificial loss; empty where not recorded.
    image: float32 [1, H, W, 3]. categories: stand-ins for the names, whose ids `tokenizer` knows.
    """

    arrays: Mapping[str, np.ndarray]
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
    return Golden(arrays, spec, state, norms, image, categories, lambda text: ids[text])


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
    """A model that compiles in a second or two: 8 pixels per token, trained on 5 x 5 cells, words of the tiny world."""
    return OFAConfig(
        width=32,
        ffn_width=64,
        heads=2,
        encoder_layers=2,
        decoder_layers=2,
        resnet_stages=(1, 1),
        resnet_width=8,
        vocabulary_size=len(WORDS.read_text().split()) + 4,
        image_grid=5,
        segmentation_grid=5,
        image_bucket=9,
        token_bucket=16,
        max_positions=64,
        remat="none",
        query_blocks=2,
    )


@pytest.fixture(scope="session")
def micro_variables(micro_config):
    """Random variables of `micro_config`, none of them 0 or 1, so that nothing can be left out unnoticed."""
    images = jnp.zeros((1, 4 * micro_config.stride, 4 * micro_config.stride, 3))
    shapes = jax.eval_shape(OFA(micro_config).init, jax.random.key(0), images, jnp.arange(3))
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> jax.Array:
        noise = rng.standard_normal(shape)
        leaf = path.rsplit("/", 1)[-1]
        if leaf in ("scale", "head_scale", "variance"):
            return jnp.asarray(1 + 0.1 * np.clip(noise, -3, 3), jnp.float32)
        if leaf in ("bias", "mean"):
            return jnp.asarray(0.1 * noise, jnp.float32)
        if leaf == "kernel":
            return jnp.asarray(noise * np.prod(shape[:-1]) ** -0.5, jnp.float32)
        return jnp.asarray(0.5 * noise, jnp.float32)

    return state_dicts.unflatten({path: draw(path, leaf.shape) for path, leaf in state_dicts.flatten(shapes).items()})


@pytest.fixture(scope="session")
def micro_directory(tmp_path_factory, micro_config, micro_variables) -> Path:
    """The micro model as a directory that `ifseg_jax.load` and every command read; knows the tiny world's words."""
    path = tmp_path_factory.mktemp("micro") / "model"
    arrays = jax.tree.map(np.asarray, micro_variables)
    settings = {"inference": {"short_side": 40, "long_side": 64, "knn_k": 3, "knn_iterations": 5}}
    storage.write_directory(path, micro_config, Converted(arrays, {}, ()), settings, WORDS)
    return path


@pytest.fixture(scope="session")
def micro_model(micro_directory) -> ifseg_jax.IFSeg:
    """The micro model, loaded."""
    return ifseg_jax.load(micro_directory)
