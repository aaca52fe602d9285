"""Scores of a model on a labelled data set: what it is asked for, which classes are scored, and the background.

What a model is asked for (the candidates) and what is scored are two things, see `Candidates`. A candidate that stands
for none of the scored classes is a distractor: a pixel that gets it is wrong. Pixels of classes that are not scored do
not count.

A background has three conventions: pixels of no class do not count ("none": MaskCLIP, Zhou et al. 2022); it is a class
with words of its own ("words": SCLIP, Wang et al. 2024); or it is where no class is probable ("threshold": GroupViT, Xu
et al. 2022). A class that has several words is given the score of its best one.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlseg import distributed, progress
from vlseg.checks import check_choices
from vlseg.data.examples import Example
from vlseg.data.sources import Dataset
from vlseg.errors import ConfigError, DatasetError, ImageError, VocabularyError
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.finite import check_scores, naming
from vlseg.evaluation.report import Report
from vlseg.labels import check_names
from vlseg.labels.binding import NO_CLASS, SHOWN, bind, explanation, find
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
        try:
            check_names(self.asked, "word", "words", ignore_case=False)
        except VocabularyError as error:
            raise ConfigError(f"config.words: {error}") from error
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
            ConfigError: there are words for more or fewer classes; a word is the name of another class; or a background
                where the data set has none, or none where it has one.
        """
        if len(self.words) != len(names):
            raise ConfigError(f"words for {len(self.words)} classes do not fit the data set's {len(names)}")
        for class_id, words in enumerate(self.words):
            for word, other in zip(words, find(words, names), strict=True):
                if other not in (None, class_id):
                    raise ConfigError(
                        f"{word!r}, a word for {names[class_id]!r}, is the name of another class: config.words are "
                        "those of every class in the data set's order"
                    )
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

    def _asked_classes(self) -> dict[int, Sequence[str]]:
        first = 1 if self.background == "threshold" else 0
        return dict(list(enumerate(self.words))[first:])


class Candidates(NamedTuple):
    """What a model is asked for, and which classes of a data set are scored.

    words: the candidates, in the order in which the model is asked for them.
    classes: of each of them, the id of the class it stands for, or NO_CLASS.
    scored: ids of the scored classes, S in number.
    names: what tables call these: the data set's names, or the words that stand in their places.
    replaced: the data set's names and the words in their places, of scored classes where the two differ.
    threshold: probability below which a pixel is background, the class with id 0; None for no such rule.
    """

    words: tuple[str, ...]
    classes: tuple[int, ...]
    scored: tuple[int, ...]
    names: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...] = ()
    threshold: float | None = None

    def class_map(self, words: Any, probabilities: Any = None) -> Any:
        """The classes of pixels, an array of the kind that is given; pure, and of JAX arrays jittable.

        Args:
            words: int [...], the best word of each pixel, an index into `words`, or -1 for none.
            probabilities: float [...] in [0, 1], that of the best word among all words that were asked for; needed if
                there is a threshold.

        Returns:
            int32 [...], class ids; NO_CLASS where the best word is a distractor, or there is none.
        """
        numpy = jnp if isinstance(words, jax.Array) else np
        found = numpy.asarray((*self.classes, NO_CLASS), numpy.int32)[words]
        if self.threshold is None:
            return found
        if probabilities is None:
            raise ValueError("a threshold needs probabilities")
        return numpy.where(probabilities < self.threshold, 0, found)

    def label_map(self, label: np.ndarray, dataset: Dataset) -> np.ndarray:
        """A label map of a data set as places among the scored classes, int32 [H, W]; NO_CLASS does not count."""
        places = self.places(len(dataset.names))
        counted = (label != dataset.ignore_label) & (label >= 0) & (label < len(places) - 1)
        return places[np.where(counted, label, NO_CLASS)]

    @property
    def has_others(self) -> bool:
        """Whether a pixel can get none of the scored classes."""
        given = {*self.classes, *([] if self.threshold is None else [0])}
        return not given <= set(self.scored)

    @property
    def explanation(self) -> str:
        """One line that says which words stand in the places of which names; empty if none do."""
        return explanation(self.replaced)

    def places(self, classes: int) -> np.ndarray:
        """int32 [classes + 1]: of each class of the data set its place among the scored ones, or NO_CLASS.

        One more entry, which is NO_CLASS, stands for NO_CLASS itself as an index.
        """
        found = np.full(classes + 1, NO_CLASS, np.int32)
        found[list(self.scored)] = np.arange(len(self.scored))
        return found


