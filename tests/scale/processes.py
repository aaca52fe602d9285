"""What several processes make together: rows of batches, counts of pixels, and a training run. Printed by process 0.

python tests/scale/processes.py WORKDIR [--coordinator=HOST:PORT --num_processes=N --process_id=I]
"""

import functools
import json
import sys
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from lseg_jax.batches import named_batches
from lseg_jax.settings import Training
from vlseg import cli, distributed, sharding
from vlseg.data.examples import Example
from vlseg.evaluation import confusion, foreground
from vlseg.evaluation.report import Report
from vlseg.training.loop import Schedule, train
from vlseg.training.program import compile_step

CLASSES, IMAGES, BATCH = 7, 11, 8
SETTINGS = Training(batch_size=BATCH, base_size=32, crop_size=32, seed=4)


class Drawn(NamedTuple):
    """A data set of noise."""

    seed: int
    names: tuple[str, ...] = tuple("abcdefg")
    ignore_label: int = 255

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        label = rng.choice([0, 1, 2, 3, 5, 255], (40, 48)).astype(np.int32)  # classes 4 and 6 are absent
        return Example(rng.integers(0, 256, (40, 48, 3), np.uint8), label, str(index))


def fingerprints(mesh, step):
    """One number for each row of a batch, in order, from whichever process has made it."""
    rows = sharding.own_rows(mesh, BATCH)
    batch = named_batches([Drawn(0), Drawn(1)], SETTINGS, weights=[1, 2], rows=rows)(step)
    placed = sharding.place_batch(batch, mesh, BATCH)
    assert placed.images.shape == (BATCH, 32, 32, 3)
    own = [
        zlib.crc32(b"".join(np.ascontiguousarray(part[row]).tobytes() for part in batch)) for row in range(len(rows))
    ]
    table = np.zeros(BATCH, np.uint32)
    table[rows] = own
    return np.max(np.atleast_2d(multihost_utils.process_allgather(table)), axis=0).tolist()


def prediction(index):
    return np.random.default_rng([9, index]).integers(0, CLASSES, (40, 48)).astype(np.int32)


def scores():
    dataset, counts, pairs = Drawn(0), confusion.zeros(CLASSES), foreground.zeros(CLASSES)
    for number in distributed.own_share(range(IMAGES)):
        found, label = jnp.asarray(prediction(number)), jnp.asarray(dataset[number].label)
        counts = confusion.update(counts, found, label)
        # Many such images, so that sums need more than 32 bits.
        for _ in range(24):
            counts = confusion.merge(counts, counts) if number == 0 else counts
        mask = jnp.where(label == 255, 255, label == 1)
        pairs = foreground.update(pairs, (found == 1)[None], mask[None], jnp.asarray([number % CLASSES]))
    whole = confusion.compute(distributed.merged(counts, confusion.merge))
    few = foreground.compute(distributed.merged(pairs, foreground.merge), range(CLASSES))
    return {"iou": whole.iou, "pixels": whole.label_pixels, "aacc": whole.aacc, "few": [few.miou, few.fb_iou]}


def report():
    """Of the same predictions."""
    dataset, own = Drawn(0), Report(CLASSES, worst=4)
    for number in distributed.own_share(range(IMAGES)):
        label = dataset[number].label
        own.add(number, f"n\u00e4me {number}", prediction(number), np.where(label == 255, -1, label))
    found = own.of_all()
    return {"matrix": found.matrix.tolist(), "pictures": found.scores, "worst": [one.tolist() for one in found.worst]}


OPTIMIZER = optax.adam(0.05)
AXES = ((r"kernel$", ("embed",)),)


def step(mesh):
    """Of a linear model of the mean colour, whose batches come from all processes, and parameters lie in all."""
    rows = sharding.own_rows(mesh, BATCH)
    batches = named_batches([Drawn(0), Drawn(1)], SETTINGS, rows=rows)

    def update(state, batch):
        def loss(params):
            found = jnp.mean(batch.images / 255.0, axis=(1, 2)) @ params["params/kernel"]
            return jnp.mean((found - batch.sets[:, None]) ** 2)

        value, gradient = jax.value_and_grad(loss)(state["params"])
        updates, optimizer = OPTIMIZER.update(gradient, state["optimizer"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer}, {"loss": value}

    compiled = compile_step(update, mesh)
    return lambda state, number: compiled(state, sharding.place_batch(batches(number), mesh, BATCH))


def losses(workdir):
    """Of a run that is stopped after half of its steps and goes on, spread otherwise, and its parameters."""
    found, state = {}, {}

    def keep(number, metrics):
        found[number] = metrics["loss"]

    for steps, spread in ((10, "fsdp"), (20, "data")):
        mesh = sharding.make_mesh(f"{spread}={jax.device_count()}")
        params = {"params/kernel": jnp.zeros((3, 4))}
        state = sharding.place({"params": params, "optimizer": OPTIMIZER.init(params)}, mesh, AXES)
        state = train(state, step(mesh), workdir, Schedule(steps, 1, 4, checkpoint_minutes=1e-9), on_log=keep)
    kernel = sharding.gathered(state["params"], mesh)["params/kernel"]
    return {"losses": [found[number] for number in sorted(found)], "kernel": np.asarray(kernel).tolist()}


def everything(workdir):
    """As JSON."""
    mesh = sharding.make_mesh("")
    batches = [fingerprints(mesh, step) for step in (0, 1, 5, 100)]
    return json.dumps({"processes": jax.process_count(), "batches": batches, **losses(workdir), **scores(), **report()})


def main(workdir, _):
    distributed.initialize()
    found = everything(workdir)
    if distributed.is_main():
        print(found)


if __name__ == "__main__":
    distributed.define_flags()
    cli.run(functools.partial(main, sys.argv.pop(1)), usage=__doc__)
