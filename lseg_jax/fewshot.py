"""Scores a model on PASCAL-5i, COCO-20i or FSS-1000 without an example: "others" against the name of one class.

python -m lseg_jax.fewshot --checkpoint=pascal_fold0.ckpt --benchmark=pascal5i --fold=0 --root=DIR --out=runs/fold0

DIR holds VOC2012/, COCO2014/ or FSS-1000/ as HSNet (juhongm999/hsnet) lays them out, and HSNet's data/splits as
splits/. Images are squeezed into a square, as the authors do. Prints mIoU and FB-IoU of the fold; writes fewshot.json.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from lseg_jax import inference, model_flags
from lseg_jax.batches import OTHERS, squeezed
from lseg_jax.model import LSeg
from vlseg import cli, distributed, files
from vlseg.data import fewshot as data
from vlseg.data.fewshot import Episode, FewShotDataset
from vlseg.evaluation import fewshot
from vlseg.evaluation.fewshot import FewShotMetrics
from vlseg.training.checkpoints import Place


def evaluate(model: LSeg, dataset: FewShotDataset, *, batch_size: int = 1, side: int | None = None) -> FewShotMetrics:
    """Scores over the classes that a part of a benchmark asks for. Several processes share the episodes.

    Args:
        model: to be scored.
        dataset: the episodes; streamed.
        batch_size: images in a forward pass.
        side: of the squares, in pixels; by default that of the model's window.
    """
    side = side or model.inference.crop_size
    asked = dataset.class_ids
    pairs = jnp.stack([model.encode_text([OTHERS, dataset.names[class_id]]) for class_id in asked])
    counts = fewshot.zeros(len(dataset.names))
    bar = tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not distributed.shows_progress())
    for episodes in _batches(dataset, batch_size):
        images, masks = map(np.stack, zip(*(squeezed(image, mask, side) for image, mask, _ in episodes), strict=True))
        class_ids = np.array([episode.class_id for episode in episodes])
        chosen = pairs[np.array([asked.index(class_id) for class_id in class_ids])]
        logits = inference.logits(model.config, model.variables, jnp.asarray(images), chosen)
        counts = _update(counts, logits, masks, class_ids)
        bar.update(len(episodes) * jax.process_count())
    bar.close()
    return fewshot.compute(distributed.merged(counts, fewshot.merge), asked)


@jax.jit
def _update(counts: fewshot.FewShotCounts, logits: jax.Array, masks: jax.Array, class_ids: jax.Array) -> Any:
    return fewshot.update(counts, jnp.argmax(logits, axis=-1), masks, class_ids, data.IGNORED)


def _batches(dataset: FewShotDataset, size: int) -> Iterator[Sequence[Episode]]:
    episodes = distributed.own_share(dataset)
    while batch := list(itertools.islice(episodes, size)):
        yield batch


def report(model: LSeg, dataset: FewShotDataset, out: Place | None, *, batch_size: int = 1) -> None:
    """Scores the model, prints the result, and writes it to fewshot.json in a folder, if there is one."""
    metrics = evaluate(model, dataset, batch_size=batch_size)
    if not distributed.is_main():
        return
    names = [dataset.names[class_id] for class_id in dataset.class_ids]
    width = max(map(len, names))
    for name, iou in zip(names, metrics.iou, strict=True):
        print(f"{name:<{width}}  {100 * iou:6.2f}")
    print(f"{len(dataset)} episodes of {len(names)} classes: {metrics.summary()}")
    if out:
        files.atomic_write_json(out / "fewshot.json", {"episodes": len(dataset), **metrics.to_dict(names)})
        print(f"wrote {out / 'fewshot.json'}")


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    distributed.initialize()
    dataset = data.open_benchmark(options.benchmark, options.root, options.fold)
    model = model_flags.load_model(options)
    writes = options.out and distributed.is_main()
    with files.output_directory(options.out) if writes else contextlib.nullcontext() as out:
        report(model, dataset, out, batch_size=options.batch_size)


if __name__ == "__main__":
    model_flags.define()
    flags.DEFINE_enum("benchmark", None, list(data.BENCHMARKS), "Which one.", required=True)
    flags.DEFINE_string("root", None, "The folder with the pictures, label files and splits/.", required=True)
    flags.DEFINE_integer("fold", 0, "Whose classes are asked for; FSS-1000 has none.", lower_bound=0, upper_bound=3)
    flags.DEFINE_string("out", None, "Where fewshot.json goes.")
    flags.DEFINE_integer("batch_size", 1, "Images in a forward pass.", lower_bound=1)
    distributed.define_flags()
    cli.run(main)
