"""The objective of LSeg and one update.

The text encoder is frozen; everything else learns to put pixels near the words of their labels. The loss is the cross
entropy over the labels of a pixel's label set (Li et al. 2022, Eq. 2). Label sets may differ by example, which covers
mixtures of data sets and the pairs "others" and a class of the zero-shot experiments; their embeddings are computed
once and looked up in the step.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lseg_jax import checkpoint, flops
from lseg_jax.config import LSegConfig
from lseg_jax.inference import normalize
from lseg_jax.lseg import LOGIT_SCALE, LSegNet
from lseg_jax.settings import Training
from vlseg.checkpoints import rules
from vlseg.data.examples import IGNORED
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training import optimizers
from vlseg.training.program import Task

FROZEN = "params/text/"
DECODER = re.compile(r"params/(decoder|projection|block)/")
"""What the official code calls "scratch" and trains at a higher rate."""

MASKED = -1e9
"""Logit of labels that fill up a smaller label set."""

State = dict[str, Any]
Metrics = dict[str, jax.Array]
Variables = dict[str, Any]


class Batch(NamedTuple):
    """Training examples, on the host or on devices.

    images: uint8 [B, S, S, 3]. targets: int32 [B, S, S], indices into the example's label set, IGNORED elsewhere.
    sets: int32 [B], the label set of each example.
    """

    images: Any
    targets: Any
    sets: Any


class LabelSets(NamedTuple):
    """Label sets of different sizes in one array.

    embeddings: float32 [S, N, C], sets of fewer labels filled up with their first. valid: bool [S, N].
    """

    embeddings: Any
    valid: Any


def label_sets(embeddings: Sequence[jax.Array]) -> LabelSets:
    """Puts label sets, each float32 [N_s, C], into one array."""
    most = max(len(labels) for labels in embeddings)
    # A label that is there twice changes no maximum over labels, which bottleneck blocks take.
    filled = [jnp.concatenate([labels, jnp.repeat(labels[:1], most - len(labels), axis=0)]) for labels in embeddings]
    valid = np.stack([np.arange(most) < len(labels) for labels in embeddings])
    return LabelSets(jnp.stack(filled), jnp.asarray(valid))


def split(variables: Any) -> tuple[State, Variables]:
    """Variables as what training changes ({"params", "batch_stats"}, both flat) and the frozen rest, flat."""
    flat = rules.flatten(variables)
    frozen = {name: value for name, value in flat.items() if name.startswith(FROZEN)}
    trained = {name: value for name, value in flat.items() if name not in frozen}
    params = {name: value for name, value in trained.items() if name.startswith("params/")}
    return {"params": params, "batch_stats": {k: v for k, v in trained.items() if k not in params}}, frozen


def joined(state: State, frozen: Variables) -> Variables:
    """The inverse of `split`, nested."""
    return rules.unflatten({**frozen, **state["params"], **state["batch_stats"]})


def loss(
    config: LSegConfig,
    variables: Any,
    images: jax.Array,
    targets: jax.Array,
    labels: LabelSets,
    row_block: int = 16,
    margin: float = 0.0,
    count: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """Cross entropy of a batch, and the new batch statistics.

    Args:
        config, variables: of the model; the text encoder's are not used.
        images: uint8 or normalised [B, H, W, 3].
        targets: int32 [B, H, W], IGNORED where a pixel does not count.
        labels: the examples' own: [B, N, C] and [B, N].
        row_block: rows of pixels at a time. margin: see `Training`. count: as in `upsampled_cross_entropy`.

    Returns:
        float32 scalar, mean over the pixels that count; and the collection "batch_stats".
    """
    model: Any = LSegNet(config)

    def cells(model: LSegNet) -> jax.Array:
        return model.image_cells(normalize(config, images), labels.embeddings, train=True)

    logits, changed = model.apply(variables, method=cells, mutable=["batch_stats"])
    logits = jnp.where(labels.valid[:, None, None], logits, MASKED)
    value = upsampled_cross_entropy(
        logits,
        targets,
        ignore_label=IGNORED,
        row_block=row_block,
        align_corners=True,
        margin=margin * LOGIT_SCALE,
        count=count,
    )
    return value, changed["batch_stats"]


def optimizer(settings: Training, examples: int) -> optax.GradientTransformation:
    """The optimizer of a run on so many examples."""
    steps = settings.scheduled_steps(examples)
    hold = settings.steps_per_epoch(examples) if settings.decay == "epoch" else 1
    schedule = optimizers.poly_schedule(
        settings.encoder_rate, steps, settings.power, hold=hold, warmup_steps=settings.warmup_steps
    )
    if settings.optimizer == "sgd":
        update = optimizers.sgd(schedule, momentum=settings.b1, weight_decay=settings.weight_decay)
    else:
        decay = {"b1": settings.b1, "b2": settings.b2, "weight_decay": settings.weight_decay}
        update = optimizers.adamw(schedule, **decay, clip_norm=None)
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []

    def factor(name: str) -> float:
        return settings.decoder_factor if DECODER.match(name) else 1.0

    return optax.chain(*clip, update, optimizers.scale_by_name(factor))


@dataclasses.dataclass(frozen=True)
class Matching(Task):
    """Training pixels to match the embedding of their label.

    Attributes:
        config, settings: of model and optimization.
        examples: of an epoch. sets, labels: number of label sets, and labels in the largest.
    """

    config: LSegConfig
    settings: Training
    examples: int
    sets: int
    labels: int

    @property
    def heads(self) -> tuple[int, ...]:
        """Of the image encoder, if it attends."""
        return (self.config.image.heads,) if self.config.image.heads else ()

    @property
    def flops(self) -> float:
        """Of an update."""
        return self.batch_size * flops.training_step(self.config, self.settings.crop_size, self.labels)

    def summary(self) -> dict[str, Any]:
        """See `Task.summary`."""
        settings = self.settings
        steps = settings.total_steps(self.examples)
        return {
            "encoder_learning_rate": settings.encoder_rate,
            "decoder_learning_rate": settings.encoder_rate * settings.decoder_factor,
            "images_per_update": self.batch_size,
            "steps": steps,
            "epochs": steps / settings.steps_per_epoch(self.examples),
        }

    def split(self, variables: Any) -> tuple[State, Variables]:
        """The initial state ({"params", "batch_stats", "optimizer"}), and the frozen variables, flat."""
        state, frozen = split(variables)
        chosen = optimizer(self.settings, self.examples)
        return {**state, "optimizer": optimizers.initial_state(chosen, state["params"])}, frozen

    def state(self) -> State:
        return jax.eval_shape(lambda variables: self.split(variables)[0], checkpoint.abstract_variables(self.config))

    def constants(self) -> LabelSets:
        sizes = self.sets, self.labels
        embeddings = jax.ShapeDtypeStruct((*sizes, self.config.text.features), jnp.float32)
        return LabelSets(embeddings, jax.ShapeDtypeStruct(sizes, jnp.bool_))

    def batch(self) -> Batch:
        size = self.batch_size, self.settings.crop_size, self.settings.crop_size
        sets = jax.ShapeDtypeStruct(size[:1], jnp.int32)
        return Batch(jax.ShapeDtypeStruct((*size, 3), jnp.uint8), jax.ShapeDtypeStruct(size, jnp.int32), sets)

    def update(self, state: State, constants: LabelSets, batch: Batch, step: jax.Array) -> tuple[State, Metrics]:
        """See `Task.update`; nothing in it is random."""
        del step
        settings = self.settings
        labels = constants.embeddings.shape[1]
        pixels = counted_pixels(batch.targets, labels, IGNORED)

        def compute(params: Variables, statistics: Any, part: Batch, _: jax.Array) -> tuple[jax.Array, Any]:
            chosen = LabelSets(constants.embeddings[part.sets], constants.valid[part.sets])
            variables = rules.unflatten({**params, **statistics})
            count = pixels
            if settings.loss_mean == "images":
                count = self.batch_size * counted_pixels(part.targets, labels, IGNORED, axis=(1, 2))
            value, changed = loss(
                self.config, variables, part.images, part.targets, chosen, settings.row_block, settings.margin, count
            )
            return value, rules.flatten({"batch_stats": changed})

        value, statistics, gradients = optimizers.value_and_gradient(
            compute, state["params"], state["batch_stats"], batch, settings.accumulation_steps
        )
        chain = optimizer(settings, self.examples)
        updates, optimizer_state = chain.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return {"params": params, "batch_stats": statistics, "optimizer": optimizer_state}, metrics
