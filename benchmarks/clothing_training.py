"""A decoder and a head on cached features: the one small trainer of the comparisons on the clothing data set.

Everything but the encoder is LSeg's: decoder, similarities, loss, optimizer. Batches are windows of views, a share of
them (`Training.class_share`) around a pixel of a class that is drawn first, so that rare classes come often; a pure
function of seed and step. What was trained is kept in the cache directory under a hash of all that it depends on.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.clothing_features import HEIGHT, LABEL_STRIDE, VIEWS, WIDTH, Features
from lseg_jax import objective
from lseg_jax.dpt import Decoder, dense
from lseg_jax.encoders.base import normalized
from lseg_jax.lseg import LOGIT_SCALE, similarities
from lseg_jax.settings import Training
from vlseg import files, progress
from vlseg.checkpoints import rules
from vlseg.data.examples import IGNORE_LABEL
from vlseg.nn.initializers import KERNEL
from vlseg.nn.losses import upsampled_cross_entropy
from vlseg.nn.resize import resize_bilinear
from vlseg.training import optimizers, program
from vlseg.training.finite import NonFiniteLossError, not_finite

HEADS = ("words", "learned", "linear")
"""What scores pixels: "words": similarity to text embeddings, as LSeg. "learned": the same with an embedding of each
class that is learned, lengths and temperature as LSeg's. "linear": a plain linear classifier of the decoder's channels.
"""

GRID = 32
"""Windows begin at multiples of this, where all levels have a cell."""

WINDOW = 192, 128
"""Pixels of a window: a quarter of a view."""

SETTINGS = Training(
    steps=200,
    batch_size=8,
    learning_rate=3e-3,
    decay="step",
    decoder_factor=1.0,
    optimizer="adamw",
    weight_decay=0.01,
    warmup_steps=20,
    clip_norm=1.0,
    loss_mean="pixels",
    loss_stride=2,
    class_balance=0.5,
    class_share=0.5,
    row_block=WINDOW[0] // LABEL_STRIDE,
)
"""Of all trainings here."""

FEATURES = 32
"""Channels of the decoder."""

LEVELS = 3
"""Of the encoder's four, the coarsest: with the finest one, a step takes four times as long."""

_FORMAT = 4


class Head(nn.Module):
    """LSeg after its image encoder, with one of `HEADS`.

    Attributes:
        kind: of `HEADS`. features: channels of the decoder. width: of embeddings. classes: their number.
    """

    kind: str
    features: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], words: jax.Array, *, train: bool = False) -> jax.Array:
        """Levels [B, h, w, C] each, finest first, and words [N, width] -> logits float32 [B, h, w, N]."""
        x = Decoder(self.features, "float32", name="decoder")(levels, train=train)
        width = self.classes if self.kind == "linear" else self.width
        x = dense(width, self.features, jnp.float32, "projection")(x)
        if self.kind == "linear":
            return x
        if self.kind == "learned":
            words = normalized(self.param("words", KERNEL, (self.classes, self.width)))
        # Lengths and scores on the decoder's grid, where LSeg has them on one twice as fine, at a quarter of the cost.
        return similarities(normalized(x), words)


class Batch(NamedTuple):
    """Windows.

    levels: float16 [B, h, w, C] each. targets: int32 [B, H, W], IGNORE_LABEL where none counts. sets: int32 [B, n], the
    classes that each window is asked for, which targets are places among; None for all.
    """

    levels: tuple[Any, ...]
    targets: Any
    sets: Any = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """One training.

    Attributes:
        kind: of `HEADS`. names: of the classes, whose embeddings `words` [N, width] are. classes: int, by label of the
            data set the class as which it is trained. settings: of the optimization; its seed is all that is random.
        against: a class, or None. With one, every window is asked for it and for one other class that it shows, and
            all pixels but those of the other are of it, as in the zero-shot experiments (isl-org/lang-seg).
    """

    kind: str
    names: tuple[str, ...]
    words: np.ndarray = dataclasses.field(repr=False)
    classes: tuple[int, ...]
    settings: Training = SETTINGS
    features: int = FEATURES
    levels: int = LEVELS
    against: int | None = None

    def module(self) -> Head:
        return Head(self.kind, self.features, self.words.shape[1], len(self.names))

    def key(self, data: Features) -> str:
        """A hash of all that the result depends on."""
        described = (
            _FORMAT,
            data.key,
            self.kind,
            self.names,
            self.classes,
            self.features,
            self.levels,
            WINDOW,
            *(() if self.against is None else (self.against,)),
        )
        text = json.dumps([described, dataclasses.asdict(self.settings)])
        return hashlib.sha256(text.encode() + np.ascontiguousarray(self.words).tobytes()).hexdigest()[:16]


