"""Settings of inference and of a training run."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from ml_collections import ConfigDict

from ifseg_jax.artificial import sides
from ifseg_jax.config import DECODER_INPUT_TYPES, DECODER_POSITIONS, REMAT, OFAConfig, QueryBlocks
from vlseg import fields, overrides, settings
from vlseg.checks import DTYPES
from vlseg.effects import Idle
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF
from vlseg.fields import LARGEST_INTEGER, Choice, Count, CountOrNone, Positive, Range, Seed, Share, Side


@dataclasses.dataclass(frozen=True)
class Inference:
    """How real images are segmented; the defaults are the official evaluation's.

    Attributes:
        short_side: pixels of the short side, to which an image is resized.
        long_side: most pixels of the long side, for which the short side gets fewer if need be.
        knn_k: neighbours that probabilities are averaged over, a token itself among them.
        knn_iterations: rounds of that averaging; 0 for none.
        crf: of the probabilities that come of it all, at the image's size.
    """

    short_side: Side = 512
    long_side: Annotated[int, Range(1, 2**16)] = 2048
    knn_k: Annotated[int, Range(1, 2**14)] = 3
    knn_iterations: Annotated[int, Range(0, 2**16)] = 25
    crf: CRF = dataclasses.field(default_factory=CRF)

    needs: ClassVar[Mapping[str, str]] = {"knn_k": "knn_iterations"}

    def __post_init__(self) -> None:
        fields.check(self)


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Optimization settings; the defaults are the official ones (alinlab/ifseg).

    Attributes:
        steps, batch_size, learning_rate: cosine decay to 0 over the steps. warmup_steps: of linear warm-up.
        b1, b2, epsilon, weight_decay, clip_norm: AdamW with a global-norm clip.
        image_size: side of the training images in pixels; the target has this size, the grid image_size / stride
            tokens. By default the size that the model was trained at.
        artificial_image_type: how artificial word maps are drawn: rand_k-L-R, rand_k or norand_k; see
            `ifseg_jax.artificial`.
        label_smoothing: share of the target distribution that is spread over all categories.
        upscale_lprobs: take the loss of logits upsampled to pixels; else of the tokens' own, whose targets are the top
            left pixels of their squares. Of supervised training: the official image-free loss always upsamples.
        freeze_embedding: word and category embeddings stay as they are. Otherwise the word table is trained and, apart
            from it, a table of the categories that logits are taken against, which begins as the means of their words.
            (freeze_encoder_embedding, freeze_decoder_embedding and freeze_seg_embedding of the official code in one.)
        freeze_embedding_iter: with freeze_embedding=False, the embeddings are frozen after so many updates; -1 for
            never. (As the official code describes the option of this name, which it never reads.)
        freeze_entire_resnet: image trunk and projection stay as they are. freeze_resnet: if they do not, whether the
            trunk's batch normalizations do; else they are trained, normalise by the batch and follow its statistics.
        row_block: rows of pixels that the loss handles at a time.
        accumulation_steps: parts of a batch that are computed one after another, which takes less memory.
        seed: of everything random.
    """

    steps: Count = 2000
    batch_size: Annotated[int, Range(1, 2**20)] = 16
    learning_rate: Positive = 5e-5
    warmup_steps: CountOrNone = 0
    b1: Share = 0.9
    b2: Share = 0.999
    epsilon: Positive = 1e-8
    weight_decay: Positive = 0.1
    clip_norm: Positive = 1.0
    image_size: Side | None = None
    artificial_image_type: str = "rand_k-1-33"
    label_smoothing: Share = 0.0
    upscale_lprobs: bool = True
    freeze_embedding: bool = True
    freeze_embedding_iter: Annotated[int, Range(-1, LARGEST_INTEGER)] = -1
    freeze_entire_resnet: bool = True
    freeze_resnet: bool = False
    row_block: Side = 16
    accumulation_steps: Count = 1
    seed: Seed = 0

    def __post_init__(self) -> None:
        fields.check(self)
        sides(self.artificial_image_type)
        if self.freeze_embedding and self.freeze_embedding_iter != -1:
            raise ConfigError("freeze_embedding_iter needs freeze_embedding=False: frozen embeddings stay frozen")
        if self.freeze_entire_resnet and self.freeze_resnet:
            raise ConfigError("freeze_resnet needs freeze_entire_resnet=False, which freezes all of the trunk")
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"accumulation_steps {self.accumulation_steps} does not divide the batch of {self.batch_size}"
            )

    @property
    def trains_norms(self) -> bool:
        """Whether the image trunk's batch normalizations are trained."""
        return not self.freeze_entire_resnet and not self.freeze_resnet

    def side(self, config: OFAConfig) -> int:
        """Side of the training images in pixels."""
        side = self.image_size or config.image_grid * config.stride
        if side % config.stride:
            raise ConfigError(f"image_size {side} is not a multiple of {config.stride}, the pixels per token")
        return side


def stored_adaptation(values: Any) -> dict[str, Any]:
    """Fields of `Adaptation` as a model directory has them, of which older ones call rand_k-1-(S + 1) max_side S.

    Raises:
        ConfigError: `values` are no such fields.
    """
    found = dict(fields.mapping(values, "adaptation"))
    if "max_side" in found:
        side = found.pop("max_side")
        fields.check_value(side, Side, "adaptation.max_side")
        found["artificial_image_type"] = f"rand_k-1-{side + 1}"
    fields.read(Adaptation, found, "adaptation")
    return found


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a loaded model that change none of its parameters, see `OFAConfig`; None for the model's own."""

    dropout: Share | None = None
    drop_path: Share | None = None
    decoder_positions: Annotated[str, Choice(DECODER_POSITIONS)] | None = None
    decoder_input_type: Annotated[str, Choice(DECODER_INPUT_TYPES)] | None = None
    full_context_alignment: bool | None = None
    prompt_prefix: str | None = None
    dtype: Annotated[str, Choice(DTYPES)] | None = None
    remat: Annotated[str, Choice(REMAT)] | None = None
    query_blocks: QueryBlocks | None = None

    def __post_init__(self) -> None:
        fields.check(self)


WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "image_free": ("upscale_lprobs", "freeze_entire_resnet", "freeze_resnet"),
    "supervised": ("artificial_image_type",),
}
"""Fields of `Adaptation` that a way of training does not read."""


def _in_mode(mode: str, *names: str) -> Idle:
    """Settings that one way of training has no use for."""
    return Idle(names, lambda config: f"in {mode} training" if config.mode == mode else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Run):
    """A training run.

    Attributes:
        mode: "image_free" or "supervised".
        categories: a list of `vlseg.labels` by name, a names file, or names with commas.
        model: options of the loaded checkpoint. adaptation: of the optimization.
        inference: how the model sees whole images, see `Inference`; None for the loaded checkpoint's own setting.
        data: of supervised runs.
    """

    idle: ClassVar[tuple[Idle, ...]] = (
        *settings.Run.idle,
        _in_mode("image_free", "data", "loading"),
        *(_in_mode(mode, *(f"adaptation.{name}" for name in names)) for mode, names in WITHOUT_EFFECT.items()),
    )

    package: str = "ifseg_jax"
    checkpoint: str = "ofa_base"
    mode: str = "image_free"
    categories: str = ""
    model: Options = Options()
    adaptation: Adaptation = Adaptation()
    inference: ConfigDict = dataclasses.field(default_factory=lambda: overrides.section(Inference))
