"""The report of an evaluation, in the folder `report` of its output, which is replaced as a whole:

- confusion.csv: exact numbers of pixels by label (rows) and prediction (columns), in the order of the classes. Where a
  pixel may get another word than those that are scored, these are the last column.
- confusion.png: the same as shares of each row in percent, the most frequent labels first.
- pictures.csv: scores of every picture, the worst first: mIoU over the words that occur in its label or prediction, the
  share of right pixels, and how many pixels count. Empty where none does.
- worst/01.png, ...: the ten worst pictures by that mIoU: photograph, label and prediction.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlseg import files, visualize
from vlseg.data.sources import Dataset
from vlseg.errors import StorageError
from vlseg.evaluation import report_pictures
from vlseg.evaluation.report import Findings
from vlseg.evaluation.scoring import Candidates

FOLDER, MATRIX = "report", "confusion.csv"
OTHERS = "other words"
"""What the last column and its colour are called."""

HEADER = ("picture", "mIoU", "aAcc", "pixels")


def check(out: str) -> None:
    """Checks, before the work begins, that a report can be written into a folder, which may not be there yet.

    Raises:
        StorageError: something else than an earlier report is in its place.
    """
    place = Path(out) / FOLDER
    others = place.is_dir() and any(place.iterdir()) and not (place / MATRIX).is_file()
    if others or (place.exists() and not place.is_dir()):
        raise StorageError(f"{place} is no earlier report, which would be replaced: remove it, or choose another --out")


def write(out: Path, findings: Findings, candidates: Candidates, dataset: Dataset) -> None:
    """Writes the report into a folder, and prints where.

    Args:
        out: exists. findings: of the evaluation. candidates: what was scored. dataset: whose worst pictures are read
            again.

    Raises:
        StorageError: it cannot be written. ImageError, DatasetError: a picture cannot be read any more.
    """
    names = (*candidates.names, OTHERS) if candidates.has_others else candidates.names
    matrix = findings.matrix[:, : len(names)]
    with files.atomic_directory(out / FOLDER, overwrite=True) as folder:
        rows = ([name, *row] for name, row in zip(candidates.names, matrix.tolist(), strict=True))
        files.atomic_write_text(folder / MATRIX, _table([("label", *names), *rows]))
        visualize.save_image(folder / "confusion.png", report_pictures.confusion(matrix, names))
        shown = [
            (files.stored_path(one.name), *("" if math.isnan(value) else value for value in one[2:4]), one.pixels)
            for one in findings.scores
        ]
        files.atomic_write_text(folder / "pictures.csv", _table([HEADER, *shown]))
        (folder / "worst").mkdir()
        for rank, (score, prediction) in enumerate(zip(findings.scores, findings.worst, strict=False), start=1):
            example = dataset[score.place]
            label = candidates.label_map(example.label, dataset)
            title = (
                f"{files.shown_path(score.name)}: mIoU {100 * score.miou:.1f}, {100 * score.aacc:.1f} % of pixels right"
            )
            picture = report_pictures.comparison(example.image, label, prediction, names, title)
            visualize.save_image(folder / "worst" / f"{rank:02d}.png", picture)
    print(f"wrote {out / FOLDER}")


def _table(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
