"""Scores a model on labelled images.

python -m lseg_jax.evaluate --checkpoint=MODEL --data=FOLDER --out=DIR
python -m lseg_jax.evaluate --checkpoint=MODEL --data=FOLDER --multi_scale     # the authors' six scales and flips
python -m lseg_jax.evaluate --checkpoint=MODEL --config=configs/open_vocabulary.py:voc21 --root=ROOT

FOLDER holds images/, labels/ (PNG) and names.txt. --data=ade20k:/data/ade20k reads a data set of the catalog in its
official layout (`python -m vlseg.data.list`), --data=tiny_world held-out scenes of the tiny world.
Every image is scored at its original size. Prints mIoU, mAcc, aAcc and IoU per class; writes metrics.json and, by
class, metrics.csv. --labels gives other words for the classes, in their order; --config names a data set with its
words and what counts as its background.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from lseg_jax import inference, model_flags
from lseg_jax.model import LSeg
from vlseg import cli, distributed, files
from vlseg.data.folder import names_from
from vlseg.data.sources import Dataset
from vlseg.errors import ConfigError
from vlseg.evaluation import confusion
from vlseg.evaluation import flags as evaluation_flags
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.open_vocabulary import Vocabulary
from vlseg.evaluation.sliding_window import OFFICIAL_SCALES


def evaluate(
    model: LSeg,
    dataset: Dataset,
    labels: Sequence[str] | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    batch_size: int = 1,
) -> SegmentationMetrics:
    """Metrics over a data set. Several processes share the images and get the same metrics.

    Args:
        model: to be scored; its `inference` says through which windows.
        dataset: see `vlseg.data.sources`; streamed.
        labels: words for the data set's classes, in their order; by default its names.
        vocabulary: in their place, words for the classes and a background.
        batch_size: windows in a forward pass.

    Raises:
        ConfigError: as many labels as the data set has classes are needed.
    """
    names = tuple(labels or dataset.names)
    if len(names) != len(dataset.names):
        raise ConfigError(f"{len(names)} labels do not fit the data set's {len(dataset.names)} classes")
    vocabulary = vocabulary or Vocabulary(tuple((name,) for name in names))
    embeddings = model.encode_text(vocabulary.asked)
    counts = confusion.zeros(len(names))
    bar = tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not distributed.shows_progress())
    for example in distributed.own_share(dataset):
        found = _class_map(model, example.image, embeddings, vocabulary, batch_size)
        counts = confusion.update(counts, found, jnp.asarray(example.label), dataset.ignore_label)
        bar.update(jax.process_count())
    bar.close()
    return confusion.compute(distributed.merged(counts, confusion.merge))


def _class_map(
    model: LSeg, image: np.ndarray, embeddings: jax.Array, vocabulary: Vocabulary, batch_size: int
) -> jax.Array:
    """Class ids int32 [H, W] of an image."""
    arguments = (model.config, model.inference, model.variables, image, embeddings)
    if vocabulary.background == "threshold":
        return vocabulary.class_map(*inference.most_probable(*arguments, batch_size=batch_size))
    return vocabulary.class_map(inference.rank(*arguments, batch_size=batch_size).labels[..., 0])


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    distributed.initialize()
    dataset, vocabulary = evaluation_flags.open_data(options, "labels")
    model = model_flags.load_model(options)
    if options.multi_scale:
        scheme = dataclasses.replace(model.inference, scales=OFFICIAL_SCALES, flip=True)
        model = dataclasses.replace(model, inference=scheme)
    labels = names_from(options.labels) if options.labels else dataset.names
    writes = options.out and distributed.is_main()
    with files.output_directory(options.out) if writes else contextlib.nullcontext() as out:
        metrics = evaluate(model, dataset, labels, vocabulary=vocabulary, batch_size=options.batch_size)
        if not distributed.is_main():
            return
        print(metrics.table(labels))
        if out:
            settings = dataclasses.asdict(model.inference)
            report = {"images": len(dataset), "inference": settings, **metrics.to_dict(labels)}
            if vocabulary:
                report["vocabulary"] = dataclasses.asdict(vocabulary)
            files.atomic_write_json(out / "metrics.json", report)
            files.atomic_write_text(out / "metrics.csv", metrics.to_csv(labels))
            print(f"wrote {out / 'metrics.json'} and {out / 'metrics.csv'}")


if __name__ == "__main__":
    model_flags.define()
    evaluation_flags.define()
    flags.DEFINE_string("out", None, "Where metrics.json and metrics.csv go.")
    flags.DEFINE_string("labels", None, "Words for the classes, with commas or in a file; default: their names.")
    flags.DEFINE_bool("multi_scale", False, "Six scales and mirrored windows, as in the paper.")
    flags.DEFINE_integer("batch_size", 1, "Windows in a forward pass.", lower_bound=1)
    distributed.define_flags()
    cli.run(main)
