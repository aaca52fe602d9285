"""The objective of IFSeg: cross entropy of image tokens against a label map (Sec. 2.2-2.3, Eq. 15), and one update.

One set of settings, one loss, one optimizer; the modes differ in where the image tokens come from. By default the
frozen parts are the image trunk, its projection and the word embeddings, so image-free steps need neither trunk nor
word table.
"""

import abc
import dataclasses
import functools
import re
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ifseg_jax import checkpoint, flops
from ifseg_jax.artificial import artificial_batch
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import scaled
from ifseg_jax.ofa import OFA
from ifseg_jax.prompt import WordEmbeddings, WordIds, embed_ids
from ifseg_jax.settings import WITHOUT_EFFECT, Adaptation
from vlseg import sharding
from vlseg.checkpoints import rules
from vlseg.data.examples import IGNORED
from vlseg.errors import ConfigError
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training import optimizers
from vlseg.training.program import Task

TRUNK = re.compile(r"params/encoder/(resnet|efficientnet|image_projection)/")
TRUNK_NORMS = re.compile(r"params/encoder/(resnet|efficientnet)/.*bn\d?/")
EMBEDDINGS = re.compile(r"params/(word_embedding|category_embedding)/")
WORD_TABLE = "params/word_embedding/table"
UNUSED = re.compile(
    r"params/decoder/(word_positions|image_positions|word_position_norm|image_position_norm|code_embedding_norm"
    r"|layers/token_table)"
)
"""Decoder parameters that spatially conditioned decoding never reads; they get no update, not even weight decay."""

UNREAD_IMAGES = re.compile(r"params/decoder/layers/image_table")
"""What it does not read besides with the segmentation positions of the official code."""

UNREAD_CELLS = re.compile(r"params/decoder/(layers/cell_table|cell_positions|cell_position_norm)")
"""The same with the encoder's image positions, as the paper has it."""

OFFICIAL = Adaptation()
"""The official settings."""

State = dict[str, Any]
Variables = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def split(variables: Any, config: OFAConfig, settings: Adaptation = OFFICIAL) -> tuple[Variables, Variables]:
    """Variables as (trained, kept), both flat: "params/..." -> array. What is frozen is what the settings say."""
    flat = rules.flatten(variables)
    read_by_none = UNREAD_CELLS if config.decoder_positions == "encoder_image" else UNREAD_IMAGES
    patterns = [UNUSED, read_by_none]
    if settings.freeze_entire_resnet:
        patterns.append(TRUNK)
    if settings.freeze_resnet:
        patterns.append(TRUNK_NORMS)
    if settings.freeze_embedding:
        patterns.append(EMBEDDINGS)

    def is_kept(name: str) -> bool:
        return not name.startswith("params/") or any(pattern.match(name) for pattern in patterns)

    kept = {name: value for name, value in flat.items() if is_kept(name)}
    return {name: value for name, value in flat.items() if name not in kept}, kept


def optimizer(settings: Adaptation) -> optax.GradientTransformation:
    """AdamW under a cosine, as fairseq has it."""
    schedule = optimizers.learning_rate_schedule(settings.learning_rate, settings.steps, settings.warmup_steps)
    return optimizers.adamw(
        schedule,
        b1=settings.b1,
        b2=settings.b2,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )


def initial_state(trained: Variables, settings: Adaptation) -> State:
    """What an update changes. Updates give the buffers of their state away, so `trained` is lost with it."""
    return {"params": trained, "optimizer": optimizers.initial_state(optimizer(settings), trained)}


