"""How well the bundled model segments the tiny world: the table of the README.

python -m benchmarks.tiny_world --out=runs/tiny_world

For each seed: the unadapted model, image-free adaptation, self-training of the latter on scenes without labels, and
supervised fine-tuning with the same settings, all scored on held-out scenes, with and without kNN averaging. Writes
results.json and prints means with the spread over seeds (the standard deviation).
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks.scenes import Without
from ifseg_jax.model import IFSeg, adapted, load
from ifseg_jax.objective import Supervised
from ifseg_jax.settings import Adaptation
from ifseg_jax.training import supervised_batches
from vlseg import cli, files, settings
from vlseg.commands.pseudo_label import PseudoLabelled
from vlseg.data.tiny_world import NAMES, TinyWorldDataset
from vlseg.evaluation import scoring
from vlseg.training import program

Scores = dict[str, float]


def self_trained(model: IFSeg, chosen: Adaptation) -> IFSeg:
    """The adapted model after fine-tuning on what it sees itself in training scenes without labels."""
    scenes = Without(TinyWorldDataset("train", count=20_000, seed=chosen.seed), range(len(NAMES)))
    return supervised(model, chosen, PseudoLabelled(model, scenes, NAMES))


def supervised(model: IFSeg, chosen: Adaptation, dataset: Any) -> IFSeg:
    """The model after supervised fine-tuning on a data set."""
    words = model.embed(NAMES)
    task = Supervised(model.config, chosen, len(NAMES), words.prompt.shape[1])
    state, needed, frozen = task.split(jax.tree.map(jnp.copy, model.variables))
    constants = {"frozen": needed, "words": words}
    state = program.run_in_memory(task, state, constants, chosen.steps, supervised_batches(dataset, task))
    return adapted(model, NAMES)({**frozen, **state["params"]})


def score(model: IFSeg, dataset: TinyWorldDataset) -> Scores:
    """mIoU in percent without ("plain") and with ("knn") averaging."""
    plain, knn = scoring.score(model, dataset, model.variants(), labels=NAMES, batch_size=10)
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
        given = settings.load("configs/tiny.py").adaptation.to_dict() | {"seed": seed}
        image_free = base.adapt(NAMES, **given)
        given = settings.load("configs/tiny.py:supervised").adaptation.to_dict() | {"seed": seed}
        chosen = settings.read(Adaptation, given, "adaptation")
        labelled = TinyWorldDataset("train", count=20_000, seed=seed)
        for mode, model in (
            ("image_free", image_free),
            ("self_training", self_trained(image_free, chosen)),
            ("supervised", supervised(base, chosen, labelled)),
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
