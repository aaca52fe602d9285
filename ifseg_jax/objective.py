"""The objective of IFSeg: cross entropy of image tokens against a label map (Sec. 2.2-2.3, Eq. 15), and one update.

One set of settings, one loss, one optimizer; the modes differ in where the image tokens come from. The frozen parts
are the image trunk, its projection and the word embeddings, so image-free steps need neither trunk nor word table.
"""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ifseg_jax import checkpoint, flops
from ifseg_jax.artificial import artificial_batch
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import scaled
from ifseg_jax.ofa import OFA
from ifseg_jax.prompt import WordEmbeddings
from ifseg_jax.settings import Adaptation
from vlseg import sharding
from vlseg.checkpoints import rules
from vlseg.data.examples import IGNORED
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training import optimizers
from vlseg.training.program import Task

FROZEN = re.compile(r"params/(encoder/(resnet|image_projection)|word_embedding)/")
UNUSED = re.compile(
    r"params/decoder/(word_positions|image_positions|word_position_norm|image_position_norm|code_embedding_norm"
    r"|layers/token_table)"
)
"""Decoder parameters that spatially conditioned decoding never reads; they get no update, not even weight decay."""

State = dict[str, Any]
Variables = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def split(variables: Any, config: OFAConfig) -> tuple[Variables, Variables]:
    """Variables as (trained, kept), both flat: "params/..." -> array."""
    flat = rules.flatten(variables)
    table = "cell" if config.decoder_positions == "encoder_image" else "image"
    unused = re.compile(rf"params/decoder/layers/{table}_table")

    def is_kept(name: str) -> bool:
        patterns = (FROZEN, UNUSED, unused)
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


@dataclasses.dataclass(frozen=True)
class Adapting(Task):
    """What the two ways of training share.

    Attributes:
        config, settings: of model and optimization.
        categories: M, their number. words: T, tokens of the prompt.
    """

    config: OFAConfig
    settings: Adaptation
    categories: int
    words: int

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads."""
        return (self.config.heads,)

    def summary(self) -> dict[str, Any]:
        """See `Task.summary`; image-free training has no epochs."""
        settings = self.settings
        return {
            "learning_rate": settings.learning_rate,
            "images_per_update": self.batch_size,
            "steps": settings.steps,
        }

    @property
    def side(self) -> int:
        """Of the training images, in pixels."""
        return self.settings.side(self.config)

    @staticmethod
    def needs(name: str) -> bool:
        """Whether an update needs a frozen parameter."""
        raise NotImplementedError

    def split(self, variables: Any) -> tuple[State, Variables, Variables]:
        """The initial state, the frozen variables that an update needs, and all of them."""
        trained, frozen = split(variables, self.config)
        return initial_state(trained, self.settings), {n: v for n, v in frozen.items() if self.needs(n)}, frozen

    def state(self) -> State:
        return self._abstract()[0]

    def constants(self) -> dict[str, Any]:
        """See `Task.constants`: {"frozen": flat, "words": WordEmbeddings}."""
        width = self.config.width
        sizes = ((self.categories, width), (1, self.words, width), (width,))
        shapes_of: list[Any] = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
        embeddings = WordEmbeddings(*shapes_of)
        return {"frozen": self._abstract()[1], "words": embeddings}

    def _abstract(self) -> tuple[State, Variables, Variables]:
        sizes = checkpoint.parameter_shapes(self.config)
        flat = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}
        return jax.eval_shape(self.split, rules.unflatten(flat))

    def _update(self, state: State, constants: Any, examples: Examples, key: jax.Array) -> tuple[State, Metrics]:
        settings, words = self.settings, constants["words"]
        count = counted_pixels(examples.targets, words.categories.shape[0], IGNORED)

        def loss(params: Any, _: None, part: Examples, number: jax.Array) -> tuple[jax.Array, None]:
            variables = rules.unflatten({**constants["frozen"], **params})
            part_key = jax.random.fold_in(key, number) if settings.accumulation_steps > 1 else key
            value = segmentation_loss(self.config, variables, words, part, part_key, settings.row_block, count)
            return value, None

        parts = settings.accumulation_steps
        value, _, gradients = optimizers.value_and_gradient(loss, state["params"], None, examples, parts)
        updates, optimizer_state = optimizer(settings).update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return {"params": params, "optimizer": optimizer_state}, metrics


class ImageFree(Adapting):
    """Training on artificial images (Sec. 2.3, Eq. 16-17), which are drawn within the update."""

    @staticmethod
    def needs(name: str) -> bool:
        """Neither trunk nor word table."""
        return name.startswith("params/") and not FROZEN.match(name)

    @property
    def flops(self) -> float:
        """Of an update."""
        return self.batch_size * flops.image_free_step(self.config, self.side, self.words, self.categories)

    def batch(self) -> None:
        """There is none."""

    def update(self, state: State, constants: Any, batch: None, step: jax.Array) -> tuple[State, Metrics]:
        del batch
        settings, categories = self.settings, constants["words"].categories
        map_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), step))
        grid = self.side // self.config.stride
        drawn = artificial_batch(map_key, settings.batch_size, categories.shape[0], grid, self.side, settings.max_side)
        grids, targets = map(sharding.batch_sharded, drawn)
        return self._update(state, constants, Examples(categories[grids], targets), dropout_key)


class Supervised(Adapting):
    """Training on real images uint8 [B, S, S, 3] and targets int32 [B, S, S], -1 where a pixel does not count."""

    @staticmethod
    def needs(name: str) -> bool:
        """All but the word table."""
        return "word_embedding" not in name

    @property
    def flops(self) -> float:
        """Of an update."""
        return self.batch_size * flops.supervised_step(self.config, self.side, self.words, self.categories)

    def batch(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        size = self.batch_size, self.side, self.side
        return jax.ShapeDtypeStruct((*size, 3), jnp.uint8), jax.ShapeDtypeStruct(size, jnp.int32)

    def update(self, state: State, constants: Any, batch: Any, step: jax.Array) -> tuple[State, Metrics]:
        images, targets = batch
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
        model: Any = OFA(self.config)
        whole = rules.unflatten({**constants["frozen"], **state["params"]})
        features = model.apply(whole, scaled(images), method=OFA.image_features)
        tokens = model.apply(whole, features, method=OFA.image_embeddings)
        return self._update(state, constants, Examples(tokens, targets), key)


TASKS: dict[str, type[Adapting]] = {"image_free": ImageFree, "supervised": Supervised}
"""By `config.mode`."""