def joined(state: State, frozen: Variables) -> Variables:
    """All variables, flat, from a state (or its part without the optimizer's) and the frozen ones."""
    return {**frozen, **state["params"], **state.get("batch_stats", {})}


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
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross entropy of upsampled logits of image tokens against targets; `count` as in `upsampled_cross_entropy`.

    Targets on the token grid are compared with the logits as they are.
    """
    model: Any = OFA(config)
    logits = model.apply(
        variables,
        sharding.batch_sharded(examples.cells),
        words.projected,
        words.prompt,
        words.bos,
        method=OFA.segment,
        deterministic=False,
        rngs={"dropout": key},
    )
    return upsampled_cross_entropy(
        logits,
        examples.targets,
        ignore_label=IGNORED,
        row_block=row_block,
        label_smoothing=label_smoothing,
        count=count,
    )


@dataclasses.dataclass(frozen=True)
class Adapting(Task):
    """What the two ways of training share.

    Attributes:
        config, settings: of model and optimization.
        categories: M, their number. words: T, tokens of the prompt. longest: most sub-words of a category.
    """

    config: OFAConfig
    settings: Adaptation
    categories: int
    words: int
    longest: int = 1

    mode: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Adaptation):
            value = getattr(self.settings, field.name)
            if field.name in WITHOUT_EFFECT[self.mode] and value != field.default:
                raise ConfigError(f"{field.name}={value} has no effect in {self.mode} training: leave it out")

    @property
    def loss_config(self) -> OFAConfig:
        """The model's configuration in the loss."""
        return self.config

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads."""
        return (self.config.heads,)

    def summary(self) -> dict[str, Any]:
        """See `Task.summary`."""
        return {"learning_rate": self.settings.learning_rate}

    @property
    def side(self) -> int:
        """Of the training images, in pixels."""
        return self.settings.side(self.config)

    @staticmethod
    @abc.abstractmethod
    def needs(name: str) -> bool:
        """Whether an update needs a frozen parameter."""

    def split(self, variables: Any) -> tuple[State, Variables, Variables]:
        """The initial state, the frozen variables that an update needs, and all of them."""
        trained, frozen = split(variables, self.config, self.settings)
        state = initial_state(trained, self.settings)
        if self.settings.trains_norms:
            state["batch_stats"] = {name: value for name, value in frozen.items() if name.startswith("batch_stats/")}
            frozen = {name: value for name, value in frozen.items() if name not in state["batch_stats"]}
        return state, {n: v for n, v in frozen.items() if self.needs(n)}, frozen

    def text(self, words: WordEmbeddings, ids: WordIds) -> WordEmbeddings | WordIds:
        """The part "words" of the constants: ids if the word table is trained, so that it is looked up in an update."""
        return words if self.settings.freeze_embedding else ids

    def state(self) -> State:
        return self._abstract()[0]

    def constants(self) -> dict[str, Any]:
        """See `Task.constants`: {"frozen": flat, "words": of `text`}."""
        shape = jax.ShapeDtypeStruct
        ids = WordIds(shape((self.categories, self.longest), jnp.int32), shape((self.words,), jnp.int32))
        return {"frozen": self._abstract()[1], "words": self.text(self.embeddings(), ids)}

    def embeddings(self) -> WordEmbeddings:
        """Shapes of the embeddings of categories and prompt."""
        rows, width = self.categories, self.config.width
        sizes = [(rows, width), (1, self.words, width), (width,)]
        if self.config.category_rows:
            sizes.append((rows, width))
        shapes_of: list[Any] = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
        return WordEmbeddings(*shapes_of)

    def _abstract(self) -> tuple[State, Variables, Variables]:
        sizes = checkpoint.parameter_shapes(self.config)
        flat = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}
        return jax.eval_shape(self.split, rules.unflatten(flat))

    @abc.abstractmethod
    def examples(self, variables: Any, words: WordEmbeddings, batch: Any) -> tuple[Examples, Variables]:
        """What the loss compares in a part of a batch, and changed batch statistics."""

    def _words(self, text: WordEmbeddings | WordIds, params: Variables) -> WordEmbeddings:
        if isinstance(text, WordEmbeddings):
            return text
        return embed_ids(params[WORD_TABLE], text)._replace(projection=params[checkpoint.CATEGORY_TABLE])

    def _loss(self, batch: Any, words: WordEmbeddings, variables: Any, key: jax.Array, count: jax.Array) -> Any:
        examples, changed = self.examples(variables, words, batch)
        settings, config = self.settings, self.loss_config
        smoothing = settings.label_smoothing
        value = segmentation_loss(config, variables, words, examples, key, settings.row_block, count, smoothing)
        return value, changed

    def _update(
        self, state: State, constants: Any, batch: Any, targets: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[State, Metrics]:
        """An update by the loss of a batch: arrays [B, ...], whose `targets` are int32."""
        settings, frozen = self.settings, constants["frozen"]
        count = counted_pixels(targets, self.categories, IGNORED)

        def loss(params: Any, statistics: Any, part: Any, number: jax.Array) -> tuple[jax.Array, Any]:
            variables = rules.unflatten({**frozen, **statistics, **params})
            part_key = jax.random.fold_in(key, number) if settings.accumulation_steps > 1 else key
            words = self._words(constants["words"], params)
            value, changed = self._loss(part, words, variables, part_key, count)
            return value, {**statistics, **changed}

        parts, statistics = settings.accumulation_steps, state.get("batch_stats", {})
        value, statistics, gradients = optimizers.value_and_gradient(
            loss, state["params"], statistics, (batch, targets), parts
        )
        gradients = self._live(gradients, step)
        updates, optimizer_state = optimizer(settings).update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], self._live(updates, step))
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        changed = {"batch_stats": statistics} if "batch_stats" in state else {}
        return {"params": params, "optimizer": optimizer_state, **changed}, metrics

    def _live(self, updates: Variables, step: jax.Array) -> Variables:
        """Updates, or gradients, without those of embeddings that are frozen by now."""
        last = self.settings.freeze_embedding_iter
        if last < 0:
            return updates
        return {
            name: jnp.where(step < last, update, 0) if EMBEDDINGS.match(name) else update
            for name, update in updates.items()
        }


class ImageFree(Adapting):
    """Training on artificial images (Sec. 2.3, Eq. 16-17), which are drawn within the update."""

    mode = "image_free"

    @staticmethod
    def needs(name: str) -> bool:
        """Neither trunk nor embeddings."""
        return name.startswith("params/") and not TRUNK.match(name) and not EMBEDDINGS.match(name)

    @property
    def flops(self) -> float:
        """Of an update."""
        return self.batch_size * flops.image_free_step(self.config, self.side, self.words, self.categories)

    @property
    def loss_config(self) -> OFAConfig:
        """The model's configuration in the loss."""
        return self.config.artificial

    def batch(self) -> None:
        """There is none."""

    def examples(self, variables: Any, words: WordEmbeddings, batch: Any) -> tuple[Examples, Variables]:
        grids, targets = batch
        return Examples(words.categories[grids], targets), {}

    def update(self, state: State, constants: Any, batch: None, step: jax.Array) -> tuple[State, Metrics]:
        del batch
        settings = self.settings
        map_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), step))
        grid, kind = self.side // self.config.stride, settings.artificial_image_type
        drawn = artificial_batch(map_key, settings.batch_size, self.categories, grid, self.side, kind)
        grids, targets = map(sharding.batch_sharded, drawn)
        return self._update(state, constants, grids, targets, dropout_key, step)


