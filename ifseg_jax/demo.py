"""IFSeg in the tiny world, start to finish: `python -m ifseg_jax.demo --out=demo`.

Adapts the bundled model to the world's words without an image, scores it on held-out scenes before and after, with and
without kNN averaging, and draws demo/scenes.png: image, label, unadapted, adapted, adapted with kNN averaging.
"""

import time
from pathlib import Path

from absl import flags

from ifseg_jax.model import IFSeg, load
from vlseg import cli, files, visualize
from vlseg.data.tiny_world import NAMES, TinyWorldDataset
from vlseg.evaluation.scoring import score

ROWS = 6


def draw(dataset: TinyWorldDataset, unadapted: IFSeg, adapted: IFSeg, path: Path) -> None:
    """Writes the picture."""
    rows = []
    for index in range(ROWS):
        example = dataset[index]
        maps = [
            example.label,
            unadapted.segment(example.image, NAMES, knn=False).label_map,
            adapted.segment(example.image, NAMES, knn=False).label_map,
            adapted.segment(example.image, NAMES).label_map,
        ]
        rows.append((example.image, maps))
    titles = ["image", "label", "unadapted", "adapted", "adapted + kNN"]
    visualize.save_image(path, visualize.comparison(rows, titles, NAMES))


def run(out: Path, steps: int, scenes: int, seed: int) -> None:
    """Adapts, scores and draws."""
    started = time.monotonic()
    model = load("tiny")
    dataset = TinyWorldDataset("test", count=scenes)
    print(f"adapting to {len(NAMES)} words without images", flush=True)
    adapted = model.adapt(NAMES, steps, seed=seed)
    report = {}
    for title, candidate in (("unadapted", model), ("image-free", adapted)):
        plain, averaged = score(candidate, dataset, candidate.variants(), labels=NAMES, batch_size=10)
        report[title] = {"mIoU": plain.miou, "mIoU_knn": averaged.miou}
        print(f"{title}: mIoU {100 * plain.miou:.1f}, with kNN averaging {100 * averaged.miou:.1f}", flush=True)
    draw(dataset, model, adapted, out / "scenes.png")
    files.atomic_write_json(out / "scores.json", {"scenes": scenes, **report})
    print(f"wrote {out / 'scenes.png'} and {out / 'scores.json'} after {time.monotonic() - started:.0f} s")


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    with files.output_directory(options.out) as out:
        run(out, options.steps, options.scenes, options.seed)


if __name__ == "__main__":
    flags.DEFINE_string("out", "demo", "Where the picture and the scores go.")
    flags.DEFINE_integer("steps", 200, "Adaptation steps; more segment better.", lower_bound=1)
    flags.DEFINE_integer("scenes", 200, "Held-out scenes to score.", lower_bound=ROWS)
    flags.DEFINE_integer("seed", 0, "Of the adaptation.")
    cli.run(main)
