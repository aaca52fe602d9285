"""Training LSeg: the text encoder is frozen, everything else learns to put pixels near the words of their labels.

The loss is the cross entropy over the labels of a pixel's label set (Li et al. 2022, Sec. 3.1). Label sets may differ
by example, which covers mixtures of data sets and the pairs "others" and a class of the zero-shot experiments; their
embeddings are computed once and looked up in the step.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lseg_jax.config import LSegConfig
from lseg_jax.inference import normalize
from lseg_jax.lseg import LOGIT_SCALE, LSegNet
from vlseg import sharding, state_dicts
from vlseg.errors import ConfigError
from vlseg.nn.losses import counted_pixels, upsampled_cross_entropy
from vlseg.training import accumulation, optimizers
from vlseg.training.compilation import compile_step

FROZEN = "params/text/"
DECODER = re.compile(r"params/(decoder|projection|block)/")
"""What the official code calls "scratch" and trains at a higher rate."""

IGNORED = -1
"""Target of pixels that do not count, whatever the data set's own label for them: 255 may be a label."""

MASKED = -1e9
"""Logit of labels that fill up a smaller label set."""

OPTIMIZERS = ("sgd", "adamw")

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

    embeddings: jax.Array
    valid: jax.Array


@dataclasses.dataclass(frozen=True)
class Training:
    """Optimization settings; the defaults are the official ones for ADE20K (isl-org/lang-seg).

    epochs: how often every image is seen. steps: instead of epochs, if not None.
    stop_after: epochs after which a run ends although its schedule goes on, if not None.
    batch_size: images per step. accumulation_steps: parts of a batch that are computed one after another, which takes
        less memory; batch norms see a part at a time.
    learning_rate: of the image encoder, for a batch of 16; the actual one is proportional to the batch.
    decoder_factor: the decoder's rate is this times as high.
    optimizer: "sgd" with momentum (b1), or "adamw". weight_decay, b1, b2: theirs.
    power: of the polynomial decay, once an epoch (20 times in a run of fewer epochs). warmup_steps: of linear warm-up.
    clip_norm: bound of the gradients' global norm, 0 for none.
    base_size, crop_size, scale_range: of the random views, see `vlseg.data.transforms.scale_and_crop`.
    margin: what the similarity of a pixel's label is lowered by in the loss, so that pixels come nearer to their own
        label than the softmax alone asks for and other words for it win as well. Of logits after a block likewise.
    row_block: rows of pixels that the loss handles at a time.
    seed: of everything random.
    """

    epochs: int = 240
    steps: int | None = None
    stop_after: int | None = None
    batch_size: int = 16
    accumulation_steps: int = 1
    learning_rate: float = 0.004
    decoder_factor: float = 10.0
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    power: float = 0.9
    warmup_steps: int = 0
    clip_norm: float = 0.0
    base_size: int = 520
    crop_size: int = 480
    scale_range: tuple[float, float] = (0.5, 2.0)
    margin: float = 0.0
    row_block: int = 16
    seed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Training":
        """Settings by name.

        Raises:
            ConfigError: a name that does not exist, or a value that cannot be.
        """
        chosen: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            settings = cls(**chosen)
        except TypeError as error:
            raise ConfigError(f"training: {error}") from error
        counts = ["epochs", "batch_size", "accumulation_steps", "base_size", "crop_size", "row_block"]
        for name in [*counts, *(name for name in ("steps", "stop_after") if getattr(settings, name) is not None)]:
            value = getattr(settings, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"training.{name} is {value}; it must be 1 or more")
        rates = ["learning_rate", "decoder_factor", "weight_decay", "power", "margin", "clip_norm"]
        for name in ("seed", "warmup_steps", *rates):
            if not 0 <= getattr(settings, name) < math.inf:
                raise ConfigError(f"training.{name} is {getattr(settings, name)}; it must be 0 or a positive number")
        for name in ("b1", "b2"):
            if not 0 <= getattr(settings, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(settings, name)}; it must be in [0, 1)")
        if settings.batch_size % settings.accumulation_steps:
            raise ConfigError(
                f"training.accumulation_steps {settings.accumulation_steps} does not divide the batch of "
                f"{settings.batch_size}"
            )
        if settings.crop_size % 32:
            raise ConfigError(f"training.crop_size is {settings.crop_size}; it must be a multiple of 32")
        if len(settings.scale_range) != 2 or not 0 < settings.scale_range[0] <= settings.scale_range[1] < math.inf:
            raise ConfigError(f"training.scale_range is {settings.scale_range}; it must be two rising positive numbers")
        if settings.optimizer not in OPTIMIZERS:
            raise ConfigError(f"training.optimizer {settings.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
        return settings

    def steps_per_epoch(self, examples: int) -> int:
        """Steps until so many examples have been seen."""
        return max(1, -(-examples // self.batch_size))

    def scheduled_steps(self, examples: int) -> int:
        """Steps over which the learning rate falls to zero, on so many examples."""
        return self.steps if self.steps is not None else self.epochs * self.steps_per_epoch(examples)

    def total_steps(self, examples: int) -> int:
        """Steps of a whole run on so many examples."""
        steps = self.scheduled_steps(examples)
        if self.stop_after is not None:
            steps = min(steps, self.stop_after * self.steps_per_epoch(examples))
        return steps

    def make_optimizer(self, examples: int) -> optax.GradientTransformation:
        """The optimizer of a run on so many examples."""
        rate = self.learning_rate * self.batch_size / 16
        steps = self.scheduled_steps(examples)
        hold = min(self.steps_per_epoch(examples), max(1, steps // 20))
        schedule = optimizers.poly_schedule(rate, steps, self.power, hold=hold, warmup_steps=self.warmup_steps)
        if self.optimizer == "sgd":
            update = optimizers.sgd(schedule, momentum=self.b1, weight_decay=self.weight_decay)
        else:
            decay = {"b1": self.b1, "b2": self.b2, "weight_decay": self.weight_decay}
            update = optimizers.adamw(schedule, **decay, clip_norm=None)
        clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        return optax.chain(*clip, update, optimizers.scale_by_name(self._factor))

    def _factor(self, name: str) -> float:
        return self.decoder_factor if DECODER.match(name) else 1.0


def label_sets(embeddings: Sequence[jax.Array]) -> LabelSets:
    """Puts label sets, each float32 [N_s, C], into one array."""
    most = max(len(labels) for labels in embeddings)
    # A label that is there twice changes no maximum over labels, which bottleneck blocks take.
    filled = [jnp.concatenate([labels, jnp.repeat(labels[:1], most - len(labels), axis=0)]) for labels in embeddings]
    valid = np.stack([np.arange(most) < len(labels) for labels in embeddings])
    return LabelSets(jnp.stack(filled), jnp.asarray(valid))


def split(variables: Any) -> tuple[State, Variables]:
    """Variables as what training changes ({"params", "batch_stats"}, both flat) and the frozen rest, flat."""
    flat = state_dicts.flatten(variables)
    frozen = {name: value for name, value in flat.items() if name.startswith(FROZEN)}
    trained = {name: value for name, value in flat.items() if name not in frozen}
    params = {name: value for name, value in trained.items() if name.startswith("params/")}
    return {"params": params, "batch_stats": {k: v for k, v in trained.items() if k not in params}}, frozen


def joined(state: State, frozen: Variables) -> Variables:
    """The inverse of `split`, nested."""
    return state_dicts.unflatten({**frozen, **state["params"], **state["batch_stats"]})


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


def make_update(
    config: LSegConfig, settings: Training, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[State, Metrics]]:
    """The pure function (state, labels, batch) -> (state, metrics) of `make_step`."""

    def update(state: State, labels: LabelSets, batch: Batch) -> tuple[State, Metrics]:
        count = counted_pixels(batch.targets, labels.embeddings.shape[1], IGNORED)

        def compute(params: Variables, statistics: Any, part: Batch, _: jax.Array) -> tuple[jax.Array, Any]:
            chosen = LabelSets(labels.embeddings[part.sets], labels.valid[part.sets])
            variables = state_dicts.unflatten({**params, **statistics})
            value, changed = loss(
                config, variables, part.images, part.targets, chosen, settings.row_block, settings.margin, count
            )
            return value, state_dicts.flatten({"batch_stats": changed})

        value, statistics, gradients = accumulation.value_and_gradient(
            compute, state["params"], state["batch_stats"], batch, settings.accumulation_steps
        )
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return {"params": params, "batch_stats": statistics, "optimizer": optimizer_state}, metrics

    return update


def make_step(
    config: LSegConfig,
    settings: Training,
    labels: LabelSets,
    optimizer: optax.GradientTransformation,
    batches: Callable[[int], Batch],
    mesh: Mesh | None = None,
) -> Callable[[State, int], tuple[State, Metrics]]:
    """The step (state, number) -> (state, metrics) of `vlseg.training.loop.train`.

    Step n depends on the state, the seed and n alone. The state's buffers are donated.

    Args:
        config, settings: of model and optimization.
        labels: all label sets.
        optimizer: from `Training.make_optimizer`.
        batches: number -> this process's rows of the examples, a pure function of the number.
        mesh: over which the state is spread, see `vlseg.sharding`.
    """
    labels = sharding.copy_everywhere(labels, mesh)
    step = compile_step(make_update(config, settings, optimizer), mesh)
    return lambda state, number: step(state, labels, sharding.place_batch(batches(number), mesh, settings.batch_size))
