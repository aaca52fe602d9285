"""A third model, the smallest that all commands take: colours and words in one space, joined by a linear map."""

import functools

import jax.numpy as jnp

from tests.toy.model import Config, Seen, Settings, Toy, shapes
from vlseg import settings
from vlseg.checkpoints import directory
from vlseg.packages import Flags, Package, register


def parse(values):
    config = Config(**values)
    return config, shapes(config)


def load(source, tokenizer=None):
    stored = read(directory.resolve(source, {}, {}), place=jnp.asarray)
    seen = settings.read(Seen, stored.settings["seen"], "seen")
    return Toy(stored.config, stored.weights.variables, seen, tuple(stored.settings["labels"]))


read = functools.partial(directory.read, package=Toy.package, parse=parse)
axes = ((r"/kernel$", ("embed", None)),)
register(Package(Toy.package, lambda config: Settings(), axes, load, read, "tests.toy.training", flags=Flags(Seen)))
