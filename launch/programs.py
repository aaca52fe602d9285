"""The programs that a configuration runs on accelerators, with shapes in the place of arrays."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, NamedSharding

import ifseg_jax
import lseg_jax
from ifseg_jax import adaptation
from ifseg_jax import flops as ifseg_flops
from ifseg_jax import inference as ifseg_inference
from ifseg_jax import shapes as ifseg_shapes
from ifseg_jax.adaptation import Adaptation
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.inference import WordEmbeddings
from ifseg_jax.vocabulary import PROMPT, UNKNOWN
from lseg_jax import flops as lseg_flops
from lseg_jax import inference as lseg_inference
from lseg_jax import storage, training
from lseg_jax.config import LSegConfig, ViTConfig
from lseg_jax.training import Batch, LabelSets, Training
from vlseg import sharding, state_dicts
from vlseg.data.folder import names_from
from vlseg.errors import ConfigError
from vlseg.training.compilation import lower

LONG_SIDE = 43
"""Cells of the long side of a 4:3 image whose short side is 512 pixels."""

Structs = Any


class Program(NamedTuple):
    """A program before it is compiled.

    name: "train" or "inference". lower: makes it. images: that one call sees, on all chips together. flops: that the
    definition of the model asks for, of all images together. state: bytes that one chip holds between two calls.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    images: int
    flops: float
    state: float


def programs(config: ml_collections.ConfigDict, mesh: Mesh, labels: int) -> list[Program]:
    """The training step of a configuration, and inference for one image on each chip.

    Args:
        config: of ifseg_jax.train or lseg_jax.train. mesh: of the chips.
        labels: in a label set, for LSeg, whose data are not there to tell.

    Raises:
        ConfigError: the configuration cannot be run like this.
    """
    return _ifseg(config, mesh) if "adaptation" in config else _lseg(config, mesh, labels)


