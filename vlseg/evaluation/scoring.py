"""Scores of a model on a labelled data set: the words its classes are asked for by, and what becomes of its background.

Three conventions: pixels of no class do not count ("none": MaskCLIP, Zhou et al. 2022); the background is a class with
words of its own ("words": SCLIP, Wang et al. 2024); or it is where no class is probable ("threshold": GroupViT, Xu et
al. 2022). A class that has several words is given the score of its best one.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from vlseg import distributed
from vlseg.checks import check_choices
from vlseg.data.sources import Dataset
from vlseg.errors import ConfigError
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.segmenter import Segmenter, Variant

BACKGROUND = "background"
"""What catalogs call class 0 where it is the background."""

CONVENTIONS = ("none", "words", "threshold")


@dataclass(frozen=True)
class Vocabulary:
    """The words for the classes of a data set.

    Attributes:
        words: of each class, in the order of its ids; those of class 0 are not asked for if there is a threshold.
        background: "none", "words" or "threshold", see above; with the last two it is class 0.
        threshold: probability, in (0, 1], below which a pixel is background; for "threshold" only.
    """

    words: tuple[Sequence[str], ...]
    background: str = "none"
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a convention that does not exist, no words, or no threshold where one is needed."""
        check_choices(self, background=CONVENTIONS)
        for class_id, words in enumerate(self.words):
            if isinstance(words, str) or not words or not all(isinstance(word, str) for word in words):
                raise ConfigError(f"words of class {class_id} are {words!r}: give a list with one word or several")
        if self.background != "threshold":
            return
        if not isinstance(self.threshold, float) or not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}; a background by threshold needs one in (0, 1]")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Vocabulary":
        """From the settings `words`, `background` and `threshold`.

        Raises:
            ConfigError: one is missing or cannot be.
        """
        missing = [name for name in ("words", "background", "threshold") if name not in config]
        if missing:
            raise ConfigError(f"--config lacks {', '.join(missing)}: give a file such as configs/open_vocabulary.py")
        return cls(tuple(config["words"]), config["background"], config["threshold"])

    def check(self, names: Sequence[str]) -> None:
        """Compares with the class names of a data set.

        Raises:
            ConfigError: there are words for more or fewer classes; or a background where the data set has none, or none
                where it has one.
        """
        if len(self.words) != len(names):
            raise ConfigError(f"words for {len(self.words)} classes do not fit the data set's {len(names)}")
        has_background = names[0] == BACKGROUND
        if has_background and self.background == "none":
            raise ConfigError('this data set has a background: --config.background is "words" or "threshold" for it')
        if not has_background and self.background != "none":
            raise ConfigError('this data set has no background: --config.background is "none" for it')

    @property
    def asked(self) -> tuple[str, ...]:
        """All words that a model is asked for, class by class; Q in number."""
        return tuple(itertools.chain(*self._asked_classes().values()))

    @property
    def classes(self) -> tuple[int, ...]:
        """The class of each of them."""
        return tuple(class_id for class_id, words in self._asked_classes().items() for _ in words)

    def class_map(self, words: jax.Array, probabilities: jax.Array | None = None) -> jax.Array:
        """The classes of pixels; pure and jittable.

        Args:
            words: int [...], the best word of each pixel, an index into `asked`.
            probabilities: float [...] in [0, 1], that of the best word among all words that were asked for; needed if
                there is a threshold.

        Returns:
            int32 [...], class ids.
        """
        found = jnp.asarray(self.classes, jnp.int32)[words]
        if self.background != "threshold":
            return found
        if probabilities is None or self.threshold is None:
            raise ValueError("a threshold needs probabilities")
        return jnp.where(probabilities < self.threshold, 0, found)

    def _asked_classes(self) -> dict[int, Sequence[str]]:
        first = 1 if self.background == "threshold" else 0
        return dict(list(enumerate(self.words))[first:])


def score(
    model: Segmenter,
    dataset: Dataset,
    variants: Sequence[Variant] | None = None,
    *,
    labels: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
    batch_size: int = 1,
) -> list[SegmentationMetrics]:
    """Metrics over a data set, at the original size of every image, for several settings of inference.

    Several processes share the images and get the same metrics.

    Args:
        model: to be scored.
        dataset: see `vlseg.data.sources`; streamed.
        variants: settings, by default the model's own alone.
        labels: words for the data set's classes, in their order; by default its names.
        vocabulary: in their place, words for the classes and a background.
        batch_size: images, or windows of an image, of a forward pass.

    Raises:
        ConfigError: as many labels as the data set has classes are needed.
    """
    names = tuple(labels or dataset.names)
    if len(names) != len(dataset.names):
        raise ConfigError(f"{len(names)} labels do not fit the data set's {len(dataset.names)} classes")
    vocabulary = vocabulary or Vocabulary(tuple((name,) for name in names))
    settings = [variant.settings for variant in variants] if variants else [model.inference]
    embeddings = model.embed(vocabulary.asked)
    counts = [confusion.zeros(len(names)) for _ in settings]
    bar = tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not distributed.shows_progress())
    own = distributed.own_share(dataset)
    for example, found in model.score_each(own, lambda example: example.image, embeddings, settings, batch_size):
        label = jnp.asarray(example.label)
        for number, scores in enumerate(found):
            # The words that were asked for, as class ids int32 [H, W].
            best = scores.most_probable() if vocabulary.background == "threshold" else (scores.label_map(),)
            class_map = vocabulary.class_map(*map(jnp.asarray, best))
            counts[number] = confusion.update(counts[number], class_map, label, dataset.ignore_label)
        bar.update(jax.process_count())
    bar.close()
    return [confusion.compute(distributed.merged(count, confusion.merge)) for count in counts]