class Supervised(Adapting):
    """Training on real images uint8 [B, S, S, 3] and targets int32 [B, S, S], -1 where a pixel does not count."""

    mode = "supervised"

    @staticmethod
    def needs(name: str) -> bool:
        """All but the embeddings."""
        return not EMBEDDINGS.match(name)

    @property
    def flops(self) -> float:
        """Of an update."""
        frozen = self.settings.freeze_entire_resnet
        return self.batch_size * flops.supervised_step(self.config, self.side, self.words, self.categories, frozen)

    def batch(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        size = self.batch_size, self.side, self.side
        return jax.ShapeDtypeStruct((*size, 3), jnp.uint8), jax.ShapeDtypeStruct(size, jnp.int32)

    def examples(self, variables: Any, words: WordEmbeddings, batch: Any) -> tuple[Examples, Variables]:
        images, targets = batch
        model: Any = OFA(self.config)
        features = functools.partial(model.apply, variables, scaled(images), method=OFA.image_features)
        if not self.settings.trains_norms:
            return Examples(model.apply(variables, features(), method=OFA.image_embeddings), targets), {}
        found, changed = features(train=True, mutable=["batch_stats"])
        return Examples(model.apply(variables, found, method=OFA.image_embeddings), targets), rules.flatten(changed)

    def update(self, state: State, constants: Any, batch: Any, step: jax.Array) -> tuple[State, Metrics]:
        images, targets = batch
        if not self.settings.upscale_lprobs:
            targets = targets[:, :: self.config.stride, :: self.config.stride]
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
        return self._update(state, constants, images, targets, key, step)


TASKS: dict[str, type[Adapting]] = {kind.mode: kind for kind in (ImageFree, Supervised)}
"""By `config.mode`."""
