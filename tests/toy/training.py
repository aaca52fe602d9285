import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.toy.model import Config, Toy, Training, logits, shapes
from vlseg import settings, sharding
from vlseg.data import transforms
from vlseg.data.sources import open_section
from vlseg.data.stream import Stream
from vlseg.nn.losses import upsampled_cross_entropy
from vlseg.training.program import Inference, Outline, Prepared, Task

OPTIMIZER = optax.adam(0.1)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def initial(params):
    return {"params": params, "optimizer": OPTIMIZER.init(params)}


def variables(params):
    return {"params": {name.removeprefix("params/"): value for name, value in params.items()}}


@dataclasses.dataclass(frozen=True)
class Matching(Task):
    config: Config
    labels: int
    settings, flops = Training(), 1e6

    def state(self):
        return jax.eval_shape(initial, {name: struct(*shape) for name, shape in shapes(self.config).items()})

    def constants(self):
        return struct(self.labels, self.config.features)

    def batch(self):
        return struct(8, 16, 16, 3, dtype=jnp.uint8), struct(8, 16, 16, dtype=jnp.int32)

    def update(self, state, constants, batch, step):
        def loss(params):
            return upsampled_cross_entropy(logits(variables(params), constants, batch[0]), batch[1])

        value, gradient = jax.value_and_grad(loss)(state["params"])
        updates, optimizer = OPTIMIZER.update(gradient, state["optimizer"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer}, {"loss": value}


def outline(config, labels):
    task = Matching(settings.read(Config, config.model, "model"), labels)
    return Outline(task, Inference(logits, variables(task.state()["params"]), task.constants(), (32, 32), 1e4))


def prepare(config, mesh):
    dataset = open_section(config.data.source, config.data)
    task = outline(config, len(dataset.names)).task
    stream = Stream([dataset], 8, 0, rows=sharding.own_rows(mesh, 8))
    flat = {name: jnp.zeros(shape) for name, shape in shapes(task.config).items()}
    model = Toy(task.config, variables(flat), labels=dataset.names)

    def batch(step):
        views = [transforms.random_crop(e.image, e.label, (16, 16), rng) for e, _, rng in stream.draws(step)]
        return tuple(map(np.stack, zip(*views, strict=True)))

    def finish(state):
        return dataclasses.replace(model, variables=variables(state["params"]))

    return Prepared(task, initial(flat), model.embed(), batch, config.training.steps, finish)
