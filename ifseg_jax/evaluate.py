"""Scores a model on labelled images, with and without kNN averaging.

python -m ifseg_jax.evaluate --checkpoint=MODEL --data=FOLDER --out=DIR
python -m ifseg_jax.evaluate --checkpoint=MODEL --config=configs/open_vocabulary.py:voc21 --root=ROOT

FOLDER holds images/, labels/ (PNG) and names.txt. --data=ade20k:/data/ade20k reads a data set of the catalog in its
official layout (`python -m vlseg.data.list`), --data=tiny_world held-out scenes of the tiny world.
Every image is scored at its original size. Prints mIoU, mAcc, aAcc and IoU per class; writes metrics.json and, by
class, plain.csv and knn.csv. --config names a data set with the words for its classes and what counts as background.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from tqdm import tqdm

from ifseg_jax.model import IFSeg, load
from vlseg import cli, distributed, files
from vlseg.data.sources import Dataset
from vlseg.errors import ConfigError
from vlseg.evaluation import confusion
from vlseg.evaluation import flags as evaluation_flags
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.open_vocabulary import Vocabulary


def evaluate(
    model: IFSeg,
    dataset: Dataset,
    rounds: Sequence[int] = (0,),
    *,
    categories: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
    batch_size: int = 1,
) -> list[SegmentationMetrics]:
    """Metrics over a data set for several numbers of kNN averaging rounds, with one forward pass per image.

    Several processes share the images and get the same metrics.

    Args:
        model: to be scored.
        dataset: see `vlseg.data.sources`; streamed.
        rounds: rounds of averaging, 0 for none.
        categories: the prompt's words for the data set's classes, in their order; by default its names.
        vocabulary: in their place, words for the classes and a background.
        batch_size: images per forward pass.

    Raises:
        ConfigError: as many categories as the data set has classes are needed.
    """
    names = tuple(categories or dataset.names)
    if len(names) != len(dataset.names):
        raise ConfigError(f"{len(names)} categories do not fit the data set's {len(dataset.names)} classes")
    vocabulary = vocabulary or Vocabulary(tuple((name,) for name in names))
    words = model.word_embeddings(vocabulary.asked)
    counts = [confusion.zeros(len(names)) for _ in rounds]
    bar = tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not distributed.shows_progress())
    for batch in model.batches(distributed.own_share(dataset), lambda example: example.image, batch_size):
        images = [example.image for example in batch]
        results, grids = model.grid_probabilities(images, words, rounds, batch_size)
        sizes = [image.shape[:2] for image in images]
        for number, probabilities in enumerate(results):
            class_maps = _class_maps(model, vocabulary, probabilities, grids, sizes)
            for example, predicted in zip(batch, class_maps, strict=True):
                label = jnp.asarray(example.label)
                counts[number] = confusion.update(counts[number], predicted, label, dataset.ignore_label)
        bar.update(len(batch) * jax.process_count())
    bar.close()
    return [confusion.compute(distributed.merged(count, confusion.merge)) for count in counts]


def _class_maps(
    model: IFSeg,
    vocabulary: Vocabulary,
    probabilities: jax.Array,
    grids: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """Class ids int32 [H, W] of images, from probabilities of words as for `IFSeg.label_maps`."""
    if vocabulary.background == "threshold":
        best = model.best_categories(probabilities, grids, sizes)
        return [vocabulary.class_map(jnp.asarray(words), jnp.asarray(highest)) for words, highest in best]
    return [vocabulary.class_map(jnp.asarray(words)) for words in model.label_maps(probabilities, grids, sizes)]


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    distributed.initialize()
    dataset, vocabulary = evaluation_flags.open_data(options)
    model = load(options.checkpoint, tokenizer=options.tokenizer)
    averaged = model.inference.knn_iterations
    rounds = [0, averaged] if averaged else [0]
    titles = ["without kNN averaging", f"with kNN averaging ({model.inference.knn_k} neighbours, {averaged} rounds)"]
    writes = options.out and distributed.is_main()
    with files.output_directory(options.out) if writes else contextlib.nullcontext() as out:
        results = evaluate(model, dataset, rounds, vocabulary=vocabulary, batch_size=options.batch_size)
        if not distributed.is_main():
            return
        report: dict[str, Any] = {"vocabulary": dataclasses.asdict(vocabulary)} if vocabulary else {}
        for title, key, metrics in zip(titles, ("plain", "knn"), results, strict=False):
            print(f"{title}\n{metrics.table(dataset.names)}\n")
            report[key] = metrics.to_dict(dataset.names)
            if out:
                files.atomic_write_text(out / f"{key}.csv", metrics.to_csv(dataset.names))
        if out:
            files.atomic_write_json(out / "metrics.json", {"images": len(dataset), **report})
            print(f"wrote {out / 'metrics.json'}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", "tiny", "tiny, ofa_base (or another size), a .pt or a model directory; gs://... too."
    )
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer; not needed for tiny.")
    evaluation_flags.define()
    flags.DEFINE_string("out", None, "Where metrics.json and the tables go.")
    flags.DEFINE_integer("batch_size", 1, "Images per forward pass.", lower_bound=1)
    distributed.define_flags()
    cli.run(main)
