"""Looks through a data set before hours are spent on it.

python -m vlseg.data.check --dataset=ade20k --root=/data/ade20k --split=val --out=runs/check
python -m vlseg.data.check --dataset=folder --root=FOLDER     # with images/, labels/ and names.txt
python -m vlseg.data.check --dataset=coco --root=annotations/instances_val2017.json:val2017   # also labelme, cvat
python -m vlseg.data.check --dataset=tfds --root=cityscapes/semantic_segmentation:/data/tfds

Says what is missing, which pictures and label files are damaged, of different sizes or hold unknown labels, and counts
the classes; --out receives check.json and a contact sheet. Exit code 2 if anything is wrong.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags
from numpy.typing import NDArray

from vlseg import cli, files, progress, storage, visualize
from vlseg.data import catalog
from vlseg.data.evidence import doubts
from vlseg.data.examples import Example
from vlseg.data.formats import tools
from vlseg.data.sources import READING, Dataset, announced, define_reading, given, names_split, open_dataset
from vlseg.data.stream import prefetched
from vlseg.errors import ConfigError, DatasetError, ImageError

SHEET = 8
"""Rows of the contact sheet."""

SHEET_SIDE = 256
FOLDER, TFDS = "folder", "tfds"
THREADS = 8


@dataclass(frozen=True)
class Findings:
    """What was found in a data set.

    Attributes:
        problems: a line for each pair that cannot be used.
        pixels: labelled pixels of each class, int64 [N].
        images: pictures that show each class, int64 [N].
        ignored: pixels that do not count.
        read: pairs that can be used.
    """

    problems: tuple[str, ...]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int
    read: int

    def table(self, names: Iterable[str]) -> str:
        """Classes with their pixels and pictures, as aligned text."""
        rows = [("class", "pixels", "pictures")]
        rows += [(name, f"{p:,}", f"{i:,}") for name, p, i in zip(names, self.pixels, self.images, strict=True)]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)

    def to_dict(self, names: Iterable[str]) -> dict[str, Any]:
        """For JSON."""
        classes = zip(names, self.pixels.tolist(), self.images.tolist(), strict=True)
        return {
            "read": self.read,
            "problems": list(self.problems),
            "ignored pixels": self.ignored,
            "classes": {name: {"pixels": pixels, "pictures": images} for name, pixels, images in classes},
        }


def check(dataset: Dataset, headers_only: bool = False) -> Findings:
    """Reads every pair.

    Args:
        dataset: of `vlseg.data.sources`.
        headers_only: read of pictures no more than their headers; damaged pixels go unnoticed.

    Raises:
        ConfigError: `headers_only`, and the data set has no picture files.
    """
    label_alone = getattr(dataset, "label", None)
    if headers_only and label_alone is None:
        raise ConfigError("headers_only needs a data set of picture files: leave it out")
    count = len(dataset.names)
    pixels, images = np.zeros(count, np.int64), np.zeros(count, np.int64)
    problems: list[str] = []
    ignored = 0

    def read(index: int) -> Any:
        """The label map, or what is wrong."""
        try:
            return label_alone(index) if headers_only and label_alone else dataset[index].label
        except (DatasetError, ImageError) as error:
            return str(error)

    labels = prefetched(read, THREADS)
    for index in progress.over(range(len(dataset)), len(dataset), "check", "pair"):
        label = labels(index)
        if isinstance(label, str):
            problems.append(label)
            continue
        found = np.bincount(label[label != dataset.ignore_label], minlength=count)
        pixels += found
        images += found > 0
        ignored += int((label == dataset.ignore_label).sum())
    return Findings(tuple(problems), pixels, images, ignored, len(dataset) - len(problems))


def contact_sheet(dataset: Dataset, colours: NDArray[np.uint8] | None) -> Any:
    """A picture of examples and their labels, small, with a legend.

    Args:
        dataset: of `vlseg.data.sources`.
        colours: uint8 [N, 3] of the classes, by default those of every picture.
    """
    rows = []
    for example in usable(dataset):
        step = max(1, -(-max(example.label.shape) // SHEET_SIDE))
        rows.append((example.image[::step, ::step], [example.label[::step, ::step]]))
    return visualize.comparison(rows, ["image", "label"], dataset.names, colours, dataset.ignore_label)


def usable(dataset: Dataset) -> Iterable[Example]:
    """The first pairs that can be read, for a contact sheet; spread over the data set."""
    shown = 0
    for index in range(0, len(dataset), max(1, len(dataset) // SHEET)):
        with contextlib.suppress(DatasetError, ImageError):
            if shown < SHEET:
                yield dataset[index]
                shown += 1


def opened(options: Any) -> tuple[Dataset, str, NDArray[np.uint8] | None]:
    """The data set that the flags name, how many examples it has officially, in words, and its own colours, if any."""
    reading = given(options, *READING)
    if options.dataset in (FOLDER, TFDS, *tools.READERS):
        source = options.root if options.dataset == FOLDER else f"{options.dataset}:{options.root}"
        own = announced(open_dataset(source, **reading, **given(options, "split")))
        return own, "", None
    entry = catalog.entry(options.dataset)
    if options.split and names_split(f"{options.dataset}:{options.root}"):
        raise ConfigError(f"--root={options.root} names the split, and so does --split={options.split}: leave one out")
    split = options.split or next(iter(entry.splits))
    dataset = announced(open_dataset(f"{options.dataset}:{options.root}", split=split, **reading))
    return dataset, f"; {split} has {entry.splits[split].examples:,} officially", entry.colours


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    storage.check_folder(options.out)
    dataset, official, colours = opened(options)
    findings = check(dataset, options.headers_only)
    print(findings.table(dataset.names))
    for doubt in doubts(dataset, dataset.names, findings.pixels.tolist()):
        print(f"note: {doubt}")
    for problem in findings.problems:
        print(problem)
    print(f"{findings.read:,} of {len(dataset):,} pairs can be used{official}")
    if options.out:
        with files.output_directory(options.out) as out:
            files.atomic_write_json(out / "check.json", findings.to_dict(dataset.names))
            visualize.save_image(out / "contact_sheet.png", contact_sheet(dataset, colours))
            print(f"wrote {out / 'check.json'} and {out / 'contact_sheet.png'}")
    if findings.problems:
        raise DatasetError(
            f"{len(findings.problems)} of {len(dataset)} pairs cannot be used, see above: mend or remove them"
        )


if __name__ == "__main__":
    flags.DEFINE_enum(
        "dataset",
        None,
        [*catalog.ENTRIES, FOLDER, TFDS, *tools.READERS],
        "Which one (python -m vlseg.data.list), a folder of one's own, one that TFDS prepared, or annotations.",
        required=True,
    )
    flags.DEFINE_string(
        "root",
        None,
        "The folder into which its archives were unpacked; NAME:DATA_DIR of TFDS; ANNOTATIONS or ANNOTATIONS:PICTURES.",
        required=True,
    )
    flags.DEFINE_string("split", None, "Default: the first one, for training.")
    define_reading()
    flags.DEFINE_bool(
        "headers_only", False, "Read of pictures only the headers: much faster, but damaged pixels go unnoticed."
    )
    flags.DEFINE_string("out", None, "Where check.json and contact_sheet.png go.")
    cli.run(main)
