"""Training OFA to segment: image-free on artificial images, or supervised on real ones (IFSeg, Sec. 2.2-2.3).

One set of settings, one loss, one optimizer; the modes differ in where the image tokens come from. The frozen parts
are the image trunk, its projection and the word embeddings, so image-free steps need neither trunk nor word table.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from ifseg_jax.artificial import artificial_batch
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import WordEmbeddings, scaled
from ifseg_jax.model import IFSeg
from ifseg_jax.ofa import OFA
from vlseg import sharding, state_dicts
from vlseg.errors import ConfigError
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training import accumulation, optimizers
from vlseg.training.compilation import compile_step

FROZEN = re.compile(r"params/(encoder/(resnet|image_projection)|word_embedding)/")
UNUSED = re.compile(
    r"params/decoder/(word_positions|image_positions|word_position_norm|image_position_norm|code_embedding_norm"
    r"|layers/token_table)"
)
"""Decoder parameters that spatially conditioned decoding never reads; they get no update, not even weight decay."""

IGNORED = -1
"""Target of pixels that do not count, whatever the data set's own label for them: 255 may be a category."""

State = dict[str, Any]
Variables = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Optimization settings; the defaults are the official ones (alinlab/ifseg).

    steps, batch_size, learning_rate: cosine decay to 0 over the steps, no warm-up.
    accumulation_steps: parts of a batch that are computed one after another, which takes less memory.
    b1, b2, epsilon, weight_decay, clip_norm: AdamW with a global-norm clip.
    image_size: side of the training images in pixels; the target has this size, the grid image_size / stride cells.
    max_side: S, the largest side of an artificial word map.
    row_block: rows of pixels that the loss handles at a time.
    seed: of everything random.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 5e-5
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    image_size: int | None = None
    max_side: int = 32
    row_block: int = 16
    accumulation_steps: int = 1
    seed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Adaptation":
        """Settings by name.

        Raises:
            ConfigError: a name that does not exist, or a number of steps, images or cells below 1.
        """
        try:
            settings = cls(**values)
        except TypeError as error:
            raise ConfigError(f"adaptation: {error}") from error
        for name in ("steps", "batch_size", "max_side", "row_block", "accumulation_steps"):
            value = getattr(settings, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"adaptation.{name} is {value}; it must be 1 or more")
        if settings.batch_size % settings.accumulation_steps:
            raise ConfigError(
                f"adaptation.accumulation_steps {settings.accumulation_steps} does not divide the batch of "
                f"{settings.batch_size}"
            )
        for name in ("seed", "learning_rate", "warmup_steps", "weight_decay"):
            if getattr(settings, name) < 0:
                raise ConfigError(f"adaptation.{name} is {getattr(settings, name)}; it must not be negative")
        return settings

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of these settings."""
        schedule = optimizers.learning_rate_schedule(self.learning_rate, self.steps, self.warmup_steps)
        return optimizers.adamw(
            schedule,
            b1=self.b1,
            b2=self.b2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )

    def side(self, config: OFAConfig) -> int:
        """Side of the training images in pixels: `image_size`, or the size that the model was trained at."""
        side = self.image_size or config.image_grid * config.stride
        if side % config.stride:
            raise ConfigError(f"image_size {side} is not a multiple of {config.stride}, the pixels per token")
        return side


def split(variables: Any, config: OFAConfig) -> tuple[Variables, Variables]:
    """Variables as (trained, kept), both flat: "params/..." -> array."""
    flat = state_dicts.flatten(variables)
    table = "cell" if config.decoder_positions == "encoder_image" else "image"
    unused = re.compile(rf"params/decoder/layers/{table}_table")

    def is_kept(name: str) -> bool:
        patterns = (FROZEN, UNUSED, unused)
        return not name.startswith("params/") or any(pattern.match(name) for pattern in patterns)

    kept = {name: value for name, value in flat.items() if is_kept(name)}
    return {name: value for name, value in flat.items() if name not in kept}, kept


def initial_state(trained: Variables, optimizer: optax.GradientTransformation, *, copy: bool = True) -> State:
    """What a training step changes.

    Steps give the buffers of their state away, so the arrays are copied unless the caller needs `trained` no more.
    """
    params = jax.tree.map(jnp.copy, trained) if copy else trained
    return {"params": params, "optimizer": optimizer.init(params)}


class Examples(NamedTuple):
    """What the loss compares. cells: image tokens [B, h, w, D]. targets: int32 [B, H, W], IGNORED does not count."""

    cells: jax.Array
    targets: jax.Array


def segmentation_loss(
    config: OFAConfig,
    variables: Any,
    words: WordEmbeddings,
    examples: Examples,
    key: jax.Array,
    row_block: int,
    count: jax.Array | None = None,
) -> jax.Array:
    """Cross entropy of upsampled logits of image tokens against targets; `count` as in `upsampled_cross_entropy`."""
    model: Any = OFA(config)
    logits = model.apply(
        variables,
        sharding.batch_sharded(examples.cells),
        words.categories,
        words.prompt,
        words.bos,
        method=OFA.segment,
        deterministic=False,
        rngs={"dropout": key},
    )
    return upsampled_cross_entropy(logits, examples.targets, ignore_label=IGNORED, row_block=row_block, count=count)


def _update(
    config: OFAConfig,
    settings: Adaptation,
    state: State,
    constant: Variables,
    words: WordEmbeddings,
    examples: Examples,
    key: jax.Array,
) -> tuple[State, Metrics]:
    """One step of the optimizer; `constant` are the variables that the loss needs besides the state's."""
    count = counted_pixels(examples.targets, words.categories.shape[0], IGNORED)

    def loss(params: Any, _: None, part: Examples, number: jax.Array) -> tuple[jax.Array, None]:
        variables = state_dicts.unflatten({**constant, **params})
        part_key = jax.random.fold_in(key, number) if settings.accumulation_steps > 1 else key
        return segmentation_loss(config, variables, words, part, part_key, settings.row_block, count), None

    parts = settings.accumulation_steps
    value, _, gradients = accumulation.value_and_gradient(loss, state["params"], None, examples, parts)
    updates, optimizer_state = settings.optimizer().update(gradients, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
    return {"params": params, "optimizer": optimizer_state}, metrics


def image_free_update(config: OFAConfig, settings: Adaptation) -> Callable[..., tuple[State, Metrics]]:
    """The pure function (state, constant, words, number) -> (state, metrics) of `image_free_step`."""
    side = settings.side(config)

    def update(state: State, constant: Variables, words: WordEmbeddings, number: jax.Array) -> tuple[State, Metrics]:
        map_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), number))
        categories = words.categories.shape[0]
        batch = artificial_batch(
            map_key, settings.batch_size, categories, side // config.stride, side, settings.max_side
        )
        grids, targets = map(sharding.batch_sharded, batch)
        examples = Examples(words.categories[grids], targets)
        return _update(config, settings, state, constant, words, examples, dropout_key)

    return update


