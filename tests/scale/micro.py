"""One step of small models of both kinds, on any mesh, in float32 and without a file: what the scale tests compare."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ifseg_jax import adaptation
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import WordEmbeddings
from ifseg_jax.shapes import parameter_shapes
from lseg_jax import storage, training
from lseg_jax.config import LSegConfig, SentenceConfig, ViTConfig
from lseg_jax.lseg import normalized
from vlseg import sharding, state_dicts

BATCH, CATEGORIES = 8, 5
OFA = OFAConfig(
    width=32,
    ffn_width=64,
    heads=8,
    encoder_layers=2,
    decoder_layers=2,
    resnet_stages=(1, 1),
    resnet_width=8,
    vocabulary_size=20,
    image_grid=5,
    segmentation_grid=5,
    image_bucket=9,
    token_bucket=16,
    max_positions=16,
    query_blocks=1,
    remat="none",
)
ADAPTATION = adaptation.Adaptation(steps=20, batch_size=BATCH, learning_rate=1e-3, image_size=40, max_side=5, seed=1)
LSEG = LSegConfig(SentenceConfig(24), ViTConfig(8, 32, 8, 4, 2, (8, 8, 8, 8)), features=8)
TRAINING = training.Training(steps=20, batch_size=BATCH, learning_rate=0.02, crop_size=32)


def drawn(name, shape):
    """Values that are neither 0 nor 1, so that nothing can be left out unnoticed."""
    noise = np.random.default_rng(list(name.encode())).standard_normal(shape).astype(np.float32)
    kind = name.rsplit("/", 1)[-1]
    if kind in ("scale", "head_scale", "variance"):
        return 1 + 0.1 * np.clip(noise, -3, 3)
    if kind in ("bias", "mean"):
        return 0.1 * noise
    return noise * (np.prod(shape[:-1]) ** -0.5 if kind == "kernel" else 0.5)


def images(number, side):
    rng = np.random.default_rng(number)
    targets = rng.integers(-1, 3, (BATCH, 4, 4)).repeat(side // 4, 1).repeat(side // 4, 2).astype(np.int32)
    return rng.integers(0, 256, (BATCH, side, side, 3), np.uint8), targets


def own(arrays):
    """This process's part of a batch."""
    share = BATCH // jax.process_count()
    return jax.tree.map(lambda array: array[jax.process_index() * share :][:share], arrays)


def ifseg(mode, mesh, **changes):
    """(state, step) of IFSeg, "image_free" or "supervised"; `changes` are of its settings."""
    settings = dataclasses.replace(ADAPTATION, **changes)
    flat = {name: jnp.asarray(drawn(name, shape)) for name, shape in parameter_shapes(OFA).items()}
    trained, kept = adaptation.split(state_dicts.unflatten(flat), OFA)
    words = WordEmbeddings(
        *(jnp.asarray(drawn(name, shape)) for name, shape in (("c", (CATEGORIES, 32)), ("p", (1, 7, 32)), ("b", (32,))))
    )
    state = sharding.place(adaptation.initial_state(trained, settings.optimizer()), mesh)
    if mode == "image_free":
        return state, adaptation.image_free_step(OFA, settings, words, kept, mesh)
    batches = lambda number: own(images(number, 40))  # noqa: E731
    return state, adaptation.supervised_step(OFA, settings, words, kept, batches, mesh)


def lseg(mesh, **changes):
    """(state, step) of LSeg."""
    settings = dataclasses.replace(TRAINING, **changes)
    flat = {name: jnp.asarray(drawn(name, shape)) for name, shape in storage.parameter_shapes(LSEG).items()}
    state, _ = training.split(state_dicts.unflatten(flat))
    optimizer = settings.make_optimizer(BATCH)
    state["optimizer"] = optimizer.init(state["params"])
    labels = training.label_sets([normalized(jnp.asarray(drawn(str(count), (count, 24)))) for count in (3, 5)])

    def batches(number):
        return own(training.Batch(*images(number, 32), np.arange(BATCH, dtype=np.int32) % 2))

    return sharding.place(state, mesh), training.make_step(LSEG, settings, labels, optimizer, batches, mesh)