def settings_of(options: Any, seed: int) -> Training:
    """The settings of a training that flags ask for, see `clothing_features.define_flags`."""
    return dataclasses.replace(SETTINGS, seed=seed, steps=options.steps or SETTINGS.steps)


def trained(fit: Fit, data: Features, title: str = "") -> Any:
    """The variables of a head after its training, from the cache or into it."""
    path = files.cache_directory() / "benchmarks" / f"clothing_head_{fit.key(data)}.npz"
    if not path.exists():
        variables = run(fit, data, title)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(path) as file:
            np.savez(file, **rules.flatten(jax.device_get(variables)))
    return _read(path)


def _read(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as stored:
        return rules.unflatten({name: stored[name] for name in stored.files})


def run(fit: Fit, data: Features, title: str = "", losses: list[float] | None = None) -> Any:
    """Trains a head: {"params", "batch_stats"}. The loss of every step goes to `losses`, if given.

    Raises:
        NonFiniteLossError: what came of it holds NaN or infinities.
    """
    settings = fit.settings
    draw = batches(data, fit.classes, settings, fit.levels, fit.against)
    # The seed is no part of the programs, so that they are compiled once for all seeds.
    initialize, step = _programs(fit.module(), dataclasses.replace(settings, seed=0), len(data.labels))
    words, weights = fit.words, _weights(fit, data)
    state = initialize(jax.random.key(settings.seed), draw(0).levels, words)
    steps = settings.total_steps(len(data.labels))
    for number in progress.over(range(steps), steps, title, "step", shown=bool(title)):
        batch = draw(number)
        asked = words if batch.sets is None else words[batch.sets]
        state, value = step(state, asked, weights, batch)
        if losses is not None:
            losses.append(float(value))
    if not_finite(state):
        raise NonFiniteLossError(f"the head is not finite after {steps} steps: lower the learning rate")
    return rules.unflatten({**state["params"], **state["batch_stats"]})


def _weights(fit: Fit, data: Features) -> np.ndarray:
    """What a pixel of each class counts, float32 [N], see `Training.class_balance`; the same in pairs."""
    if fit.against is not None:
        return np.ones(2, np.float32)
    counts = np.zeros(len(fit.names), np.int64)
    by_label = np.bincount(data.labels.ravel(), minlength=IGNORE_LABEL)
    np.add.at(counts, np.asarray(fit.classes), by_label[: len(fit.classes)])
    return objective.balanced_weights(counts, fit.settings.class_balance)


@functools.lru_cache(maxsize=8)
def _programs(module: Head, settings: Training, examples: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(key, levels, words) -> state, and (state, words, weights, batch) -> (state, loss), compiled.

    Words are [N, C], or [B, n, C] by window, and weights as many.
    """
    chain = objective.optimizer(settings, examples)

    def initialize(key: jax.Array, levels: Sequence[Any], words: jax.Array) -> Any:
        flat = rules.flatten(jax.jit(module.init)(key, _as_floats(levels), words))
        params = {name: value for name, value in flat.items() if name.startswith("params/")}
        statistics = {name: value for name, value in flat.items() if name not in params}
        return {"params": params, "batch_stats": statistics, "optimizer": optimizers.initial_state(chain, params)}

    def update(state: Any, words: jax.Array, weights: jax.Array, batch: Batch) -> tuple[Any, jax.Array]:
        def compute(params: Any, statistics: Any, batch: Batch, _: jax.Array) -> tuple[jax.Array, Any]:
            variables = rules.unflatten({**params, **statistics})
            levels = _as_floats(batch.levels)
            logits, changed = module.apply(variables, levels, words, train=True, mutable=["batch_stats"])
            value = upsampled_cross_entropy(
                logits,
                batch.targets,
                ignore_label=IGNORE_LABEL,
                row_block=settings.row_block,
                align_corners=True,
                margin=settings.margin * LOGIT_SCALE,
                label_smoothing=settings.label_smoothing,
                weights=jnp.broadcast_to(weights, (len(batch.targets), len(weights))),
                every=settings.loss_stride,
            )
            return value, rules.flatten({"batch_stats": changed["batch_stats"]})

        params = state["params"]
        value, statistics, gradients = optimizers.value_and_gradient(compute, params, state["batch_stats"], batch, 1)
        updates, optimizer = chain.update(gradients, state["optimizer"], params)
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": statistics, "optimizer": optimizer}, value

    return initialize, program.compile_step(update)


def batches(
    data: Features, classes: Sequence[int], settings: Training, used: int = 4, against: int | None = None
) -> Callable[[int], Batch]:
    """Batches as a function of the step; `classes` and `against` as in `Fit`, `used` of the levels, the coarsest."""
    table = np.full(256, IGNORE_LABEL, np.int32)
    table[: len(classes)] = classes
    targets = table[data.labels]
    present = np.stack([np.bincount(target.ravel(), minlength=256)[:IGNORE_LABEL] > 0 for target in targets])
    if against is not None:
        present[:, against] = False
    drawn = np.flatnonzero(present.any(axis=0))
    spans = [(side - part) // GRID + 1 for side, part in zip((HEIGHT, WIDTH), WINDOW, strict=True)]

    def window(photograph: int, rng: np.random.Generator, class_id: int | None) -> tuple[int, int]:
        """The top left corner, in steps of `GRID`; a pixel of a class is in the window."""
        if class_id is None:
            return int(rng.integers(spans[0])), int(rng.integers(spans[1]))
        pixels = np.argwhere(targets[photograph] == class_id) * LABEL_STRIDE
        pixel = pixels[rng.integers(len(pixels))]
        found = []
        for at, part, span in zip(pixel, WINDOW, spans, strict=True):
            first, last = max(0, -(-(int(at) - part + LABEL_STRIDE) // GRID)), min(span - 1, int(at) // GRID)
            found.append(int(rng.integers(first, last + 1)))
        return found[0], found[1]

    def example(rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        class_id = None
        photograph = int(rng.integers(len(targets)))
        if rng.random() < settings.class_share:
            class_id = int(rng.choice(drawn))
            photograph = int(rng.choice(np.flatnonzero(present[:, class_id])))
        row, column = window(photograph, rng, class_id)
        mirrored = int(rng.integers(VIEWS))
        levels = []
        for level in data.levels[-used:]:
            stride = HEIGHT // level.shape[2]
            unit, (height, width) = GRID // stride, (side // stride for side in WINDOW)
            # The mirrored view has the window where its mirror image is.
            left = level.shape[3] - column * unit - width if mirrored else column * unit
            levels.append(level[photograph, mirrored, row * unit : row * unit + height, left : left + width])
        unit = GRID // LABEL_STRIDE
        height, width = (side // LABEL_STRIDE for side in WINDOW)
        target = targets[photograph, row * unit : row * unit + height, column * unit : column * unit + width]
        return levels, target[:, ::-1] if mirrored else target

    def paired(target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
        """The target with 1 for a class that it shows and 0 for all others, and the classes that 0 and 1 are."""
        shown = np.setdiff1d(target, [against, IGNORE_LABEL])
        chosen = int(rng.choice(shown if len(shown) else drawn))
        return np.where(target == IGNORE_LABEL, IGNORE_LABEL, target == chosen), (int(against or 0), chosen)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng((settings.seed, step))
        levels, targets = zip(*(example(rng) for _ in range(settings.batch_size)), strict=True)
        sets = None
        if against is not None:
            targets, pairs = zip(*(paired(target, rng) for target in targets), strict=True)
            sets = np.asarray(pairs, np.int32)
        return Batch(tuple(np.stack(level) for level in zip(*levels, strict=True)), np.stack(targets), sets)

    return batch


def predictions(fit: Fit, variables: Any, data: Features, asked: Sequence[Any]) -> np.ndarray:
    """Labels of views, uint8 [K, N, 192, 128], for each of K questions.

    Args:
        asked: the questions. Of "words" embeddings [M, width], M at most 255, whose places the labels are; of other
            heads None, all classes.
    """
    found = np.empty((len(asked), *data.labels.shape), np.uint8)
    for number in range(len(data.labels)):
        levels = [np.asarray(level[number, :1]) for level in data.levels[-fit.levels :]]
        for place, words in enumerate(asked):
            found[place, number] = _label(fit.module(), variables, levels, fit.words if words is None else words)[0]
    return found


@functools.partial(jax.jit, static_argnums=0)
def _label(module: Head, variables: Any, levels: Sequence[jax.Array], words: jax.Array) -> jax.Array:
    logits: Any = module.apply(variables, _as_floats(levels), words)
    fine = resize_bilinear(logits, HEIGHT // LABEL_STRIDE, WIDTH // LABEL_STRIDE, align_corners=True)
    return jnp.argmax(fine, axis=-1).astype(jnp.uint8)


def _as_floats(levels: Sequence[Any]) -> list[jax.Array]:
    return [jnp.asarray(level).astype(jnp.float32) for level in levels]