def image_free_constants(kept: Variables) -> Variables:
    """What image-free steps need of the frozen variables: neither trunk nor word table."""
    return {name: value for name, value in kept.items() if not FROZEN.match(name) and name.startswith("params/")}


def image_free_step(
    config: OFAConfig, settings: Adaptation, words: WordEmbeddings, kept: Variables, mesh: Mesh | None = None
) -> Callable[[State, int], tuple[State, Metrics]]:
    """The jitted step (state, number) -> (state, metrics) on artificial images.

    Step n depends on the state, the seed and n alone. The state's buffers are donated.

    Args:
        config, settings: of model and optimization.
        words: embeddings of the categories.
        kept: the frozen part of the variables, from `split`; trunk and word table are not used.
        mesh: over which the state is spread, see `vlseg.sharding`.
    """
    constant = sharding.place(image_free_constants(kept), mesh)
    words = sharding.copy_everywhere(words, mesh)
    step = compile_step(image_free_update(config, settings), mesh)
    return lambda state, number: step(state, constant, words, np.int32(number))


def supervised_update(config: OFAConfig, settings: Adaptation) -> Callable[..., tuple[State, Metrics]]:
    """The pure function (state, frozen, words, images, targets, number) -> (state, metrics) of `supervised_step`."""

    def update(
        state: State, frozen: Any, words: WordEmbeddings, images: jax.Array, targets: jax.Array, number: jax.Array
    ) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        model: Any = OFA(config)
        whole = state_dicts.unflatten({**frozen, **state["params"]})
        features = model.apply(whole, scaled(images), method=OFA.image_features)
        cells = model.apply(whole, features, method=OFA.image_embeddings)
        return _update(config, settings, state, frozen, words, Examples(cells, targets), key)

    return update


def supervised_constants(kept: Variables) -> Variables:
    """What supervised steps need of the frozen variables: all but the word table."""
    return {name: value for name, value in kept.items() if "word_embedding" not in name}


def supervised_step(
    config: OFAConfig,
    settings: Adaptation,
    words: WordEmbeddings,
    kept: Variables,
    batches: Callable[[int], tuple[Any, Any]],
    mesh: Mesh | None = None,
) -> Callable[[State, int], tuple[State, Metrics]]:
    """The step (state, number) -> (state, metrics) on real images.

    Args:
        config, settings, words, mesh: as for `image_free_step`.
        kept: the frozen part of the variables, from `split`.
        batches: number -> this process's rows of (images uint8 [B, H, W, 3], targets int [B, H, W], -1 where ignored),
            a pure function of the number.
    """
    frozen = sharding.place(supervised_constants(kept), mesh)
    words = sharding.copy_everywhere(words, mesh)
    step = compile_step(supervised_update(config, settings), mesh)

    def run(state: State, number: int) -> tuple[State, Metrics]:
        images, targets = sharding.place_batch(batches(number), mesh, settings.batch_size)
        return step(state, frozen, words, images, targets, np.int32(number))

    return run


def adapted(model: IFSeg, categories: tuple[str, ...], state: State, kept: Variables) -> IFSeg:
    """The model with the trained parameters of `state`, for these categories."""
    carried = {name: tensor for name, tensor in model.carried.items() if ".seg_" not in name}
    variables = state_dicts.unflatten({**kept, **state["params"]})
    return dataclasses.replace(model, variables=variables, categories=categories, carried=carried, fresh=())


def adapt(model: IFSeg, categories: Sequence[str], settings: Adaptation, *, progress: bool | None = None) -> IFSeg:
    """Image-free training in memory; see `IFSeg.adapt`. `progress` None shows a bar on terminals only."""
    names = model.words(categories).names
    words = model.word_embeddings(categories)
    trained, kept = split(model.variables, model.config)
    state = initial_state(trained, settings.optimizer())
    step = image_free_step(model.config, settings, words, kept)
    hidden = not sys.stderr.isatty() if progress is None else not progress
    for number in tqdm(range(settings.steps), desc="adapt", unit="step", disable=hidden):
        state, _ = step(state, number)
    return adapted(model, names, state, kept)
