"""The table of docs/ifseg_photographs.md: what image-free adaptation is worth on photographs of clothing.

python -m benchmarks.ifseg_clothing --checkpoint=runs/clothing_pretrain/model --train=clothing:ROOT:train \
    --data=clothing:ROOT:val --out=runs/ifseg_clothing

A pre-trained model is scored as it is and, for each seed, after adapting it to the words without images
(configs/ifseg_clothing.py) and after supervised training on photographs and label maps
(configs/ifseg_clothing.py:supervised), each without and with kNN averaging, whose k and rounds are chosen on the same
photographs with the first seed. Two baselines see no picture: all background, and at every relative place the word
whose boxes cover it most often in the photographs of --train. Scores are means over the words that occur in --data.
After every row it writes results.json and prints the table and the words one by one; first of all, how often the
pre-trained model names a box right.
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ifseg_jax import inference
from ifseg_jax.config import OFAConfig
from ifseg_jax.inference import Averaging
from ifseg_jax.model import IFSeg, adapted, image_size, load
from ifseg_jax.objective import Supervised
from ifseg_jax.ofa import OFA
from ifseg_jax.postprocess import GridScores, ImageScores
from ifseg_jax.pretrain.boxes import BACKGROUND, Boxes, boxes_of
from ifseg_jax.pretrain.naming import naming_accuracy
from ifseg_jax.prompt import WordEmbeddings
from ifseg_jax.settings import Adaptation
from ifseg_jax.training import supervised_batches
from vlseg import cli, files, progress, settings
from vlseg.data.examples import label_of
from vlseg.data.images import resize_image
from vlseg.data.sources import Dataset, open_dataset
from vlseg.evaluation import confusion
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.training import program

CONFIG = "configs/ifseg_clothing.py"

PLACES = 64
"""Rows and columns of the map of the prior."""

NEIGHBOURS, ROUNDS = (9, 25), (1, 3)
"""What is tried of kNN averaging."""

PLAIN = Averaging(1, 0)
"""None."""


@dataclasses.dataclass(frozen=True)
class Score:
    """In percent: mean IoU over the words that occur in labels, and the share of right pixels; IoU by word."""

    miou: float
    pixels: float
    iou: Mapping[str, float]

    @classmethod
    def of(cls, metrics: SegmentationMetrics, names: Sequence[str]) -> "Score":
        """From the metrics of all words."""
        counted = zip(names, metrics.iou, metrics.label_pixels, strict=True)
        iou = {name: 100 * value for name, value, pixels in counted if pixels}
        return cls(statistics.mean(iou.values()), 100 * metrics.aacc, iou)


def coverage(boxes: Boxes, names: int, background: int) -> np.ndarray:
    """Which words' boxes cover each of PLACES x PLACES relative places: bool [names, PLACES, PLACES].

    Background covers what no box of another word does.
    """
    middle = (np.arange(PLACES) + 0.5) / PLACES
    found = np.zeros((names, PLACES, PLACES), bool)
    for word, (left, top, right, bottom) in zip(boxes.words, boxes.corners, strict=True):
        if word != background:
            found[word] |= ((middle >= top) & (middle < bottom))[:, None] & ((middle >= left) & (middle < right))
    found[background] = ~found.any(axis=0)
    return found


def labels_of(dataset: Dataset) -> Iterator[np.ndarray]:
    """The label map of every photograph, int [H, W], -1 where it does not count."""
    for index in range(len(dataset)):
        label = label_of(dataset, index)
        yield np.where(label == dataset.ignore_label, -1, label)


def prior(dataset: Dataset) -> np.ndarray:
    """At every relative place the word that covers it in most photographs: int [PLACES, PLACES]."""
    names, background = len(dataset.names), dataset.names.index(BACKGROUND)
    total = np.zeros((names, PLACES, PLACES), int)
    for label in labels_of(dataset):
        total += coverage(boxes_of(label, names), names, background)
    return total.argmax(axis=0)


def score_map(dataset: Dataset, places: np.ndarray) -> Score:
    """Of the same map of words [h, w] for every photograph, at its size."""
    counts = confusion.zeros(len(dataset.names))
    for label in labels_of(dataset):
        rows, columns = (np.arange(side) * n // side for side, n in zip(label.shape, places.shape, strict=True))
        predicted = places[rows[:, None], columns[None]]
        counts = confusion.merge(counts, confusion.count(predicted, label, len(dataset.names)))
    return Score.of(confusion.compute(counts), dataset.names)


def supervised(model: IFSeg, names: Sequence[str], chosen: Adaptation, dataset: Dataset) -> IFSeg:
    """The model after training on photographs with their label maps."""
    words = model.embed(names)
    task = Supervised(model.config, chosen, len(names), words.prompt.shape[1])
    state, needed, frozen = task.split(jax.tree.map(jnp.copy, model.variables))
    constants = {"frozen": needed, "words": words}
    batches = supervised_batches(dataset, task)
    state = program.run_in_memory(task, state, constants, chosen.steps, batches, title="supervised")
    return adapted(model, tuple(names))({**frozen, **state["params"]})


class Seen(NamedTuple):
    """A photograph as the frozen backbone sees it, the same in all rows: features float32 [1, h, w, C], its labels."""

    features: jax.Array
    label: np.ndarray


def see(model: IFSeg, dataset: Dataset) -> list[Seen]:
    """All photographs, resized as the model resizes them; labels int [H, W], -1 where they do not count."""
    found = []
    for example in progress.over(dataset, len(dataset), "features", "photograph"):
        image = resize_image(example.image, image_size(model.config, example.image.shape, model.inference))
        features = inference.image_features(model.config, model.variables, image[None])
        found.append(Seen(features, np.where(example.label == dataset.ignore_label, -1, example.label)))
    return found


@functools.partial(jax.jit, static_argnames=("config", "ways"))
def probabilities(
    config: OFAConfig, ways: tuple[Averaging, ...], variables: Any, words: WordEmbeddings, features: jax.Array
) -> tuple[jax.Array, ...]:
    """Of the tokens of a photograph, float32 [1, h, w, M], for each way of averaging; see `inference.probabilities`."""
    model: Any = OFA(config)
    tokens = model.apply(variables, features, method=OFA.image_embeddings)
    logits = model.apply(variables, tokens, words.projected, words.prompt, words.bos, method=OFA.segment)
    return tuple(inference.averaged(inference.Prediction(logits, features, None), way) for way in ways)


def score(model: IFSeg, names: Sequence[str], seen: Sequence[Seen], ways: Sequence[Averaging]) -> list[Score]:
    """Of several ways of averaging, at the photographs' own sizes, as `evaluate` scores."""
    words, counts = model.embed(names), [confusion.zeros(len(names)) for _ in ways]
    variables = {"params": {part: model.variables["params"][part] for part in ("encoder", "decoder")}}
    for features, label in progress.over(seen, len(seen), "score", "photograph"):
        found = probabilities(model.config, tuple(ways), variables, words, features)
        for number, each in enumerate(found):
            best, _ = ImageScores(GridScores(each, [each.shape[1:3]], [label.shape]), 0).top(1)
            counts[number] = confusion.merge(counts[number], confusion.count(best[..., 0], label, len(names)))
    return [Score.of(confusion.compute(count), names) for count in counts]


