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

TEXT = "params/text/"
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

    embeddings: float32 [S, N, C], sets of fewer labels filled up with their first. valid: bool [S, N]. weights: float32
    [S, N], what a pixel of each label counts, or None where all count alike.
    """

    embeddings: Any
    valid: Any
    weights: Any = None


class Constants(NamedTuple):
    """What an update needs besides state and batch: label sets, and the frozen part of the image encoder, flat."""

    labels: LabelSets
    frozen: Any


def label_sets(embeddings: Sequence[jax.Array], weights: Sequence[np.ndarray] | None = None) -> LabelSets:
    """Puts label sets, each float32 [N_s, C], and their labels' weights, each float32 [N_s], into one array."""
    most = max(len(labels) for labels in embeddings)
    # A label that is there twice changes no maximum over labels, which bottleneck blocks take.
    filled = [jnp.concatenate([labels, jnp.repeat(labels[:1], most - len(labels), axis=0)]) for labels in embeddings]
    valid = np.stack([np.arange(most) < len(labels) for labels in embeddings])
    padded = None if weights is None else np.stack([np.pad(each, (0, most - len(each))) for each in weights])
    return LabelSets(jnp.stack(filled), jnp.asarray(valid), None if padded is None else jnp.asarray(padded))


def balanced_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """What a pixel of each label counts, see `Training.class_balance`: int [N] pixels -> float32 [N].

    Labels without a pixel have no weight.
    """
    shares = counts / max(counts.sum(), 1)
    weights = np.where(counts > 0, np.maximum(shares, np.finfo(np.float32).tiny) ** -power, 0.0)
    return (weights / max(weights @ shares, np.finfo(np.float32).tiny)).astype(np.float32)


def split(variables: Any, frozen_parts: re.Pattern[str] | None = None) -> tuple[State, Variables]:
    """Variables as what training changes ({"params", "batch_stats"}, both flat) and the frozen rest, flat.

    The text encoder is frozen, and what else `frozen_parts` matches, see `ImageEncoder.frozen`.
    """
    flat = rules.flatten(variables)

    def is_frozen(name: str) -> bool:
        # Statistics go with the parameters beside them.
        parameter = name.replace("batch_stats/", "params/", 1)
        return name.startswith(TEXT) or (frozen_parts is not None and frozen_parts.match(parameter) is not None)

    frozen = {name: value for name, value in flat.items() if is_frozen(name)}
    trained = {name: value for name, value in flat.items() if name not in frozen}
    params = {name: value for name, value in trained.items() if name.startswith("params/")}
    return {"params": params, "batch_stats": {k: v for k, v in trained.items() if k not in params}}, frozen


def joined(state: State, frozen: Variables) -> Variables:
    """The inverse of `split`, nested: of the running average, where there is one."""
    return rules.unflatten({**frozen, **state["params"], **state["batch_stats"], **state.get("average", {})})


def loss(
    config: LSegConfig,
    variables: Any,
    images: jax.Array,
    targets: jax.Array,
    labels: LabelSets,
    count: jax.Array | None = None,
    *,
    row_block: int = 16,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    loss_stride: int = 1,
) -> tuple[jax.Array, Any]:
    """Cross entropy of a batch, and the new batch statistics.

    Args:
        config, variables: of the model; the text encoder's are not used.
        images: uint8 or normalised [B, H, W, 3].
        targets: int32 [B, H, W], IGNORED where a pixel does not count.
        labels: the examples' own: [B, N, C], [B, N] and [B, N].
        count: as in `upsampled_cross_entropy`. row_block, margin, label_smoothing, loss_stride: see `Training`.

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
        label_smoothing=label_smoothing,
        count=count,
        weights=labels.weights,
        every=loss_stride,
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
        return self.batch_size * flops.training_step(self.config, *self.settings.view_size, self.labels)

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
        """The initial state ({"params", "batch_stats", "optimizer"} and perhaps "average"), and the rest, flat."""
        levels = self.settings.frozen_levels
        state, frozen = split(variables, self.config.image.frozen(levels) if levels else None)
        chosen = optimizer(self.settings, self.examples)
        if self.settings.average:
            # Copies, for an update takes over the buffers of its state.
            state["average"] = jax.tree.map(jnp.copy, state["params"] | state["batch_stats"])
        return {**state, "optimizer": optimizers.initial_state(chosen, state["params"])}, frozen

    def state(self) -> State:
        return jax.eval_shape(lambda variables: self.split(variables)[0], checkpoint.abstract_variables(self.config))

    def constants(self) -> Constants:
        sizes = self.sets, self.labels
        embeddings = jax.ShapeDtypeStruct((*sizes, self.config.text.features), jnp.float32)
        weights = jax.ShapeDtypeStruct(sizes, jnp.float32) if self.settings.class_balance else None
        labels = LabelSets(embeddings, jax.ShapeDtypeStruct(sizes, jnp.bool_), weights)
        frozen = jax.eval_shape(lambda variables: self.split(variables)[1], checkpoint.abstract_variables(self.config))
        return self.given(labels, frozen)

    @staticmethod
    def given(labels: LabelSets, frozen: Variables) -> Constants:
        """The constants of label sets and all that is frozen: the text encoder's part has done its work."""
        return Constants(labels, {name: value for name, value in frozen.items() if not name.startswith(TEXT)})

    def batch(self) -> Batch:
        size = self.batch_size, *self.settings.view_size
        sets = jax.ShapeDtypeStruct(size[:1], jnp.int32)
        return Batch(jax.ShapeDtypeStruct((*size, 3), jnp.uint8), jax.ShapeDtypeStruct(size, jnp.int32), sets)

    def update(self, state: State, constants: Constants, batch: Batch, step: jax.Array) -> tuple[State, Metrics]:
        """See `Task.update`; nothing in it is random."""
        settings, sets = self.settings, constants.labels
        labels = sets.embeddings.shape[1]
        options = {name: getattr(settings, name) for name in ("row_block", "margin", "label_smoothing", "loss_stride")}

        def chosen(part: Batch) -> LabelSets:
            return LabelSets(*(None if array is None else array[part.sets] for array in sets))

        def counted(part: Batch, axis: tuple[int, ...] | None = None) -> jax.Array:
            weights = chosen(part).weights
            return counted_pixels(part.targets, labels, IGNORED, axis, weights=weights, every=settings.loss_stride)

        pixels = counted(batch)

        def compute(params: Variables, statistics: Any, part: Batch, _: jax.Array) -> tuple[jax.Array, Any]:
            variables = rules.unflatten({**constants.frozen, **params, **statistics})
            count = self.batch_size * counted(part, (1, 2)) if settings.loss_mean == "images" else pixels
            value, changed = loss(self.config, variables, part.images, part.targets, chosen(part), count, **options)
            changed = rules.flatten({"batch_stats": changed})
            return value, {name: changed[name] for name in statistics}

        value, statistics, gradients = optimizers.value_and_gradient(
            compute, state["params"], state["batch_stats"], batch, settings.accumulation_steps
        )
        chain = optimizer(settings, self.examples)
        updates, optimizer_state = chain.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        changed = {"params": params, "batch_stats": statistics, "optimizer": optimizer_state}
        if settings.average:
            decay = jnp.minimum(settings.average, (1 + step) / (10 + step)).astype(jnp.float32)
            latest = params | statistics
            changed["average"] = {
                name: decay * old + (1 - decay) * latest[name] for name, old in state["average"].items()
            }
        return changed, metrics
