"""What the bundled LSeg makes of words: the tables of the README.

python -m benchmarks.lseg_tiny_world --task=words       # trained names, unseen synonyms, unseen hypernyms
python -m benchmarks.lseg_tiny_world --task=held_out    # trains without some classes and asks for them (10 minutes)
python -m benchmarks.lseg_tiny_world --task=blocks      # block x depth as in Table 4 of the paper (12 minutes)

All scores are mIoU in percent on held-out scenes of the tiny world; --out=DIR also writes them as JSON.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.scenes import Without
from lseg_jax import checkpoint, objective
from lseg_jax.batches import named_batches
from lseg_jax.config import LSegConfig
from lseg_jax.dpt import doubled
from lseg_jax.lseg import LSegNet
from lseg_jax.model import LSeg, load
from lseg_jax.settings import Training
from vlseg import cli, files, settings
from vlseg.data.tiny_world import HYPERNYMS, NAMES, SYNONYMS, TinyWorldDataset
from vlseg.evaluation import confusion
from vlseg.training import program

CONFIG = "configs/lseg_tiny.py"
EVERYTHING = range(len(NAMES))
BATCH = 20
HELD_OUT = ("water", "bricks", "apple", "car")
BLOCKS = ("none", "bottleneck", "depthwise")
DEPTHS = (1, 2, 4)
Scores = dict[str, float]


class Question(NamedTuple):
    """Words to segment into.

    words: what the model is asked for. meant: the class that each word stands for. counted: the class as which each
    class of the world counts, by default itself.
    """

    words: Sequence[str]
    meant: Sequence[int]
    counted: Sequence[int] = EVERYTHING


def ious(model: LSeg, scenes: int, questions: Sequence[Question]) -> list[np.ndarray]:
    """IoU of every class in percent for each question, float64 [18]; the pixels are encoded once for all questions."""
    asked = [(model.encode_text(q.words), jnp.asarray(q.meant), jnp.asarray(q.counted)) for q in questions]
    counts = [confusion.zeros(len(NAMES)) for _ in questions]
    examples = list(TinyWorldDataset("test", count=scenes))
    net: Any = LSegNet(model.config)

    @jax.jit
    def update(counts: Any, pixels: jax.Array, truth: jax.Array, words: jax.Array, meant: Any, counted: Any) -> Any:
        logits = doubled(net.apply(model.variables, pixels, words, method=LSegNet.cell_logits))
        return confusion.update(counts, meant[jnp.argmax(logits, axis=-1)], counted[truth])

    for start in range(0, scenes, BATCH):
        batch = examples[start : start + BATCH]
        truth = jnp.asarray(np.stack([example.label for example in batch]))
        # A scene is as large as a window, so this is what `segment` sees.
        pixels = model.encode_pixels(np.stack([example.image for example in batch]))
        for index, question in enumerate(asked):
            counts[index] = update(counts[index], pixels, truth, *question)
    return [100 * np.asarray(confusion.compute(count).iou) for count in counts]


def words(model: LSeg, scenes: int) -> Scores:
    """mIoU with trained names, synonyms and hypernyms."""
    pairs = [(index, synonym) for index, name in enumerate(NAMES) for synonym in SYNONYMS[name]]
    kinds = sorted(set(HYPERNYMS.values()))
    questions = {
        "trained names": Question(NAMES, EVERYTHING),
        "first synonym of every name": Question([SYNONYMS[name][0] for name in NAMES], EVERYTHING),
        "last synonym of every name": Question([SYNONYMS[name][-1] for name in NAMES], EVERYTHING),
        "all synonyms together": Question([word for _, word in pairs], [index for index, _ in pairs]),
        "hypernyms": Question(kinds, range(len(kinds)), [kinds.index(HYPERNYMS[name]) for name in NAMES]),
    }
    replaced = [Question([*NAMES[:index], word, *NAMES[index + 1 :]], EVERYTHING) for index, word in pairs]
    found = ious(model, scenes, [*questions.values(), *replaced])
    scores = {title: float(np.nanmean(found[place])) for place, title in enumerate(questions)}
    alone = [(index, result[index]) for (index, _), result in zip(pairs, found[len(questions) :], strict=True)]
    for (index, iou), (_, word) in zip(alone, pairs, strict=True):
        print(f"{NAMES[index]} {found[0][index]:.1f}, as {word} {iou:.1f}")
    scores["one name replaced by a synonym, its IoU"] = _by_class(alone)
    # The class whose name is nearest to each synonym in the eyes of the text encoder alone.
    synonyms, trained = (np.asarray(model.encode_text(texts)) for texts in ([word for _, word in pairs], NAMES))
    related = np.argmax(synonyms @ trained.T, axis=1).tolist()
    kept = [result for result, (index, _), nearest in zip(alone, pairs, related, strict=True) if nearest == index]
    classes = sorted({index for index, _ in kept})
    scores[f"the same for the {len(kept)} of {len(pairs)} synonyms that the text encoder relates"] = _by_class(kept)
    scores["the trained names of those classes"] = float(np.mean(found[0][classes]))
    return scores


def _by_class(results: Sequence[tuple[int, float]]) -> float:
    """Mean over classes of the mean of their results."""
    classes = sorted({index for index, _ in results})
    return float(np.mean([np.mean([value for other, value in results if other == index]) for index in classes]))


def fitted(model: LSeg, chosen: Training, ignored: Sequence[int] = ()) -> LSeg:
    """The model after training on scenes; pixels of the `ignored` classes do not count."""
    dataset = Without(TinyWorldDataset("train", count=100_000), ignored)
    kept = [name for index, name in enumerate(NAMES) if index not in ignored]
    labels = objective.label_sets([model.encode_text(kept)])
    task = objective.Matching(model.config, chosen, len(dataset), *labels.valid.shape)
    state, frozen = task.split(jax.tree.map(jnp.copy, model.variables))
    batches = named_batches([dataset], chosen)
    state = program.run_in_memory(task, state, task.given(labels, frozen), chosen.total_steps(len(dataset)), batches)
    return dataclasses.replace(model, variables=objective.joined(state, frozen))


def fresh(config: LSegConfig, model: LSeg, seed: int) -> LSeg:
    """A model of this configuration with the parameters of `model`; a block starts as the identity."""
    variables = jax.jit(checkpoint.initializer(config))(jax.random.key(seed))
    merged = {collection: {**variables[collection], **model.variables[collection]} for collection in variables}
    if config.block != "none":
        # From a random start its few weights take thousands of steps.
        kernel = merged["params"]["block"]["kernel"]
        merged["params"]["block"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(1.0)
    return dataclasses.replace(model, config=config, variables=merged)


def held_out(steps: int, scenes: int, seed: int) -> Scores:
    """mean IoU over trained and over held-out classes, of a model trained from scratch without the latter."""
    chosen = _settings(steps, seed)
    config = LSegConfig.from_dict(settings.load(CONFIG).model.to_dict())
    bundled = load("tiny")
    variables = jax.jit(checkpoint.initializer(config))(jax.random.key(seed))
    ignored = [NAMES.index(name) for name in HELD_OUT]
    model = fitted(dataclasses.replace(bundled, config=config, variables=variables), chosen, ignored)
    (found,) = ious(model, scenes, [Question(NAMES, EVERYTHING)])
    seen = [iou for index, iou in enumerate(found) if index not in ignored]
    scores = {"trained classes": float(np.mean(seen)), "held-out classes": float(np.mean(found[ignored]))}
    return scores | {name: float(found[NAMES.index(name)]) for name in HELD_OUT}


def blocks(steps: int, scenes: int, seed: int) -> Scores:
    """mIoU of each block at each depth, all trained on from the bundled weights for the same number of steps."""
    chosen = _settings(steps, seed)
    bundled = load("tiny")
    scores: Scores = {}
    for block in BLOCKS:
        for depth in (0,) if block == "none" else DEPTHS:
            config = dataclasses.replace(bundled.config, block=block, block_depth=depth)
            model = fitted(fresh(config, bundled, seed), chosen)
            title = f"{block}, depth {depth}"
            scores[title] = float(ious(model, scenes, [Question(NAMES, EVERYTHING)])[0].mean())
            print(f"{title}: {scores[title]:.1f}", flush=True)
    return scores


def _settings(steps: int, seed: int) -> Training:
    shown = settings.load(CONFIG).training.to_dict()
    changed = {"steps": steps, "seed": seed, "warmup_steps": min(100, steps // 10)}
    return settings.read(Training, {**shown, **changed}, "training")


def table(scores: Scores) -> str:
    """As Markdown."""
    return "\n".join(["| | mIoU |", "|---|---|", *(f"| {title} | {score:.1f} |" for title, score in scores.items())])


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if options.task == "words":
        scores = words(load(options.checkpoint), options.scenes)
    elif options.task == "held_out":
        scores = held_out(options.steps or 600, options.scenes, options.seed)
    else:
        scores = blocks(options.steps or 60, options.scenes, options.seed)
    print(table(scores))
    if options.out:
        with files.output_directory(Path(options.out)) as out:
            report = {"task": options.task, "scenes": options.scenes, "seed": options.seed, "mIoU": scores}
            files.atomic_write_json(out / f"{options.task}.json", report)


if __name__ == "__main__":
    flags.DEFINE_enum("task", "words", ["words", "held_out", "blocks"], "What to measure.")
    flags.DEFINE_string("checkpoint", "tiny", "The model that is asked.")
    flags.DEFINE_string("out", None, "Where the scores go as JSON.")
    flags.DEFINE_integer("scenes", 500, "Held-out scenes.", lower_bound=1)
    flags.DEFINE_integer("steps", None, "Training steps.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of training.")
    cli.run(main)
