"""Fresh parameters have the distributions that the authors' constructor draws from; see `golden/record_training.py`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ifseg_jax import official
from ifseg_jax.config import OFAConfig
from ifseg_jax.ofa import OFA
from tests.ifseg_jax.conftest import GOLDEN
from vlseg.checkpoints.rules import disassemble

CONFIG = OFAConfig(
    width=16, ffn_width=32, heads=2, encoder_layers=2, decoder_layers=2, resnet_stages=(1,), vocabulary_size=60,
    image_grid=4, segmentation_grid=4, image_bucket=6, token_bucket=32, max_positions=62, remat="none", query_blocks=1,
)  # fmt: skip
"""The recorded sizes but for the depth of the image trunk."""


@pytest.fixture(scope="module")
def recorded():
    return json.loads((GOLDEN / "fresh.json").read_text())


@pytest.fixture(scope="module")
def drawn():
    images = jnp.zeros((1, CONFIG.stride, CONFIG.stride, 3))
    variables = jax.jit(OFA(CONFIG).init)(jax.random.key(0), images, jnp.arange(1))
    return disassemble(official.rules(CONFIG), jax.tree.map(np.asarray, variables))


def test_every_parameter(recorded, drawn):
    """Mean, deviation and bounds, within what so few numbers tell."""
    assert drawn.keys() <= recorded.keys()
    for name, found in drawn.items():
        mean, deviation, largest = recorded[name]
        if not deviation:
            # Of the running variance the authors take off what normalization adds.
            np.testing.assert_allclose(found, mean, rtol=0, atol=2e-5, err_msg=name)
            continue
        error = found.size**-0.5
        assert abs(found.mean() - mean) < 5 * 2**0.5 * error * deviation, name
        assert abs(found.std() / deviation - 1) < 5 * error, name
        assert 0.5 < np.abs(found).max() / largest < 2, name


def test_one_deviation_for_all_but_the_trunk(recorded, drawn):
    """0.02, of linear layers, embeddings, positions and tables; bounded only by how many there are."""
    normal = [name for name in drawn if recorded[name][1] and "embed_images" not in name]
    kinds = {name.rsplit(".", 2)[-2] for name in normal}
    assert {"q_proj", "fc1", "embed_tokens", "embed_seg_positions", "pos_k_linear", "image_proj"} < kinds
    values = np.concatenate([drawn[name].ravel() for name in normal])
    assert abs(values.std() / 0.02 - 1) < 0.02
    assert 3.5 < np.abs(values).max() / 0.02 < 6
