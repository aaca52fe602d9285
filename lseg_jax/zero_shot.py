"""Scores of the zero-shot experiments: "others" against the name of one class (Li et al. 2022, Sec. 5.1)."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax import inference
from lseg_jax.batches import OTHERS, squeezed
from lseg_jax.model import LSeg
from vlseg import distributed, progress, storage
from vlseg.data.episodes import Episode, FewShotDataset
from vlseg.data.examples import IGNORE_LABEL
from vlseg.evaluation import foreground
from vlseg.evaluation.finite import Finite
from vlseg.evaluation.foreground import ForegroundMetrics
from vlseg.training.workdir import Place

METRICS = ("mIoU", "FB-IoU")


def evaluate(
    model: LSeg, dataset: FewShotDataset, *, batch_size: int = 1, side: int | None = None
) -> ForegroundMetrics:
    """Scores over the classes that a part of a benchmark asks for. Several processes share the episodes.

    Pictures are seen whole, as squares: of the model's settings of inference only those in `SQUARED` count.

    Args:
        model: to be scored.
        dataset: the episodes; streamed.
        batch_size: images in a forward pass.
        side: of the squares, in pixels; by default that of the model's window.
    """
    side = side or model.inference.crop_size
    asked = dataset.class_ids
    pairs = jnp.stack([model.encode_text([OTHERS, dataset.names[class_id]]) for class_id in asked])
    counts = foreground.zeros(len(dataset.names))
    finite, seen = Finite(), 0
    shown = {"each": batch_size * jax.process_count(), "shown": distributed.is_main()}
    for episodes in progress.over(_batches(dataset, batch_size), len(dataset), "evaluate", "episode", **shown):
        images, masks = map(np.stack, zip(*(squeezed(image, mask, side) for image, mask, _ in episodes), strict=True))
        class_ids = np.array([episode.class_id for episode in episodes])
        chosen = pairs[np.array([asked.index(class_id) for class_id in class_ids])]
        logits = inference.logits(model.config, model.variables, jnp.asarray(images), chosen)
        finite.watch(f"episodes {seen + 1} to {seen + len(episodes)}", logits)
        seen += len(episodes)
        counts = _update(counts, logits, masks, class_ids)
    finite.check()
    return foreground.compute(distributed.merged(counts, foreground.merge), asked)


@jax.jit
def _update(counts: foreground.ForegroundCounts, logits: jax.Array, masks: jax.Array, class_ids: jax.Array) -> Any:
    return foreground.update(counts, jnp.argmax(logits, axis=-1), masks, class_ids, IGNORE_LABEL)


def _batches(dataset: FewShotDataset, size: int) -> Iterator[Sequence[Episode]]:
    episodes = distributed.own_share(dataset)
    while batch := list(itertools.islice(episodes, size)):
        yield batch


def scores(dataset: FewShotDataset, model: Any) -> dict[str, float]:
    """What `evaluate` gives, by the names in `METRICS`."""
    metrics = evaluate(model, dataset)
    return dict(zip(METRICS, (metrics.miou, metrics.fb_iou), strict=True))


def report(dataset: FewShotDataset, model: Any, out: Place | None, *, batch_size: int = 1) -> None:
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
        described = {"episodes": len(dataset), "side": model.inference.crop_size}
        storage.write_json(out / "fewshot.json", {**described, **metrics.to_dict(names)})
        print(f"wrote {out / 'fewshot.json'}")
