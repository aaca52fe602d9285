"""Scores a model on labelled images.

FOLDER holds images/, labels/ (PNG) and names.txt. --data=ade20k:/data/ade20k reads a data set of the catalog in its
official layout (`python -m vlseg.data.list`), --data=tiny_world held-out scenes of the tiny world.
Every image is scored at its original size. Prints mIoU, mAcc, aAcc and IoU per class; writes metrics.json and, by
class, metrics.csv. --labels are the words that the model is asked for: the names of the classes and others, which count
as wrong answers, or as many other words for the classes, in their order; or --labels="trousers=pants", which asks for
the data set's class trousers by the word pants, and for the others by their names. --score_labels names the classes
that are scored; pixels of the others do not count. --config names a data set with its words and what counts as its
background. --report writes a confusion matrix, the scores of every picture and the ten worst ones, see
`vlseg.commands.report`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from vlseg import cli, distributed, files, settings, storage
from vlseg.commands import models, report
from vlseg.commands.pictures import SKIPPED, define_skip, exit_code
from vlseg.data.evidence import doubts
from vlseg.data.sources import READING, Dataset, define_flags, given, open_dataset, open_given
from vlseg.errors import ConfigError
from vlseg.evaluation.confusion import SegmentationMetrics
from vlseg.evaluation.report import Report
from vlseg.evaluation.scoring import Candidates, Vocabulary, choose, score
from vlseg.labels import names_from
from vlseg.packages import Package
from vlseg.segmenter import Variant

SETTINGS = ("data", "split", "words", "background", "threshold")
"""Of a configuration."""

REPLACED = ("data", "split", "labels", *(flag for flag in READING if flag != "label_orientation"))
"""Flags in whose place a configuration speaks."""

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def open_data(options: Any) -> tuple[Dataset, Vocabulary | None]:
    """The data set that the flags name, and the words of --config if that is given.

    Raises:
        ConfigError: flags or settings that do not go together, or words that do not fit the data set.
        DatasetError: the folder is not the data set, or not all of it.
    """
    if options.config is None:
        if options.root is not None:
            raise ConfigError("--root goes with --config; without that, give --data=NAME:ROOT")
        if options.data is None:
            raise ConfigError("--data is required (--help lists the flags)")
        return open_given(options), None
    useless = given(options, *REPLACED)
    if useless:
        raise ConfigError(f"--config names data set and words: leave --{', --'.join(useless)} out")
    if options.root is None:
        raise ConfigError("--config needs --root, the folder that its data set was unpacked into")
    strange = sorted(set(options.config) - set(SETTINGS))
    if strange:
        raise ConfigError(
            f"config.{strange[0]} has no effect on evaluation, whose settings are {', '.join(SETTINGS)}: leave it out, "
            "or give a file such as configs/open_vocabulary.py"
        )
    _, given_flags = settings.given("config")
    vocabulary = Vocabulary.from_config(options.config)
    if "threshold" in given_flags and vocabulary.background != "threshold":
        raise ConfigError(
            f"--config.threshold has no effect with config.background={vocabulary.background}: leave it out, or give "
            "--config.background=threshold"
        )
    missing = [name for name in ("data", "split") if name not in options.config]
    if missing:
        raise ConfigError(f"--config lacks {', '.join(missing)}: give a file such as configs/open_vocabulary.py")
    reading = given(options, "label_orientation")
    dataset = open_dataset(f"{options.config.data}:{options.root}", split=options.config.split, **reading)
    vocabulary.check(dataset.names)
    return dataset, vocabulary


def write(
    out: Path,
    candidates: Candidates,
    variants: Sequence[Variant],
    results: Sequence[SegmentationMetrics],
    extra: dict[str, Any],
) -> None:
    """Writes metrics.json, and a table by class for each of several settings and, as metrics.csv, the model's own.

    metrics.json has as "replaced", if there are any, the names in whose places other words stood: name -> word.
    """
    names = candidates.names
    content: dict[str, Any] = {
        **extra,
        "labels": candidates.words,
        **({"replaced": dict(candidates.replaced)} if candidates.replaced else {}),
        "inference": dataclasses.asdict(variants[-1].settings),
    }
    content |= results[-1].to_dict(names)
    files.atomic_write_text(out / "metrics.csv", results[-1].to_csv(names))
    if len(variants) > 1:
        for variant, metrics in zip(variants, results, strict=True):
            content[variant.key] = metrics.to_dict(names)
            files.atomic_write_text(out / f"{variant.key}.csv", metrics.to_csv(names))
    files.atomic_write_json(out / "metrics.json", content)
    print(f"wrote {out / 'metrics.json'} and {out / 'metrics.csv'}")


def main(package: Package, _: list[str]) -> int:
    """The command; its exit code."""
    options = flags.FLAGS
    distributed.initialize()
    storage.check_folder(options.out)
    if options.report:
        if options.out is None:
            raise ConfigError("--report has no effect without --out, the folder that it is written into: give that")
        report.check(options.out)
    dataset, vocabulary = open_data(options)
    asked: dict[str, Any] = {"vocabulary": vocabulary}
    asked |= {
        name: names_from(text, pairs=True) for name in ("labels", "score_labels") if (text := options[name].value)
    }
    candidates = choose(dataset.names, **asked)
    seen = Report(len(candidates.scored)) if options.report else None
    model = package.flags.applied(models.load(package, options), options)
    variants = model.variants()
    writes = options.out and distributed.is_main()
    with files.output_directory(options.out) if writes else contextlib.nullcontext() as out:
        damaged: list[str] = []
        passed = damaged if options.skip_damaged else None
        results = score(model, dataset, variants, **asked, batch_size=options.batch_size, damaged=passed, report=seen)
        findings = seen.of_all() if seen else None
        if not distributed.is_main():
            return SKIPPED if damaged else 0
        if candidates.explanation:
            print(candidates.explanation)
        for variant, metrics in zip(variants, results, strict=True):
            print("\n".join(filter(None, [variant.title, metrics.table(candidates.names)])))
        for doubt in doubts(dataset, candidates.names, results[-1].label_pixels):
            print(f"note: {doubt}")
        if out:
            extra: dict[str, Any] = {"vocabulary": dataclasses.asdict(vocabulary)} if vocabulary else {}
            extra |= {"damaged": damaged} if damaged else {}
            write(out, candidates, variants, results, {"images": len(dataset) - len(damaged), **extra})
            if findings:
                report.write(out, findings, candidates, dataset)
    return exit_code(damaged)


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "evaluate")
    config_flags.DEFINE_config_file(
        "config", None, "A file such as configs/open_vocabulary.py:voc21, which names data set and words."
    )
    flags.DEFINE_string("root", None, "The folder that the data set of --config was unpacked into.")
    define_flags(required=False)
    flags.DEFINE_string("out", None, "Where metrics.json and the tables go.")
    flags.DEFINE_string(
        "labels",
        None,
        "What is asked for, with commas or in a file; default: the names of the classes. NAME=WORD asks for a class of "
        "the data set by another word.",
    )
    flags.DEFINE_string("score_labels", None, "Classes that are scored, with commas or in a file; default: all.")
    flags.DEFINE_integer("batch_size", 1, "Images, or windows of an image, of a forward pass.", lower_bound=1)
    help_string = "Also write a confusion matrix, the scores of every picture, and pictures of the worst, into --out."
    flags.DEFINE_bool("report", False, help_string)
    define_skip("picture or label")
    distributed.define_flags()
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
