"""How well the bundled model segments the tiny world: the table of the README.

python -m benchmarks.tiny_world --out=runs/tiny_world

For each seed: the unadapted model, image-free adaptation, self-training of the latter on scenes without labels, and
supervised fine-tuning with the same settings, all scored on held-out scenes, with and without kNN averaging. Writes
results.json and prints means with the spread over seeds (the standard deviation).
"""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from configs import tiny
from ifseg_jax import adaptation
from ifseg_jax.adaptation import Adaptation
from ifseg_jax.evaluate import evaluate
from ifseg_jax.model import IFSeg, load
from ifseg_jax.pseudo_label import PseudoLabelled
from ifseg_jax.train import supervised_batches
from vlseg import cli, files
from vlseg.data.folder import Example
from vlseg.data.tiny_world import NAMES, TinyWorldDataset

Scores = dict[str, float]


class WithoutLabels:
    """Training scenes of which no pixel is labelled."""

    names: tuple[str, ...] = ()
    ignore_label = 255

    def __init__(self, scenes: TinyWorldDataset) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Example:
        example = self._scenes[index]
        return example._replace(label=np.full_like(example.label, self.ignore_label))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def self_trained(model: IFSeg, settings: Adaptation) -> IFSeg:
    """The adapted model after fine-tuning on what it sees itself in training scenes without labels."""
    scenes = WithoutLabels(TinyWorldDataset("train", count=20_000, seed=settings.seed))
    return supervised(model, settings, PseudoLabelled(model, scenes, NAMES))


def supervised(model: IFSeg, settings: Adaptation, dataset: Any) -> IFSeg:
    """The model after supervised fine-tuning on a data set."""
    words = model.word_embeddings(NAMES)
    trained, kept = adaptation.split(model.variables, model.config)
    batches = supervised_batches(dataset, settings, settings.side(model.config))
    step = adaptation.supervised_step(model.config, settings, words, kept, batches)
    state = adaptation.initial_state(trained, settings.optimizer())
    for number in range(settings.steps):
        state, _ = step(state, number)
    return adaptation.adapted(model, NAMES, state, kept)


def score(model: IFSeg, dataset: TinyWorldDataset) -> Scores:
    """mIoU in percent without ("plain") and with ("knn") averaging."""
    plain, knn = evaluate(model, dataset, (0, model.inference.knn_iterations), categories=NAMES, batch_size=10)
    return {"plain": 100 * plain.miou, "knn": 100 * knn.miou}


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    with files.output_directory(options.out) as out:
        results = compare(load(options.checkpoint), options.scenes, options.seeds)
        files.atomic_write_json(out / "results.json", {"scenes": options.scenes, "mIoU": results})
    print(table(results))


def compare(base: IFSeg, scenes: int, seeds: int) -> dict[str, list[Scores]]:
    """Scores of the unadapted model and, for each seed, of each mode of training."""
    dataset = TinyWorldDataset("test", count=scenes)
    results = {"unadapted": [score(base, dataset)]}
    print("unadapted", results["unadapted"][0], flush=True)
    for seed in range(seeds):
        settings = Adaptation(**{**tiny.get_config().adaptation, "seed": seed})
        adapted = adaptation.adapt(base, NAMES, settings)
        labelled = TinyWorldDataset("train", count=20_000, seed=settings.seed)
        for mode, model in (
            ("image_free", adapted),
            ("self_training", self_trained(adapted, settings)),
            ("supervised", supervised(base, settings, labelled)),
        ):
            results.setdefault(mode, []).append(score(model, dataset))
            print(f"seed {seed}", mode, results[mode][-1], flush=True)
    return results


def table(results: dict[str, list[Scores]]) -> str:
    """A Markdown table of means and spreads."""
    lines = ["| model | mIoU | mIoU with kNN averaging |", "|---|---|---|"]
    for mode, scores in results.items():
        cells = []
        for key in ("plain", "knn"):
            values = [entry[key] for entry in scores]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {mode.replace('_', '-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", "tiny", "The model to adapt.")
    flags.DEFINE_string("out", None, "Where results.json goes.", required=True)
    flags.DEFINE_integer("seeds", 5, "Adaptation seeds.", lower_bound=1)
    flags.DEFINE_integer("scenes", 500, "Held-out scenes.", lower_bound=1)
    cli.run(main)
