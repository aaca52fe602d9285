"""Words held out of training: five folds on the clothing data set, like PASCAL-5i's.

python -m benchmarks.clothing_folds --train=FOLDER --val=FOLDER --encoder=efficientnet-lite0.pth --out=runs/folds

Of every fold a head is trained on cached features (`benchmarks.clothing_training`) whose pixels of the fold's words are
labelled "others". Its scores stand next to those of the same words by a head that was trained with them. Two tables:

- all names: the names that stay and "others" are trained together, and all 59 names are asked for. The head that was
  trained with all of them is "words" of `benchmarks.clothing_heads`.
- pairs, the protocol of the paper's zero-shot experiments: a window is trained as one word that it shows against
  "others", and a held-out word is asked for against "others", in the photographs that show it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import clothing_features, clothing_heads, clothing_metrics, clothing_training
from benchmarks.clothing_features import Features
from benchmarks.clothing_training import Fit
from lseg_jax.batches import OTHERS
from lseg_jax.settings import Training
from vlseg import cli, files
from vlseg.data.examples import IGNORE_LABEL
from vlseg.evaluation import foreground
from vlseg.evaluation.foreground import ForegroundMetrics

WORDS = (
    *("bag", "belt", "blazer", "blouse", "coat"),
    *("dress", "hair", "hat", "jacket", "jeans"),
    *("pants", "purse", "sandals", "scarf", "shirt"),
    *("shoes", "shorts", "skin", "skirt", "stockings"),
    *("suit", "sunglasses", "sweater", "t-shirt", "top"),
)
"""The names that at least 9 photographs of val show, with at least 0.05 % of its pixels: enough to be scored. Neither
"background", nor "accessories", which is no kind of thing. By the alphabet, as PASCAL-5i has its classes."""

BACKGROUND = "background"

FOLDS = tuple(WORDS[start : start + 5] for start in range(0, len(WORDS), 5))


class Result(NamedTuple):
    """Scores of the words of a fold.

    episodes: over pairs of a word and a photograph that shows it, as PASCAL-5i counts. everywhere: IoU of each word
    over all photographs, in [0, 1]. told_apart: where only the five words are asked for, the share of a word's pixels
    that are given it, mean over words; a fifth by chance.
    """

    episodes: ForegroundMetrics
    everywhere: tuple[float, ...]
    told_apart: float


def held_out(fold: Sequence[str], data: Features, settings: Training) -> Fit:
    """The training without the words of a fold."""
    kept = [name for name in data.names if name not in fold]
    names = (*kept, OTHERS)
    classes = tuple(names.index(OTHERS if name in fold else name) for name in data.names)
    return Fit("words", names, clothing_features.embeddings(names), classes, settings)


def result(predicted: np.ndarray, among: np.ndarray, data: Features, fold: Sequence[str]) -> Result:
    """Scores of predictions uint8 [N, h, w]: places in the names of the data set or beyond; of `among`, in the fold."""
    asked = [data.names.index(name) for name in fold]
    episodes = [(n, c) for n, label in enumerate(data.labels) for c in asked if (label == c).any()]
    photographs, shown = (np.array(column, np.int32) for column in zip(*episodes, strict=True))
    counts = foreground.zeros(len(data.names))
    counts = _counted(counts, predicted[photographs] == shown[:, None, None], data.labels[photographs], shown)
    everywhere = clothing_heads.metrics(predicted, data).iou
    right = [np.mean(among[data.labels == class_id] == place) for place, class_id in enumerate(asked)]
    scores = foreground.compute(counts, asked)
    return Result(scores, tuple(everywhere[class_id] for class_id in asked), float(np.mean(right)))


def _counted(counts: Any, predicted: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> Any:
    """The counts with K episodes: predictions bool and labels uint8 [K, h, w], and the class of each, int32 [K]."""
    masks = np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels == ids[:, None, None])
    return foreground.update(counts, jnp.asarray(predicted), jnp.asarray(masks), jnp.asarray(ids))


def in_pairs(fold: Sequence[str], data: Features, settings: Training) -> Fit:
    """The training of one word against "others" at a time, without the words of a fold."""
    chosen = held_out(fold, data, settings)
    # Pixels that are called nothing are no word that a window could be asked for.
    others = chosen.names.index(OTHERS)
    classes = tuple(others if chosen.names[place] == BACKGROUND else place for place in chosen.classes)
    return dataclasses.replace(chosen, classes=classes, against=others)


def score_pairs(chosen: Fit, variables: Any, val: Features, fold: Sequence[str]) -> ForegroundMetrics:
    """Scores of each word against "others", over the photographs that show it."""
    asked = [clothing_features.embeddings((OTHERS, word)) for word in fold]
    ids = [val.names.index(word) for word in fold]
    counts = foreground.zeros(len(val.names))
    for class_id, found in zip(ids, clothing_training.predictions(chosen, variables, val, asked), strict=True):
        shown = np.flatnonzero((val.labels == class_id).any(axis=(1, 2)))
        counts = _counted(counts, found[shown] == 1, val.labels[shown], np.full(len(shown), class_id, np.int32))
    return foreground.compute(counts, ids)


def measure_pairs(settings: Training, train: Features, val: Features) -> dict[str, list[ForegroundMetrics]]:
    """Scores of every fold in pairs, "held out" and "trained"."""
    seed = settings.seed
    whole = in_pairs((), train, settings)
    every = clothing_training.trained(whole, train, f"pairs, all words, seed {seed}")
    found: dict[str, list[ForegroundMetrics]] = {"held out": [], "trained": []}
    for number, fold in enumerate(FOLDS):
        chosen = in_pairs(fold, train, settings)
        variables = clothing_training.trained(chosen, train, f"pairs, fold {number}, seed {seed}")
        found["held out"].append(score_pairs(chosen, variables, val, fold))
        found["trained"].append(score_pairs(whole, every, val, fold))
        print(f"seed {seed}, fold {number}, pairs: {found['held out'][-1].summary()}", flush=True)
    return found


def pairs_table(seeds: Sequence[dict[str, list[ForegroundMetrics]]]) -> str:
    """As Markdown: folds, and their mean."""
    lines: list[list[Any]] = []
    for number, fold in enumerate((*FOLDS, None)):
        cells = []
        for title in ("held out", "trained"):
            parts = [found[title] if fold is None else [found[title][number]] for found in seeds]
            for name in ("miou", "fb_iou"):
                values = [100 * float(np.mean([getattr(scores, name) for scores in part])) for part in parts]
                cells.append(clothing_metrics.spread(values))
        lines.append(["mean" if fold is None else f"{number}: {', '.join(fold)}", *cells])
    titles = [f"{title}: {name}" for title in ("held out", "trained") for name in ("mIoU", "FB-IoU")]
    return clothing_metrics.markdown(["fold, against others", *titles], lines)


def measure(settings: Training, train: Features, val: Features) -> dict[str, list[Result]]:
    """Results of every fold, by "held out", "others" (the same with this word asked for as well) and "trained"."""
    seed = settings.seed
    whole = clothing_heads.fit("words", train, settings)
    every = clothing_training.trained(whole, train, f"all words, seed {seed}")
    (trained,) = clothing_training.predictions(whole, every, val, [whole.words])
    with_others = np.concatenate([whole.words, clothing_features.embeddings([OTHERS])])
    found: dict[str, list[Result]] = {"held out": [], "others": [], "trained": []}
    for number, fold in enumerate(FOLDS):
        chosen, words = held_out(fold, train, settings), clothing_features.embeddings(fold)
        variables = clothing_training.trained(chosen, train, f"fold {number}, seed {seed}")
        asked, beside, among = clothing_training.predictions(chosen, variables, val, [whole.words, with_others, words])
        (known,) = clothing_training.predictions(whole, every, val, [words])
        for title, predicted, five in (
            ("held out", asked, among),
            ("others", beside, among),
            ("trained", trained, known),
        ):
            found[title].append(result(predicted, five, val, fold))
        print(f"seed {seed}, fold {number}: {found['held out'][-1].episodes.summary()}", flush=True)
    return found


def table(seeds: Sequence[dict[str, list[Result]]]) -> str:
    """As Markdown: folds, and their mean."""

    def scores(title: str, fold: int | None) -> list[tuple[float, ...]]:
        folds = range(len(FOLDS)) if fold is None else [fold]
        rows = []
        for found in seeds:
            results = [found[title][number] for number in folds]
            values = [(r.episodes.miou, r.episodes.fb_iou, float(np.mean(r.everywhere)), r.told_apart) for r in results]
            rows.append(tuple(100 * float(np.mean(column)) for column in zip(*values, strict=True)))
        return rows

    lines: list[list[Any]] = []
    for fold in (*range(len(FOLDS)), None):
        cells = [
            clothing_metrics.spread(column)
            for title in ("held out", "trained")
            for column in zip(*scores(title, fold), strict=True)
        ]
        beside = clothing_metrics.spread([values[2] for values in scores("others", fold)])
        lines.append(["mean" if fold is None else f"{fold}: {', '.join(FOLDS[fold])}", *cells[:3], beside, *cells[3:]])
    scored = ["mIoU", "FB-IoU", "mIoU, all photographs", "the five told apart"]
    header = ["fold", *(f"held out: {name}" for name in scored)]
    header.insert(4, 'the last with "others" asked for too')
    return clothing_metrics.markdown([*header, *(f"trained: {name}" for name in scored)], lines)


def _report(scores: Result, fold: Sequence[str]) -> dict[str, Any]:
    everywhere = dict(zip(fold, scores.everywhere, strict=True))
    return {
        "episodes": scores.episodes.to_dict(fold),
        "all photographs": {"IoU": everywhere},
        "told apart": scores.told_apart,
    }


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    train, val = clothing_features.opened(options)
    chosen = [clothing_training.settings_of(options, seed) for seed in range(options.seeds)]
    report: dict[str, Any] = {"training": dataclasses.asdict(chosen[0])}
    if options.task in ("all", "names"):
        found = [measure(settings, train, val) for settings in chosen]
        print(table(found))
        report["seeds"] = [
            {title: list(map(_report, results, FOLDS)) for title, results in seed.items()} for seed in found
        ]
    if options.task in ("all", "pairs"):
        pairs = [measure_pairs(settings, train, val) for settings in chosen]
        print(pairs_table(pairs))
        report["pairs"] = [
            {
                title: [scores.to_dict(fold) for scores, fold in zip(results, FOLDS, strict=True)]
                for title, results in seed.items()
            }
            for seed in pairs
        ]
    if options.out:
        with files.output_directory(options.out) as out:
            files.atomic_write_json(out / "folds.json", report)


if __name__ == "__main__":
    clothing_features.define_flags()
    flags.DEFINE_enum("task", "all", ["all", "names", "pairs"], "Which table is made.")
    cli.run(main)
