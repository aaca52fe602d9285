"""What a model makes of words that it was not trained with, on the clothing data set.

python -m benchmarks.clothing_questions --checkpoint=clothing --val=FOLDER --out=runs/questions

One pass over the photographs, with the model's own settings of inference, counts the pixels of all three tables:

- words: each of `benchmarks.clothing_words.WORDS` in place of the names that it stands for, among the other names. Its
  IoU as a share of these names' IoU, of several names joined, when they are asked for.
- rejection: the names without "background" are asked for, and pixels whose best similarity (or its margin to the
  second) is below a threshold are "none of these": precision and recall of finding background so, by threshold.
- pairs: several labels a pixel. A word holds of a pixel if its similarity passes one threshold, of all words alike: the
  one with the best balanced accuracy of the trained names, where background and hypernyms have no say.

--out=DIR also gets questions.json, rejection.csv and rejection.svg.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import clothing_metrics, clothing_plot
from benchmarks.clothing_metrics import Curve, ratio
from benchmarks.clothing_words import HYPERNYMS, PAIRS, SYNONYMS, WORDS, Word
from lseg_jax.inference import WindowScores, views
from lseg_jax.lseg import LOGIT_SCALE
from lseg_jax.model import LSeg, load
from vlseg import cli, files, progress
from vlseg.data.examples import Example
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError
from vlseg.evaluation.tiles import TILE

BACKGROUND = "background"
BINS = 400
SIMILARITY_EDGES = np.linspace(-1.0, 1.0, BINS + 1)
MARGIN_EDGES = np.linspace(0.0, 1.0, BINS + 1)
Counts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is asked of every pixel. Similarities are of `names`, then of `words`.

    Attributes:
        names: trained, one of them "background". words: of `clothing_words`. pairs: a name and one of the words each.
    """

    names: tuple[str, ...]
    words: tuple[Word, ...] = WORDS
    pairs: tuple[tuple[str, str], ...] = PAIRS

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.names, *(word.text for word in self.words))

    @property
    def members(self) -> np.ndarray:
        """bool [words, names]: whether a word stands for a name."""
        return np.array([[name in word.names for name in self.names] for word in self.words])

    def count(self, similarities: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        """Counts of pixels int32; pure and jittable.

        Args:
            similarities: float32 [P, names + words]. label: int32 [P], places in `names`, others where none counts.

        Returns:
            words: [3, words], pixels that are given the word in place of its names, that have one of these, and both.
            names: the same of the names themselves, joined. background: [3] of the word "background".
            best, margin: [2, BINS] by score among the names without "background": of background, and of the rest.
            own, other: [names, BINS] by a name's similarity, of its pixels and of all others.
            both: [pairs, BINS] of a name's pixels, by the smaller of its and the hypernym's similarity.
            hypernym: [3, pairs, BINS] by the hypernym's similarity: of the name's pixels, of all its names', of others.
        """
        count = len(self.names)
        members, background = jnp.asarray(self.members), self.names.index(BACKGROUND)
        counted = (label >= 0) & (label < count)
        label = jnp.where(counted, label, 0)
        trained, asked = similarities[:, :count], similarities[:, count:]
        true = members.T[label] & counted[:, None]
        others = jnp.stack([jnp.max(jnp.where(row, -jnp.inf, trained), axis=-1) for row in members], axis=-1)
        best = jnp.argmax(trained, axis=-1)

        def confusion(given: jax.Array, true: jax.Array, counted: jax.Array) -> jax.Array:
            return jnp.stack([(given & counted).sum(0), true.sum(0), (given & true).sum(0)])

        foreground = jnp.where(jnp.arange(count) == background, -jnp.inf, trained)
        first, place = jnp.max(foreground, axis=-1), jnp.argmax(foreground, axis=-1)
        second = jnp.max(jnp.where(jnp.arange(count) == place[:, None], -jnp.inf, foreground), axis=-1)
        is_background = counted & (label == background)
        parts = jnp.stack([is_background, counted & ~is_background])
        own = counted[:, None] & (label[:, None] == jnp.arange(count))
        words = [word.text for word in self.words]
        names = np.array([self.names.index(name) for name, _ in self.pairs])
        hypernyms = np.array([words.index(word) for _, word in self.pairs])
        scores, pixels = asked[:, hypernyms], own[:, names]
        covered = true[:, hypernyms]
        return {
            "words": confusion(asked > others, true, counted[:, None]),
            "names": confusion(members.T[best], true, counted[:, None]),
            "background": confusion(best == background, is_background, counted),
            "best": _histograms(first[:, None], parts.T, SIMILARITY_EDGES),
            "margin": _histograms((first - second)[:, None], parts.T, MARGIN_EDGES),
            "own": _histograms(trained, own, SIMILARITY_EDGES),
            "other": _histograms(trained, counted[:, None] & ~own, SIMILARITY_EDGES),
            "both": _histograms(jnp.minimum(scores, trained[:, names]), pixels, SIMILARITY_EDGES),
            "hypernym": jnp.stack(
                [
                    _histograms(scores, chosen, SIMILARITY_EDGES)
                    for chosen in (pixels, covered, counted[:, None] & ~covered)
                ]
            ),
        }


def _histograms(scores: jax.Array, chosen: jax.Array, edges: np.ndarray) -> jax.Array:
    """Counts int32 [C, BINS] of chosen [P, C] by the bin of scores [P, C] or [P, 1]; those beyond are at the ends."""
    low, high = float(edges[0]), float(edges[-1])
    place = jnp.floor((scores - low) * (BINS / (high - low))).astype(jnp.int32)
    place = jnp.broadcast_to(jnp.clip(place, 0, BINS - 1), chosen.shape) + BINS * jnp.arange(chosen.shape[1])
    flat = jnp.zeros(chosen.shape[1] * BINS, jnp.int32).at[place.ravel()].add(chosen.ravel().astype(jnp.int32))
    return flat.reshape(chosen.shape[1], BINS)


def count(model: LSeg, examples: Iterable[Example], questions: Questions) -> Counts:
    """The counts of `Questions.count` over photographs, int64.

    Raises:
        ConfigError: the model has a block that compares labels, so that those of several questions cannot be asked
            for together.
    """
    if model.config.block == "bottleneck":
        raise ConfigError("a model with a bottleneck block compares all labels: these questions need one without")
    embeddings, update = model.encode_text(questions.labels), jax.jit(questions.count)
    factor = views(model.inference) * LOGIT_SCALE
    total: Counts = {}
    for example in examples:
        ((scores,),) = model.scores([example.image], embeddings, [model.inference], 1)
        assert isinstance(scores, WindowScores)
        for tile, start, found in scores.chunks():
            if start:
                raise ConfigError(f"{len(questions.labels)} labels do not fit one chunk")
            label = np.full((TILE, TILE), -1, np.int32)
            part = example.label[tile.pixels]
            label[: part.shape[0], : part.shape[1]] = part
            counts = update(found.reshape(TILE**2, -1) / factor, label.ravel())
            for key, value in jax.device_get(counts).items():
                total[key] = total.get(key, np.zeros(value.shape, np.int64)) + value
    return total


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU in percent [...] of given, true and both [3, ...]; nan where there is neither."""
    given, true, both = counts.astype(np.float64)
    union = given + true - both
    return 100 * np.divide(both, union, out=np.full_like(union, np.nan), where=union > 0)


def words_table(counts: Counts, questions: Questions) -> tuple[str, dict[str, Any]]:
    """Words against the names that they stand for, and the means over synonyms and over hypernyms.

    Words without a labelled pixel, or whose names are never found, have no share.
    """
    alone, joined = iou(counts["words"]), iou(counts["names"])
    shares = np.array(
        [100 * ratio(a, b) if not math.isnan(a) else math.nan for a, b in zip(alone, joined, strict=True)]
    )
    rows: list[Sequence[Any]] = []
    for word, pixels, one, other, share in zip(questions.words, counts["words"][1], alone, joined, shares, strict=True):
        shown = (
            ", ".join(word.names) if len(word.names) < 4 else f"{', '.join(word.names[:2])}, ... ({len(word.names)})"
        )
        rows.append((word.text, shown, f"{pixels:,}", float(other), float(one), float(share)))
    summary: dict[str, Any] = {}
    for title, group in (("synonyms", SYNONYMS), ("hypernyms", HYPERNYMS)):
        places = [n for n, word in enumerate(questions.words) if word in group and not math.isnan(shares[n])]
        if not places:
            continue
        means = float(np.mean(joined[places])), float(np.mean(alone[places])), float(np.mean(shares[places]))
        summary[title] = dict(zip(("names", "words", "mean share"), means, strict=True), count=len(places))
        summary[title]["share of means"] = 100 * ratio(means[1], means[0])
        rows.append((f"**mean of {len(places)} {title}**", "", "", *means))
    header = ["word", "stands for", "pixels", "IoU of these names", "IoU of the word", "share, %"]
    text = clothing_metrics.markdown(header, rows)
    lines = [
        f"{title}: mean IoU {found['words']:.1f} of {found['names']:.1f}, which is {found['share of means']:.0f} %"
        for title, found in summary.items()
    ]
    scores = {word.text: (float(a), float(b)) for word, a, b in zip(questions.words, alone, joined, strict=True)}
    return "\n".join([text, "", *lines]), {"IoU": scores, "means": summary}


def rejection_curves(counts: Counts) -> dict[str, Curve]:
    """The curves of both thresholds, by the names of `lseg_jax.Rejection`."""
    return {
        "min_similarity": clothing_metrics.curve(counts["best"], SIMILARITY_EDGES),
        "min_margin": clothing_metrics.curve(counts["margin"], MARGIN_EDGES),
    }


def rejection_table(counts: Counts) -> str:
    """Background found as "none of these" beside background found as a word."""
    rows: list[Sequence[Any]] = []
    for title, found in rejection_curves(counts).items():
        at = found.best
        scores = (100 * found.precision[at], 100 * found.recall[at], 100 * found.f1[at], 100 * found.area)
        rows.append((f'"none of these", {title}', f"{found.thresholds[at]:.3f}", *map(float, scores)))
    given, true, both = (float(value) for value in counts["background"])
    precision, recall = ratio(both, given), ratio(both, true)
    f1 = 2 * ratio(precision * recall, precision + recall)
    rows.append(('the word "background"', "", 100 * precision, 100 * recall, 100 * f1, math.nan))
    base = rejection_curves(counts)["min_similarity"].base
    rows.append(("all pixels", "", 100 * base, 100.0, 100 * 2 * base / (1 + base), math.nan))
    header = ["background found by", "threshold of the best F1", "precision", "recall", "F1", "area under the curve"]
    return clothing_metrics.markdown(header, rows)


def rejection_csv(counts: Counts) -> str:
    """Both curves: kind, threshold, precision, recall."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "threshold", "precision", "recall"])
    for kind, found in rejection_curves(counts).items():
        for threshold, precision, recall in zip(found.thresholds, found.precision, found.recall, strict=True):
            if not math.isnan(precision):
                writer.writerow([kind, f"{threshold:.4f}", f"{precision:.6f}", f"{recall:.6f}"])
    return text.getvalue()


def threshold(counts: Counts, questions: Questions) -> float:
    """The similarity at which trained names hold or not with the best balanced accuracy, mean over names that occur."""
    kept = [n for n, name in enumerate(questions.names) if name != BACKGROUND and counts["own"][n].any()]
    # At least the lower edge of a bin: the pixels of this bin and of those above it.
    own, other = (counts[key][kept][:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64) for key in ("own", "other"))
    balanced = (own / own[:, :1] + 1 - other / other[:, :1]).mean(axis=0) / 2
    return float(SIMILARITY_EDGES[int(np.argmax(balanced))])


def pairs_table(counts: Counts, questions: Questions) -> tuple[str, dict[str, Any]]:
    """Pairs of a word and its hypernym at `threshold`."""
    at = threshold(counts, questions)
    names = [questions.names.index(name) for name, _ in questions.pairs]
    word = clothing_metrics.passing(counts["own"][names], SIMILARITY_EDGES, at)
    both = clothing_metrics.passing(counts["both"], SIMILARITY_EDGES, at)
    hypernym, covered, elsewhere = clothing_metrics.passing(counts["hypernym"], SIMILARITY_EDGES, at)
    false = clothing_metrics.passing(counts["other"][names], SIMILARITY_EDGES, at)
    columns = (word, hypernym, both, covered, elsewhere, false)
    rows: list[Sequence[Any]] = [
        (*pair, *(100 * float(column[number]) for column in columns)) for number, pair in enumerate(questions.pairs)
    ]
    means = [100 * float(np.nanmean(column)) if not np.isnan(column).all() else math.nan for column in columns]
    rows.append(("**mean**", "", *means))
    header = ["word", "hypernym", "word passes", "hypernym passes", "both pass"]
    header += ["hypernym on all that it covers", "hypernym falsely elsewhere", "word falsely elsewhere"]
    text = f"{clothing_metrics.markdown(header, rows)}\n\nThreshold of similarity: {at:.3f}"
    return text, {"threshold": at, "both": means[2], "hypernym falsely elsewhere": means[4]}


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    model, dataset = load(options.checkpoint), open_dataset(options.val)
    questions = Questions(dataset.names)
    shown = range(min(len(dataset), options.photographs or len(dataset)))
    examples = (dataset[index] for index in progress.over(shown, len(shown), "questions", "photograph"))
    counts = count(model, examples, questions)
    words, word_scores = words_table(counts, questions)
    pairs, pair_scores = pairs_table(counts, questions)
    tables = {"words": words, "rejection": rejection_table(counts), "pairs": pairs}
    for task, text in tables.items():
        if options.task in ("all", task):
            print(f"{text}\n")
    if options.out:
        curves = rejection_curves(counts)
        areas = {title: {"area": found.area, "best F1": float(found.f1[found.best])} for title, found in curves.items()}
        report = {"photographs": len(shown), "words": word_scores, "rejection": areas, "pairs": pair_scores}
        with files.output_directory(options.out) as out:
            files.atomic_write_json(out / "questions.json", report)
            files.atomic_write_text(out / "rejection.csv", rejection_csv(counts))
            lines = {title: (found.recall, found.precision) for title, found in curves.items()}
            files.atomic_write_text(out / "rejection.svg", clothing_plot.svg(lines, "recall", "precision"))


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", "clothing", "The model that is asked.")
    flags.DEFINE_string("val", None, "Labelled photographs: a folder, or clothing:ROOT:val.", required=True)
    flags.DEFINE_enum("task", "all", ["all", "words", "rejection", "pairs"], "Which table is printed.")
    flags.DEFINE_string("out", None, "Where scores, curves and plot go.")
    flags.DEFINE_integer("photographs", None, "How many photographs, if not all.", lower_bound=1)
    cli.run(main)