def choose(
    names: Sequence[str],
    labels: Sequence[str] | None = None,
    score_labels: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Candidates:
    """Finds the scored classes among the candidates, see `vlseg.labels.binding`.

    Args:
        names: of the data set's classes, by id.
        labels: the candidates, by default the names.
        score_labels: names of the scored classes, by default all. Only they have to be among the candidates.
        vocabulary: in place of `labels`: words for every class, and a background.

    Raises:
        ConfigError: a scored class that the data set lacks or that is given twice, candidates that do not fit or of
            which one in a class's place is the name of another, or both labels and a vocabulary.
    """
    scored = _scored(names, score_labels)
    called = tuple(names[class_id] for class_id in scored)
    if vocabulary is not None:
        if labels is not None:
            raise ConfigError("a vocabulary has the words that are asked for: leave the labels out")
        threshold = vocabulary.threshold if vocabulary.background == "threshold" else None
        return Candidates(vocabulary.asked, vocabulary.classes, scored, called, threshold=threshold)
    if labels is None:
        return Candidates(tuple(names), tuple(range(len(names))), scored, called)
    try:
        bound = bind(names, labels, scored)
    except VocabularyError as error:
        raise ConfigError(str(error)) from error
    replaced = tuple((name, word) for name, word in bound.replaced if name in called)
    words = dict(replaced)
    return Candidates(bound.words, bound.classes, scored, tuple(words.get(name, name) for name in called), replaced)


def score(
    model: Segmenter,
    dataset: Dataset,
    variants: Sequence[Variant] | None = None,
    *,
    labels: Sequence[str] | None = None,
    score_labels: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
    batch_size: int = 1,
    damaged: list[str] | None = None,
    report: Report | None = None,
) -> list[SegmentationMetrics]:
    """Metrics over a data set, at the original size of every image, for several settings of inference.

    Several processes share the images and get the same metrics.

    Args:
        model: to be scored.
        dataset: see `vlseg.data.sources`; streamed.
        variants: settings, by default the model's own alone.
        labels, score_labels, vocabulary: what is asked for and what is scored, see `choose`. By default every class of
            the data set by its name.
        batch_size: images, or windows of an image, of a forward pass.
        damaged: an example that cannot be read is passed over, and what is wrong with it added here: those of all
            processes. By default it is an error.
        report: takes in every picture of this process, as the last of the variants segments it.

    Returns:
        Metrics of the S scored classes, for which `choose` has names, for each of the variants.

    Raises:
        ConfigError: as `choose`. ImageError, DatasetError: an example cannot be read. ImageError: the model's scores of
            one are not finite.
    """
    candidates = choose(dataset.names, labels, score_labels, vocabulary)
    places = candidates.places(len(dataset.names))
    settings = [variant.settings for variant in variants] if variants else [model.inference]
    embeddings = model.embed(candidates.words)
    counts = [confusion.zeros(len(candidates.scored)) for _ in settings]
    skipped: list[str] = []
    own = _own_examples(dataset, None if damaged is None else skipped)
    scored = model.score_each(own, lambda item: item[1].image, embeddings, settings, batch_size)
    shown = {"each": jax.process_count(), "shown": distributed.is_main()}
    for (index, example), found in progress.over(scored, len(dataset), "evaluate", "image", **shown):
        label = candidates.label_map(example.label, dataset)
        for number, scores in enumerate(found):
            # The words that were asked for, as class ids int32 [H, W]. On the host, where sizes need no program each.
            with naming(example.name):
                if candidates.threshold is None:
                    words, values = (array[..., 0] for array in scores.top(1))
                else:
                    words, values = scores.most_probable()
            check_scores(example.name, values)
            prediction = places[candidates.class_map(words, values)]
            counts[number] = confusion.merge(counts[number], confusion.count(prediction, label, len(candidates.scored)))
        if report is not None:
            report.add(index, example.name, prediction, label)
    if damaged is not None:
        damaged += distributed.of_all(skipped)
    return [confusion.compute(distributed.merged(count, confusion.merge)) for count in counts]


def _own_examples(dataset: Dataset, skipped: list[str] | None) -> Iterator[tuple[int, Example]]:
    """This process's examples and their indices; what is wrong with one goes to `skipped`, if that is given."""
    for index in distributed.own_share(range(len(dataset))):
        try:
            example = dataset[index]
        except (ImageError, DatasetError) as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        yield index, example


def _scored(names: Sequence[str], score_labels: Sequence[str] | None) -> tuple[int, ...]:
    """Ids of the scored classes.

    Raises:
        ConfigError: a name that is none of the data set's classes, or the same class twice.
    """
    if score_labels is None:
        return tuple(range(len(names)))
    if not score_labels:
        raise ConfigError("score_labels are empty: name at least one class of the data set")
    found = find(score_labels, names)
    strange = [name for name, class_id in zip(score_labels, found, strict=True) if class_id is None]
    if strange:
        raise ConfigError(f"score_labels are classes of the data set, which has no {', '.join(strange[:SHOWN])}")
    scored = tuple(class_id for class_id in found if class_id is not None)
    if len(set(scored)) < len(scored):
        raise ConfigError("score_labels name a class twice: give each once")
    return scored