def compare(
    base: IFSeg,
    train: Dataset,
    data: Dataset,
    seen: Sequence[Seen],
    seeds: int,
    modes: Sequence[str],
    results: dict[str, list[Score]],
) -> Iterator[None]:
    """Adds scores of `data`, which is `seen`, by row of the table, one for each seed; yields when there are new ones.

    kNN averaging's rows are named by what was chosen.
    """
    names = data.names
    results["all background"] = [score_map(data, np.full((1, 1), names.index(BACKGROUND)))]
    results["largest share of boxes"] = [score_map(data, prior(train))]
    results["unadapted"] = score(base, names, seen, [PLAIN])
    yield
    ways = [Averaging(k, rounds) for k in NEIGHBOURS for rounds in ROUNDS]
    for mode in modes:
        config = settings.load(CONFIG if mode == "image-free" else f"{CONFIG}:{mode}")
        for seed in range(seeds):
            given = config.adaptation.to_dict() | {"seed": seed}
            if mode == "image-free":
                model = base.adapt(names, **given)
            else:
                model = supervised(base, names, settings.read(Adaptation, given, "adaptation"), train)
            first, *others = score(model, names, seen, [PLAIN, *ways])
            if len(ways) > 1:  # of the first model: what is chosen with it is what the others get
                best = max(range(len(ways)), key=lambda number: others[number].miou)
                ways, others = [ways[best]], [others[best]]
            averaged = f"{mode}, kNN averaging with k={ways[0].k}, {ways[0].iterations} rounds"
            for row, found in ((mode, first), (averaged, others[0])):
                results.setdefault(row, []).append(found)
            yield


def table(results: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table of means, with the standard deviation over seeds."""

    def cell(values: Sequence[float]) -> str:
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    lines = ["| | mIoU | pixels |", "|---|---|---|"]
    for row, scores in results.items():
        lines.append(f"| {row} | {cell([s.miou for s in scores])} | {cell([s.pixels for s in scores])} |")
    return "\n".join(lines)


def by_word(results: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table of the first seed's IoU of each word, in the order of the last row's."""
    firsts = {row: scores[0].iou for row, scores in results.items()}
    *_, last = firsts.values()
    lines = [f"| word | {' | '.join(firsts)} |", "|---" * (len(firsts) + 1) + "|"]
    for name in sorted(last, key=lambda name: -last[name]):
        lines.append(f"| {name} | {' | '.join(f'{iou[name]:.1f}' for iou in firsts.values())} |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    modes = ("image-free", "supervised") if options.supervised else ("image-free",)
    with files.output_directory(options.out) as out:
        base, train, data = load(options.checkpoint), open_dataset(options.train), open_dataset(options.data)
        seen = see(base, data)
        boxes = (boxes_of(each.label, len(data.names)) for each in seen)
        pictures = zip((np.asarray(each.features[0]) for each in seen), boxes, strict=True)
        named = naming_accuracy(base, pictures, data.names)
        share, commonest = f"{named.right:.1%} of {named.boxes}", f"{named.commonest:.1%}"
        print(f"boxes named right: {share}, each word counting the same {named.by_word:.1%}; the commonest {commonest}")
        results: dict[str, list[Score]] = {}
        for _row in compare(base, train, data, seen, options.seeds, modes, results):
            rows = {row: [dataclasses.asdict(each) for each in scores] for row, scores in results.items()}
            files.atomic_write_json(out / "results.json", {"scores": rows, "naming": dataclasses.asdict(named)})
            print(table(results), by_word(results), sep="\n\n", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "The pre-trained model.", required=True)
    flags.DEFINE_string(
        "train", None, "Photographs with labels that supervised training and the prior see.", required=True
    )
    flags.DEFINE_string("data", None, "Photographs with labels that are scored.", required=True)
    flags.DEFINE_string("out", None, "Where results.json goes.", required=True)
    flags.DEFINE_boolean("supervised", True, "Whether supervised training is measured, too, which takes longest.")
    flags.DEFINE_integer("seeds", 3, "Seeds of adaptation.", lower_bound=1)
    cli.run(main)
