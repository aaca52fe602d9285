"""One step of the micro models, on any mesh, in float32 and without a file: what the scale tests compare."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import ifseg_jax
import lseg_jax
from ifseg_jax.checkpoint import parameter_shapes as ifseg_shapes
from ifseg_jax.objective import TASKS
from ifseg_jax.prompt import WordEmbeddings
from ifseg_jax.settings import Adaptation
from lseg_jax import checkpoint, objective
from lseg_jax.encoders.base import normalized
from lseg_jax.settings import Training
from tests import micro
from vlseg import sharding
from vlseg.nn import multi_head
from vlseg.training.program import training

BATCH, CATEGORIES, PROMPT = 8, 5, 7
ADAPTATION = Adaptation(steps=20, batch_size=BATCH, learning_rate=1e-3, image_size=40, seed=1)
LSEG = dataclasses.replace(micro.LSEG, image=dataclasses.replace(micro.IMAGE, heads=8))
TRAINING = Training(steps=20, batch_size=BATCH, learning_rate=0.01, crop_size=32)


def drawn(*shape):
    return jnp.asarray(micro.parameter(str(shape), shape))


def images(number, side):
    rng = np.random.default_rng(number)
    targets = rng.integers(-1, 3, (BATCH, 4, 4)).repeat(side // 4, 1).repeat(side // 4, 2).astype(np.int32)
    return rng.integers(0, 256, (BATCH, side, side, 3), np.uint8), targets


def own(arrays):
    """This process's part of a batch."""
    share = BATCH // jax.process_count()
    return jax.tree.map(lambda array: array[jax.process_index() * share :][:share], arrays)


def started(task, state, constants, axes, mesh, batches=None):
    """(state, step) of a task on a mesh."""
    program = training(task, mesh, axes)
    update, constants = program.compile(), sharding.place(constants, mesh, axes)

    def step(state, number):
        batch = sharding.place_batch(own(batches(number)), mesh, BATCH) if batches else None
        return update(state, constants, batch, np.int32(number))

    return sharding.place(state, mesh, axes), step


def ifseg(mode, mesh, config=micro.IFSEG, adaptation=ADAPTATION):
    """(state, step) of IFSeg, "image_free" or "supervised"."""
    width = config.width
    words = WordEmbeddings(drawn(CATEGORIES, width), drawn(1, PROMPT, width), drawn(width))
    task = TASKS[mode](config, adaptation, CATEGORIES, PROMPT)
    state, frozen, _ = task.split(micro.variables(ifseg_shapes(config)))
    batches = None if mode == "image_free" else lambda number: images(number, 40)
    return started(task, state, {"frozen": frozen, "words": words}, ifseg_jax.PACKAGE.axes, mesh, batches)


def with_kernel(mesh):
    """(state, step) of image-free training on the trained 32 x 32 grid; on several devices with the kernel of TPUs."""
    grids = {"image_grid": 32, "segmentation_grid": 32, "image_bucket": 32}
    sizes = {"width": 256, "heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    config = dataclasses.replace(micro.IFSEG, **sizes, **grids)
    adaptation = dataclasses.replace(ADAPTATION, image_size=32 * config.stride)
    with multi_head.kernels("interpret" if mesh.size > 1 else "none"):
        return ifseg("image_free", mesh, config, adaptation)


def lseg(mesh):
    """(state, step) of LSeg."""
    labels = objective.label_sets([normalized(drawn(count, micro.TEXT.features)) for count in (3, 5)])
    task = objective.Matching(LSEG, TRAINING, BATCH, 2, 5)
    state, frozen = task.split(micro.variables(checkpoint.parameter_shapes(LSEG)))

    def batches(number):
        return objective.Batch(*images(number, 32), np.arange(BATCH, dtype=np.int32) % 2)

    return started(task, state, task.given(labels, frozen), lseg_jax.PACKAGE.axes, mesh, batches)


MODELS = {
    "image_free": functools.partial(ifseg, "image_free"),
    "supervised": functools.partial(ifseg, "supervised"),
    "kernel": with_kernel,
    "lseg": lseg,
}
