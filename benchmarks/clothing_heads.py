"""Fixed labels: LSeg against plain classifiers of the same network, on the clothing data set.

python -m benchmarks.clothing_heads --train=FOLDER --val=FOLDER --encoder=efficientnet-lite0.pth --out=runs/heads

The encoder is frozen and its features are computed once. Decoder, data, loss and optimizer are the same for every head;
the heads are those of `benchmarks.clothing_training.HEADS`. The learning rate was chosen among --rates for seed 0 of
"words" and of "linear". mIoU in percent over the words that occur, at half of a view's resolution; mean and standard
deviation over seeds.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks import clothing_features, clothing_metrics, clothing_training
from benchmarks.clothing_features import Features
from benchmarks.clothing_training import HEADS, Fit
from lseg_jax.settings import Training
from vlseg import cli, files
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import SegmentationMetrics

TITLES = {
    "words": "LSeg: embeddings of the words",
    "learned": "classifier with learned embeddings, LSeg's lengths and temperature",
    "linear": "plain linear classifier",
}


TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"margin": 0.3},
    {"label_smoothing": 0.05},
    {"class_balance": 0.0},
    {"class_share": 0.0},
    {"margin": 0.3, "label_smoothing": 0.05, "class_balance": 0.3},
)
"""Changes to `clothing_training.SETTINGS`; the last is what configs/lseg_clothing.py has."""


def fit(kind: str, data: Features, settings: Training) -> Fit:
    """The training of a head on all words of a data set."""
    words = clothing_features.embeddings(data.names)
    return Fit(kind, data.names, words, tuple(range(len(data.names))), settings)


def metrics(predicted: np.ndarray, data: Features) -> SegmentationMetrics:
    """Scores of predictions uint8 [N, h, w] of a data set's labels."""
    counted = np.where(data.labels < len(data.names), data.labels.astype(np.int32), -1)
    return confusion.compute(confusion.count(predicted.astype(np.int32), counted, len(data.names)))


def score(kind: str, settings: Training, train: Features, val: Features) -> SegmentationMetrics:
    """Scores on `val` of a head that is trained on `train`."""
    chosen = fit(kind, train, settings)
    variables = clothing_training.trained(chosen, train, f"{kind}, seed {settings.seed}")
    asked = [chosen.words if kind == "words" else None]
    return metrics(clothing_training.predictions(chosen, variables, val, asked)[0], val)


def present(scores: SegmentationMetrics) -> float:
    """mIoU in percent over the classes that occur in the labels."""
    pairs = zip(scores.iou, scores.label_pixels, strict=True)
    return 100 * float(np.mean([iou for iou, pixels in pairs if pixels and not math.isnan(iou)]))


def table(results: dict[str, list[SegmentationMetrics]]) -> str:
    """As Markdown, each head beside the first."""
    rows = []
    reference = [present(scores) for scores in results[HEADS[0]]]
    for kind, found in results.items():
        miou, pixels = [present(scores) for scores in found], [100 * scores.aacc for scores in found]
        gaps = [value - first for value, first in zip(miou, reference, strict=True)]
        shown = "" if kind == HEADS[0] else clothing_metrics.spread(gaps)
        rows.append((TITLES[kind], clothing_metrics.spread(miou), shown, clothing_metrics.spread(pixels)))
    return clothing_metrics.markdown(["head", "mIoU", "more than LSeg, seed by seed", "pixels right"], rows)


def tuned(rates: Sequence[float], base: Training, train: Features, val: Features) -> str:
    """A table of mIoU for learning rates."""
    rows = []
    for rate in rates:
        settings = dataclasses.replace(base, learning_rate=rate)
        rows.append((f"{rate:g}", *(present(score(kind, settings, train, val)) for kind in ("words", "linear"))))
        print(*rows[-1], flush=True)
    return clothing_metrics.markdown(["learning rate", "words", "linear"], rows)


def trials(base: Training, train: Features, val: Features) -> str:
    """A table of scores with one setting of the training changed."""
    rows: list[Sequence[Any]] = []
    for change in TRIALS:
        settings = dataclasses.replace(base, **change)
        scores = score("words", settings, train, val)
        title = ", ".join(f"{name} {value}" for name, value in change.items()) or "as in the other tables"
        rows.append((title, present(scores), 100 * scores.aacc))
        print(f"{title}: {rows[-1][1]:.1f}", flush=True)
    return clothing_metrics.markdown(["setting", "mIoU", "pixels right"], rows)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    train, val = clothing_features.opened(options)
    if options.rates:
        base = clothing_training.settings_of(options, 0)
        print(tuned([float(rate) for rate in options.rates], base, train, val))
        return
    if options.trials:
        print(trials(clothing_training.settings_of(options, 0), train, val))
        return
    results: dict[str, list[SegmentationMetrics]] = {}
    for seed in range(options.seeds):
        settings = clothing_training.settings_of(options, seed)
        for kind in HEADS:
            results.setdefault(kind, []).append(score(kind, settings, train, val))
            print(f"seed {seed}, {kind}: {present(results[kind][-1]):.1f}", flush=True)
    print(table(results))
    if options.out:
        report: dict[str, Any] = {
            kind: [scores.to_dict(val.names) | {"mIoU of words that occur": present(scores) / 100} for scores in found]
            for kind, found in results.items()
        }
        with files.output_directory(options.out) as out:
            files.atomic_write_json(out / "heads.json", {"training": dataclasses.asdict(settings), "scores": report})


if __name__ == "__main__":
    clothing_features.define_flags()
    flags.DEFINE_list("rates", [], "Learning rates to compare instead, for seed 0.")
    flags.DEFINE_bool("trials", False, "Compare settings of LSeg's training instead, for seed 0.")
    cli.run(main)