def _ifseg(config: ml_collections.ConfigDict, mesh: Mesh) -> list[Program]:
    model = _ofa(config)
    settings = Adaptation.from_dict(config.adaptation)
    sharding.check_batch(mesh, settings.batch_size // settings.accumulation_steps)
    sharding.check_heads(mesh, model.heads)
    categories = names_from(config.categories)
    length = prompt_length(categories)
    shapes: Structs = _word_shapes(model, len(categories), length)
    words = WordEmbeddings(*(_struct(shape, sharding.replicated(mesh)) for shape in shapes))
    flat = _parameters(ifseg_shapes.parameter_shapes(model), mesh)
    trained, kept = adaptation.split(state_dicts.unflatten(flat), model)
    state = _placed(jax.eval_shape(lambda: adaptation.initial_state(_zeros(trained), settings.optimizer())), mesh)
    side, number = settings.side(model), _struct((), sharding.replicated(mesh), jnp.int32)
    if config.mode == "image_free":
        image = ifseg_flops.image_free_step(model, side, length, len(categories))
        constant = adaptation.image_free_constants(kept)
        arguments: tuple[Structs, ...] = (state, constant, words, number)
        update = adaptation.image_free_update(model, settings)
    else:
        image = ifseg_flops.supervised_step(model, side, length, len(categories))
        constant = adaptation.supervised_constants(kept)
        images, targets = _images(settings.batch_size, (side, side), mesh)
        arguments = (state, constant, words, images, targets, number)
        update = adaptation.supervised_update(model, settings)
    train = Program(
        "train",
        lambda: lower(update, mesh, *arguments),
        settings.batch_size,
        settings.batch_size * image,
        _held((state, constant)),
    )
    size = model.image_grid * model.stride, LONG_SIDE * model.image_grid * model.stride // 32
    seen, _ = _images(mesh.size, size, mesh)
    variables = state_dicts.unflatten(flat)
    predict = Program(
        "inference",
        lambda: _lower_inference(
            lambda variables, words, images: ifseg_inference.predict(model, variables, words, images).logits,
            mesh,
            variables,
            words,
            seen,
        ),
        mesh.size,
        mesh.size * ifseg_flops.inference(model, *size, length, len(categories)),
        _held(flat),
    )
    return [train, predict]


def _ofa(config: ml_collections.ConfigDict) -> OFAConfig:
    name = config.checkpoint
    if name in SIZES:
        return dataclasses.replace(SIZES[name], **config.model.to_dict())
    if name != "tiny" and not Path(name).exists():
        raise ConfigError(
            f"config.checkpoint {name} is not there; name the size that it has: --config.checkpoint=ofa_base"
        )
    return ifseg_jax.load(name, **config.model.to_dict()).config


def prompt_length(categories: tuple[str, ...]) -> int:
    """Tokens of the prompt, were every word one: the tokenizer's files are not needed to compile."""
    texts = (PROMPT, *categories, UNKNOWN)
    return 2 + sum(len(text.split()) for text in texts)


def _word_shapes(config: OFAConfig, categories: int, length: int) -> list[tuple[int, ...]]:
    return [(categories, config.width), (1, length, config.width), (config.width,)]


def _lseg(config: ml_collections.ConfigDict, mesh: Mesh, labels: int) -> list[Program]:
    model = LSegConfig.from_dict(config.model)
    if config.checkpoint:
        model = dataclasses.replace(lseg_jax.load(config.checkpoint).config, dtype=model.dtype, remat=model.remat)
    settings = Training.from_dict(config.training)
    sharding.check_batch(mesh, settings.batch_size // settings.accumulation_steps)
    if isinstance(model.image, ViTConfig):
        sharding.check_heads(mesh, model.image.heads)
    flat = _parameters(storage.parameter_shapes(model), mesh)
    state, _ = training.split(state_dicts.unflatten(flat))
    optimizer = settings.make_optimizer(settings.batch_size)
    state["optimizer"] = _placed(jax.eval_shape(lambda: optimizer.init(_zeros(state["params"]))), mesh)
    everywhere, features = sharding.replicated(mesh), model.text.features
    sets = LabelSets(_struct((1, labels, features), everywhere), _struct((1, labels), everywhere, jnp.bool_))
    side = settings.crop_size
    numbers = _struct((settings.batch_size,), sharding.batch_sharding(mesh), jnp.int32)
    batch = Batch(*_images(settings.batch_size, (side, side), mesh), numbers)
    update = training.make_update(model, settings, optimizer)
    train = Program(
        "train",
        lambda: lower(update, mesh, state, sets, batch),
        settings.batch_size,
        settings.batch_size * lseg_flops.training_step(model, side, labels),
        _held(state),
    )
    seen, _ = _images(mesh.size, (side, side), mesh)
    variables = state_dicts.unflatten(flat)
    asked = _struct((labels, features), everywhere)
    predict = Program(
        "inference",
        lambda: _lower_inference(
            lambda variables, images, asked: lseg_inference.logits(model, variables, images, asked),
            mesh,
            variables,
            seen,
            asked,
        ),
        mesh.size,
        mesh.size * lseg_flops.inference(model, side, side, labels),
        _held(flat),
    )
    return [train, predict]


def _lower_inference(function: Callable[..., Any], mesh: Mesh, *arguments: Structs) -> jax.stages.Lowered:
    with sharding.using(mesh):
        return jax.jit(function, out_shardings=sharding.batch_sharding(mesh)).lower(*arguments)


def _struct(shape: tuple[int, ...], where: NamedSharding, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _parameters(shapes: dict[str, tuple[int, ...]], mesh: Mesh) -> dict[str, Any]:
    return {
        name: _struct(shape, NamedSharding(mesh, sharding.partition(name, shape, mesh)))
        for name, shape in shapes.items()
    }


def _placed(tree: Structs, mesh: Mesh) -> Structs:
    """Shapes with the shardings that `vlseg.sharding.place` gives to arrays."""
    return jax.tree.map(
        lambda leaf, where: _struct(leaf.shape, where, leaf.dtype), tree, sharding.shardings(tree, mesh)
    )


def _zeros(tree: Structs) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _images(batch: int, size: tuple[int, int], mesh: Mesh) -> tuple[Structs, Structs]:
    """A batch of images and one of label maps."""
    where = sharding.batch_sharding(mesh)
    return _struct((batch, *size, 3), where, jnp.uint8), _struct((batch, *size), where, jnp.int32)


def _held(tree: Structs) -> float:
    """Bytes of a tree on one chip."""
    leaves = jax.tree.leaves(tree)
    return float(sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves))
