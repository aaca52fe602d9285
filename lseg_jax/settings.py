"""Settings of a training run."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar

from ml_collections import ConfigDict

from lseg_jax.config import LSegConfig
from lseg_jax.encoders import FRESH, IMAGES, NAMED
from vlseg import fields, overrides, settings
from vlseg.checks import check_choices
from vlseg.effects import Idle
from vlseg.errors import ConfigError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.fields import Count, CountOrNone, Positive, Range, Seed, Share, Side

OPTIMIZERS = ("sgd", "adamw")
DECAYS = ("epoch", "step")
LOSS_MEANS = ("images", "pixels")
LABEL_SETS = ("names", "others")

SQUARED = ("crop_size",)
"""The settings of inference on which scores of a benchmark depend: its pictures are squeezed into squares."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Optimization settings; the defaults are the official ones for ADE20K (isl-org/lang-seg).

    Attributes:
        epochs: how often every image is seen. steps: instead of epochs, if not None.
        stop_after: epochs after which a run ends although its schedule goes on, if not None.
        batch_size: images in an update. The authors' script has one image in each process and accumulates two batches,
            which is 12 on six GPUs; the paper says 6 on six GPUs. accumulation_steps: parts of a batch that are
            computed one after another, which takes less memory; batch norms see a part at a time, as in the script.
        learning_rate: of the image encoder, at the start. The default is what the authors' script comes to.
        scale_with_batch: multiplies `learning_rate` by `batch_size` / 16. The authors' rule is `base_lr` / 16 times the
            images of one process, however many processes there are and however many batches are accumulated: their
            `base_lr` of 0.004 with one image gives 0.00025. For their rate give the result, and leave this off.
        decoder_factor: the decoder's rate is this times as high.
        optimizer: "sgd" with momentum (b1), or "adamw". weight_decay, b1, b2: theirs.
        power: of the polynomial decay of the rate. decay: when the rate falls: "epoch", after each epoch, as the
            authors' does, so that a run of less than an epoch has one rate; or "step".
        warmup_steps: of linear warm-up.
        clip_norm: bound of the gradients' global norm, 0 for none.
        base_size, crop_size, scale_range: of the random views, see `vlseg.data.transforms.scale_and_crop`.
        loss_mean: over "images", each the mean over its pixels that count, as in the authors' script, where every
            process has one image; an image without such a pixel adds 0. Or over all "pixels" that count in an update.
        margin: what the similarity of a pixel's label is lowered by in the loss, so that pixels come nearer to their
            own label than the softmax alone asks for and other words for it win as well. Of logits after a block
            likewise.
        label_smoothing: share of the target that is spread over all labels of the label set.
        class_balance: a pixel counts its label's share of all labelled pixels to the power of minus this: 0 for all
            alike, 1 for all labels alike. The weights' mean over pixels is 1.
        class_share: share of the training images that are drawn by class, each class alike, among the images that show
            it; the rest, and with 0 all, are drawn alike (rare class sampling: Hoyer et al. 2022, "DAFormer", without
            its temperature).
        loss_stride: pixels of every so-many-th row and column count in the loss, which takes less time; 1 for all.
        average: decay of the running average of weights and statistics that the finished model has, 0 for none. It is
            shorter at first: (1 + step) / (10 + step) (Polyak and Juditsky 1992; as TensorFlow's).
        frozen_levels: levels of the image encoder that are not trained, finest first, 0 to 4.
        distort_colours: whether brightness, contrast, saturation and hue of training images are changed at random, see
            `vlseg.data.transforms.distort_colours`.
        crop_width: of the random views, if they are not squares of `crop_size`, which is their height then.
        row_block: rows of pixels that the loss handles at a time.
        seed: of everything random.
    """

    epochs: Count = 240
    steps: Count | None = None
    stop_after: Count | None = None
    batch_size: Annotated[int, Range(1, 2**20)] = 12
    accumulation_steps: Count = 1
    learning_rate: Positive = 0.00025
    scale_with_batch: bool = False
    decoder_factor: Positive = 10.0
    optimizer: str = "sgd"
    weight_decay: Positive = 1e-4
    b1: Share = 0.9
    b2: Share = 0.999
    power: Positive = 0.9
    decay: str = "epoch"
    warmup_steps: CountOrNone = 0
    clip_norm: Positive = 0.0
    base_size: Side = 520
    crop_size: Side = 480
    scale_range: tuple[Annotated[float, Range(0, 64)], Annotated[float, Range(0, 64)]] = (0.5, 2.0)
    loss_mean: str = "images"
    margin: Positive = 0.0
    label_smoothing: Share = 0.0
    class_balance: Share = 0.0
    class_share: Share = 0.0
    loss_stride: Annotated[int, Range(1, 64)] = 1
    average: Share = 0.0
    frozen_levels: Annotated[int, Range(0, 4)] = 0
    distort_colours: bool = False
    crop_width: Side | None = None
    row_block: Side = 16
    seed: Seed = 0

    def __post_init__(self) -> None:
        fields.check(self)
        check_choices(self, optimizer=OPTIMIZERS, decay=DECAYS, loss_mean=LOSS_MEANS)
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"accumulation_steps {self.accumulation_steps} does not divide the batch of {self.batch_size}"
            )
        for name, side in (("crop_size", self.crop_size), ("crop_width", self.crop_width or 0)):
            if side % 32:
                raise ConfigError(f"{name} is {side}; it must be a multiple of 32")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ConfigError(f"scale_range is {self.scale_range}; it must be two rising positive numbers")

    @property
    def view_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.crop_size, self.crop_width or self.crop_size

    @property
    def encoder_rate(self) -> float:
        """Learning rate of the image encoder at the start; the decoder's is `decoder_factor` times it."""
        return self.learning_rate * (self.batch_size / 16 if self.scale_with_batch else 1)

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


@dataclasses.dataclass(frozen=True)
class Mixture(settings.Data):
    """One or several data sets, with commas between them.

    Attributes:
        weights: how often each of several comes, such as "2,1"; by default as often as its size says.
    """

    several: ClassVar[bool] = True

    weights: str = ""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What the encoders of a new model start from.

    Attributes:
        text, image: files, see `lseg_jax.encoders.read_text`; "" or "none" for fresh weights. image may be a name of
            `lseg_jax.encoders.NAMED`, such as "efficientnet_lite0".
    """

    text: str = ""
    image: str = ""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A few-shot benchmark to train on instead of `data`: its name, folder and fold."""

    name: str = ""
    root: str = ""
    fold: int = 0


def _given(*names: str) -> Callable[[ConfigDict, Collection[str]], bool]:
    """Whether one of some settings is given as a flag."""
    return lambda config, flags: not flags.isdisjoint(names)  # type: ignore[attr-defined]


def _has_checkpoint(config: ConfigDict) -> str:
    return f"because config.checkpoint={config.checkpoint} is a whole model" if config.checkpoint else ""


def pretrained(config: ConfigDict, part: str) -> str:
    """The file or name of weights that the encoder "text" or "image" starts from; "" for fresh ones."""
    source: str = config.pretrained[part]
    return "" if source == FRESH else source


def _is_pretrained(part: str) -> Callable[[ConfigDict], str]:
    def reason(config: ConfigDict) -> str:
        source = pretrained(config, part)
        if not source or (part == "image" and _is_named(config.model.image, source)):
            return ""
        return f"because config.pretrained.{part}={source} says itself which encoder it is"

    return reason


def _is_named(image: ConfigDict, name: str) -> bool:
    """Whether the image encoder of a model is the one whose weights have a name."""
    known = NAMED.get(name)
    return known is not None and IMAGES[image.kind] is type(known) and image.get("variant") == known.variant


def _image_kind(config: ConfigDict) -> str:
    """The kind of the image encoder, "" where a file says it."""
    source = pretrained(config, "image")
    if config.checkpoint or (source and source not in NAMED):
        return ""
    return "efficientnet" if source else str(config.model.image.kind)


def _undivided(config: ConfigDict) -> str:
    kind = IMAGES.get(_image_kind(config))
    return f"in {kind.undivided}, which is not cut up" if kind is not None and kind.undivided else ""


def _text_kind(config: ConfigDict) -> str:
    return "" if config.checkpoint or pretrained(config, "text") else str(config.model.text.kind)


def _is_untrained(config: ConfigDict) -> str:
    trained = config.checkpoint or pretrained(config, "image")
    return "" if trained else "because the image encoder starts untrained (config.pretrained.image)"


def _ends_before(config: ConfigDict) -> str:
    training = config.training
    if training.stop_after is None or training.steps is not None or training.stop_after < training.epochs:
        return ""
    return f"because the schedule ends after {training.epochs} epochs (config.training.epochs)"


NORMS = "model.image.norms"
"""The one setting of an image encoder that its weights do not say."""

IDLE = (
    Idle(("model", "pretrained"), _has_checkpoint, ("model.dtype", "model.remat"), _given("checkpoint")),
    *(
        Idle((f"model.{part}",), _is_pretrained(part), (NORMS,), _given(f"pretrained.{part}"))
        for part in ("text", "image")
    ),
    Idle(("model.activation",), lambda config: "without a block (config.model.block)" * (config.model.block == "none")),
    Idle(("model.remat",), _undivided),
    Idle(("tokenizer",), lambda config: "with MiniLM, which has its own" * (_text_kind(config) == "minilm")),
    Idle(
        ("benchmark.root", "benchmark.fold"),
        lambda config: "without config.benchmark.name" * (not config.benchmark.name),
    ),
    Idle(
        ("benchmark.fold",), lambda config: "with FSS-1000, which has no folds" * (config.benchmark.name == "fss1000")
    ),
    Idle(
        ("training.epochs",),
        lambda config: "beside config.training.steps" * (config.training.steps is not None),
        yields=_given("training.steps"),
    ),
    Idle(("training.stop_after",), _ends_before),
    Idle(("training.frozen_levels",), _is_untrained, yields=_given("pretrained.image")),
    Idle(("training.b2",), lambda config: "with sgd, whose momentum is b1" * (config.training.optimizer == "sgd")),
    Idle(
        (
            *("training.scale_range", "training.crop_width", "training.distort_colours", "training.class_balance"),
            "training.class_share",
        ),
        lambda config: "on a benchmark, whose pictures are squeezed into squares" * bool(config.benchmark.name),
    ),
    Idle(
        ("training.class_balance", "training.class_share"),
        lambda config: 'where each image is against "others" (config.label_sets)' * (config.label_sets == "others"),
    ),
)
"""What has no effect beside what."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Run):
    """A training run.

    Attributes:
        checkpoint: a model to go on from; without one, a fresh `model` with `pretrained` encoders.
        tokenizer: of CLIP, a directory with Hugging Face files; by default the installed one.
        model: what `LSegConfig.to_dict` gives.
        inference: how the model sees whole images, see `Scheme`; None for the sizes of `training` and one scale.
        label_sets: "names", or "others" for each image against "others" and one of its classes.
        data: what is trained on, unless a `benchmark` is.
    """

    idle: ClassVar[tuple[Idle, ...]] = (*settings.Run.idle, *IDLE)

    package: str = "lseg_jax"
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: LSegConfig().to_dict())
    pretrained: Pretrained = Pretrained()
    label_sets: str = "names"
    training: Training = Training()
    inference: ConfigDict = dataclasses.field(default_factory=lambda: overrides.section(Scheme))
    benchmark: Benchmark = Benchmark()
    data: Mixture = Mixture()
